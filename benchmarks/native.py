"""What does a step cost in the loop in C, against the compiled step called from Python, and NumPyro's in one
`lax.scan`?

    python -m benchmarks.native          # some minutes
"""

from benchmarks import timing

CORE = timing.one_core()  # before torch counts the cores

import statistics
import threading
import time
import warnings
from typing import Any

import pyro
import torch

import guidebook as gb
from benchmarks.captured import captured_block, captured_step
from benchmarks.numpyro_side import numpyro
from benchmarks.speed import CASES
from benchmarks.timing import Block
from guidebook.inference.fits.running import Steps
from guidebook.inference.gradient.run import advance
from guidebook.inference.gradient.step import Step
from guidebook.models.hierarchical import eight_schools

AT_ONCE = 5000


def native_block(step: Step) -> Block:
    """Blocks of steps of the loop, from the first of the course on."""
    done = 0
    never = Steps(step.steps, 0, threading.Event(), None)

    def block() -> float:
        nonlocal done
        start = time.perf_counter()
        advance(step, done, done + AT_ONCE, never)
        taken = time.perf_counter() - start
        done += AT_ONCE
        if not bool(step.state["alive"].all()):
            raise RuntimeError("the objective is not finite: nothing moved, nothing was measured")
        return taken / AT_ONCE

    return block


THEIRS = {
    "eight schools, mean-field": "mean-field",
    "the same, 16 particles": "particles",
    "the same, full-rank": "full-rank",
    "mixture of 3, enumerated": "mixture",
}
"""The cases of benchmarks/numpyro_steps.py."""


def row(name: str, given: tuple[Any, ...], rounds: int, ask: Any, restarts: int = 1) -> list[str]:
    with pyro.get_param_store().scope():
        compiled, native = (
            captured_step(*given, compiled=how, restarts=restarts) for how in (True, False)
        )
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            native._asked = "native"
            native.native = native._native_loop()
        made = time.perf_counter() - begun
        if native.native is None:
            return [name, "", "", "", "", "", str(told[-1].message).partition("(")[2][:60]]
        blocks = {"compiled": captured_block(compiled, 500), "native": native_block(native)}
        if ask and name in THEIRS:
            blocks["numpyro"] = lambda: ask(f"{THEIRS[name]} {AT_ONCE}")[0]
        seconds = timing.interleaved(blocks, rounds)
    cells = [name, f"{made:.1f} s"]
    cells += [timing.shown(statistics.median(seconds[k])) if k in seconds else "-"
              for k in ("native", "compiled", "numpyro")]  # fmt: skip
    return cells + [f"{timing.ratio(seconds, k, 'native'):.1f}" if k in seconds else "-"
                    for k in ("compiled", "numpyro")]  # fmt: skip


def main() -> None:
    given = timing.arguments(__doc__)
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n")
    data, rounds = gb.datasets.eight_schools(), 3 if given.quick else 9
    cases = {c.name: (c.model, c.guide(), c.data(), c.objective()) for c in CASES}
    for name in ("mean_field", "full_rank", "low_rank", "flow"):
        guide = getattr(gb.guides, name)(eight_schools)
        cases[f"gb.guides.{name}, 16 particles"] = (eight_schools, guide, data)
    with numpyro("numpyro_steps.py") as ask:
        rows = [row(name, case, rounds, ask) for name, case in cases.items()]
        first = CASES[0]
        case = first.model, first.guide(), first.data(), first.objective()
        rows.append(row(f"{first.name}, 16 restarts", case, rounds, None, restarts=16))
    header = ["a step", "made in", "in C", "called from Python", "NumPyro", "ratio", "to NumPyro"]
    timing.table(header, rows)


if __name__ == "__main__":
    main()
