"""Record a Pyro computation once as a graph of tensor operations.

Pyro spends its time in Python: handlers, traces, the parameter store, one optimiser object per
parameter. A tape runs the computation once and keeps only the tensor operations (`tape`). The graph is
then run by an interpreter, ready at once (`interpreted`), or compiled, ready after seconds
(`compiled`). Both draw the same random numbers as eager torch.

Three facts make recording work:
1. `module_local_params=True`: parameters belong to their modules, so torch.func can substitute them.
2. While recording `torch._C._get_tracing_state` answers true, and Pyro takes the branches it keeps
   for its JIT: no `.item()` on masks, no value-dependent warnings. `torch_item` and `warn_if_nan`
   have no such branch and are replaced; so is `safe_log`, an autograd.Function of the kind that
   torch.func cannot differentiate. `TraceEnum_ELBO` drops what has probability zero, and a graph
   of fixed shapes cannot: there the terms are zeroed (`_Zeroed`).
3. Validation reads values, so it is off; one eager run with validation on comes first and gives the
   readable errors (`guidebook.programs.check`).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pyro
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode

from guidebook.errors import GuidebookError, ModelError
from guidebook.programs.graphs.tape import taped
from guidebook.scope import quiet, replaced, validation


class CannotRecord(Exception):
    """The computation depends on values (control flow, .item()); the message says where."""


class _SafeLog(torch.autograd.Function):
    """log x with the gradient 1 / max(x, eps), as `pyro.ops.special.safe_log`, for torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] / x.clamp(min=torch.finfo(x.dtype).eps)


class _Zeroed(TorchFunctionMode):
    """masked_select without dropping: zeros where the mask is false, the same sum afterwards."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.masked_select:
            value, mask = args
            return torch.where(mask, value, torch.zeros((), dtype=value.dtype, device=value.device))
        return func(*args, **(kwargs or {}))


class _Detached(TorchFunctionMode):
    """value.data as value.detach(): Pyro's enumeration reads shapes from it, which vmap refuses."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def _expectation(dice: Dice, costs: Any) -> Tensor:
    with _Zeroed():
        return _compute_expectation(dice, costs)


_compute_expectation = Dice.compute_expectation


def _standard_normal(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch's own, which on its JIT branch fills two tensors to draw from; the same numbers."""
    return torch.randn(shape, dtype=dtype, device=device)


_STAND_INS: dict[str, Callable[..., Any]] = {
    # detached, as .item() is: Trace_ELBO takes the score-function term from such a difference
    "torch_item": lambda x: x.detach() if isinstance(x, Tensor) else x,
    "warn_if_nan": lambda value, *a, **k: value,
    "safe_log": _SafeLog.apply,
    "_standard_normal": _standard_normal,
}
_PLACES = ("pyro.infer", "pyro.poutine", "pyro.ops", "pyro.distributions", "torch.distributions")


@lru_cache(maxsize=1)
def _stood_in(count: int, newest: str) -> list[tuple[Any, str, Any]]:
    """(module, name, stand-in) of every module that took one of these functions.

    `count` and `newest` of the imported modules: an import makes the list anew.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(_PLACES)]
    return [
        (module, key, stand_in)
        for module in modules
        for key, stand_in in _STAND_INS.items()
        if key in vars(module)
    ]


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Pyro without validation, on its JIT branches, without `.item()`."""
    changes = [
        *_stood_in(len(sys.modules), next(reversed(sys.modules))),
        (Dice, "compute_expectation", _expectation),
        (torch._C, "_get_tracing_state", lambda: True),
    ]
    with (
        replaced(*changes),
        quiet(),  # torch's tracer warns at every len(tensor)
        _Detached(),
        validation(False),
        pyro.settings.context(module_local_params=True),
    ):
        yield


def record(function: Callable[..., Any], *example: Any) -> torch.fx.GraphModule:
    """The graph of function at arguments shaped like the example.

    Raises:
        CannotRecord: where the function reads values, with the reason.
    """
    try:
        with recording():
            return taped(function, *example)
    except GuidebookError:  # the reference path would raise it too
        raise
    except Exception as error:
        raise CannotRecord(reason(error)) from error


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


def reason(error: BaseException) -> str:
    """The kind of error and the first line of its message."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
