"""The library's own captured step, ready to be timed a block of steps at a time."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.timing import Block
from guidebook.inference.fits.running import Steps
from guidebook.inference.gradient.chosen import default_optimiser
from guidebook.inference.gradient.problem import prepare
from guidebook.inference.gradient.run import advance
from guidebook.inference.gradient.step import Step
from guidebook.programs.batches.source import admitted
from guidebook.programs.graphs.compiled import compile_graph
from guidebook.programs.owned import copied, dtype_of
from guidebook.scope import local_parameters, precision, random_state


def captured_step(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    objective: Any = None,
    batch_size: int | None = None,
    steps: int = 100_000,
    compiled: bool | str = True,
    restarts: int = 1,
) -> Step:
    """What `svi` builds before its loop, by the same functions; `steps` is the most it can do.

    compiled: True, each step compiled and called from Python; False, recorded; "auto", as `svi` decides.
    """
    source = admitted(model, data, batch_size=batch_size, size=None)
    model, guide = copied(model, guide)
    dtype = dtype_of(model, guide)
    cpu = torch.device("cpu")
    with local_parameters(), precision(dtype), random_state(0):
        problem = prepare(model, guide, source, objective, cpu, dtype, 0)
        optimiser = default_optimiser(problem, steps)
        step = Step(problem, optimiser, steps, restarts, "auto" if compiled == "auto" else "graph")
        if compiled is True:  # each step called from Python
            example = [*step.inputs(), *step.tensors(problem.data)]
            step.call = compile_graph(step.graph, [t.clone() for t in example])
        return step


def captured_block(step: Step, steps: int) -> Block:
    """A block of so many steps of the loop of `svi`, batches included, each fifth one averaged.

    The loop averages the last fifth of its steps; here every block has its share of them.
    """
    done, last = 0, step.steps - 1
    plain = steps - steps // 5
    never = Steps(step.steps, 0, threading.Event(), None)

    def block() -> float:
        nonlocal done
        start = time.perf_counter()
        advance(step, done, done + plain, never)
        for _ in range(plain, steps):
            advance(step, last, last + 1, never)
        taken = time.perf_counter() - start
        done += plain
        if not bool(step.state["alive"].all()):
            raise RuntimeError("the objective is not finite: nothing moved, nothing was measured")
        return taken / steps

    return block
