"""Record a Pyro computation once as a graph of tensor operations.

Pyro spends its time in Python: handlers, traces, the parameter store, one optimiser object per
parameter. A tape runs the computation once and keeps only the tensor operations (`tape`). The graph is
then run by an interpreter, ready at once (`interpreted`), or compiled, ready after seconds
(`compiled`). Both draw the same random numbers as eager torch.

Three facts make recording work:
1. `module_local_params=True`: parameters belong to their modules, so torch.func can substitute them.
2. While recording `torch._C._get_tracing_state` answers true, and Pyro takes the branches it keeps
   for its JIT: no `.item()` on masks, no value-dependent warnings. What has no such branch, or cannot
   be transformed by torch.func, is replaced (`guidebook.programs.graphs.stand_ins`).
   `TraceEnum_ELBO` drops what has probability zero, and a graph of fixed shapes cannot: there the terms
   are zeroed.
3. Validation reads values, so it is off; one eager run with validation on comes first and gives the
   readable errors (`guidebook.programs.check`).
"""

from __future__ import annotations

import contextlib
import gc
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.errors import GuidebookError, ModelError, line_of_user
from guidebook.programs.graphs.stand_ins import SEEDS, Adapted, stand_ins
from guidebook.programs.graphs.tape import READS_A_VALUE, DependsOnValues, taped
from guidebook.scope import quiet, random_elsewhere, random_state, replaced, validation

DRAW_BY_TORCH = (
    "and a graph has the random numbers of torch alone. Draw with pyro.sample or torch (torch.randn), or "
    "give the numbers as data"
)
WRITES_ITS_OWN = (
    "the program writes into a tensor that it keeps from run to run (a count, or the running averages of "
    "BatchNorm in training mode: evaluation mode, track_running_stats=False or LayerNorm write none)"
)


class CannotRecord(Exception):
    """The computation depends on values (control flow, .item()); the message says where."""


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """A program runs as it is, inside torch.func too: without validation, and not told to be recorded."""
    with (
        replaced(*stand_ins()),
        quiet(),  # torch's tracer warns at every len(tensor)
        Adapted(),
        validation(False),
        pyro.settings.context(module_local_params=True),
    ):
        yield


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """As `eager`, with Pyro on its JIT branches, without `.item()`."""
    with eager(), replaced((torch._C, "_get_tracing_state", lambda: True)):
        yield


def record(function: Callable[..., Any], *example: Any) -> torch.fx.GraphModule:
    """The graph of function at arguments shaped like the example.

    Raises:
        CannotRecord: where the function reads values, or draws by NumPy or Python, with the reason.
    """
    try:
        elsewhere = random_elsewhere()
        with recording(), replaced(*SEEDS), _without_collecting():
            graph = taped(function, *example, simplify=True)
        if random_elsewhere() != elsewhere:
            raise DependsOnValues(
                "the program draws random numbers of NumPy (np.random) or of Python (random), "
                + DRAW_BY_TORCH
            )
        return graph
    except GuidebookError:  # the reference path would raise it too
        raise
    except Exception as error:
        raise CannotRecord(_cause(error)) from error


def check_repeats(value: Callable[[], Tensor]) -> None:
    """Runs what was recorded twice more, without a tape, by the same random numbers of torch.

    A generator of the program's own (np.random.default_rng) has no state that could be asked for, nor has a
    number that the program keeps from run to run: a graph holds what they were when it was recorded.

    Raises:
        CannotRecord: the values differ.
    """
    try:
        first, second = (_by_one_seed(value) for _ in range(2))
    except Exception:  # at this draw the program fails: the steps will show whether they do
        return
    rounding = torch.finfo(first.dtype).eps ** 0.5  # of sums that are taken in another order
    if not torch.allclose(first, second, rtol=rounding, atol=rounding, equal_nan=True):
        raise CannotRecord(
            f"the objective is {float(first):.6g} in one run of the program and {float(second):.6g} in the "
            "next, by the same parameters and random numbers of torch: the program draws from a generator of "
            "its own (np.random.default_rng, random.Random) or counts its runs, " + DRAW_BY_TORCH
        )


def _by_one_seed(value: Callable[[], Tensor]) -> Tensor:
    with recording(), random_state(0):
        return value().detach()


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Cycles wait: a long recording makes many objects that live, and each look through all takes longer."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def mapped(result: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The function of every tensor of a result, a dict or a tuple of tensors."""
    if isinstance(result, dict):
        return {key: function(value) for key, value in result.items()}
    return tuple(function(value) for value in result)


def joined(pieces: list[Any]) -> Any:
    """Results of one kind, each a dict or a tuple of tensors, joined along the first dimension."""
    if isinstance(pieces[0], dict):
        return {key: torch.cat([p[key] for p in pieces]) for key in pieces[0]}
    return tuple(torch.cat(column) for column in zip(*pieces, strict=True))


def spared(graph: Callable[..., Any], u: Tensor) -> Any:
    """The graph at u; rows at which a factorisation fails get NaN instead of failing all."""
    try:
        return graph(u)
    except LinAlgError:
        pass
    fine = torch.zeros(len(u), dtype=torch.bool)
    for start in range(len(u)):
        same = u[start : start + 1].expand_as(u)
        try:
            graph(same)
            fine[start] = True
        except LinAlgError:
            continue
    if not bool(fine.any()):
        raise ModelError(
            "A matrix of the model is not positive definite at any of the positions tried. Add "
            "a small number to its diagonal."
        )
    good = torch.where(fine[:, None].to(u.device), u, u[fine.nonzero()[0]])
    bad = ~fine.to(u.device)

    def spoilt(value: Tensor) -> Tensor:
        mask = bad.reshape(-1, *[1] * (value.dim() - 1))
        return torch.where(mask, torch.full_like(value, math.nan), value)

    return mapped(graph(good), spoilt)


def _cause(error: Exception) -> str:
    """Why it cannot be recorded, with the line of the user's own code that is the reason."""
    if str(error).startswith("Error while computing ") and isinstance(
        error.__cause__, DependsOnValues
    ):
        where = _before_shapes(error).splitlines()[0].removeprefix("Error while computing ")
        return f"{_before_shapes(error.__cause__)}, in the {where.rstrip(':')}"
    told, line = _before_shapes(error), line_of_user(error)
    if told.startswith("vmap:") and (".item()" in told or "control flow" in told):
        told = READS_A_VALUE
    elif "mutate a captured Tensor" in told:
        told = WRITES_ITS_OWN
    elif not isinstance(error, DependsOnValues):
        told = reason(error)
    return f"{told}: {line}" if line else told


def _before_shapes(error: BaseException) -> str:
    """The message without the table that Pyro's traces append."""
    return re.split(r"\n *Trace Shapes:", str(error))[0].strip()


def reason(error: BaseException) -> str:
    """The kind of error and the first line of its message."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
