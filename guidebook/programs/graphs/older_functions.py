"""A torch.autograd.Function of the older form, as torch.func can transform it.

torch.func takes functions that say apart what they compute, `forward(...)`, and what they keep for the
gradient, `setup_context(...)`. The older form, `forward(ctx, ...)`, does both at once: torch's Dirichlet
and Beta, several of Pyro's distributions and many networks are written so, and torch.func refuses them.
Here such a function is called with a context that notes what it keeps; what is neither input nor output
is handed out as one more output, so that it can be kept.

As in the older form itself, what is kept besides inputs and outputs is a constant to a second derivative, and
`once_differentiable` has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

_apply = Function.__dict__["apply"].__func__
_ONCE = once_differentiable(lambda ctx: None).__code__


def apply(cls: Any, *inputs: Any, **named: Any) -> Any:
    """In the place of `torch.autograd.Function.apply`: the same, and older functions inside torch.func."""
    older = cls.setup_context is Function.setup_context
    if not older or named or not torch._C._are_functorch_transforms_active():
        return _apply(cls, *inputs, **named)
    return _Twin(cls)(inputs)


class _Context:
    """What an older function finds in `ctx`, and what it leaves there: kept tensors, and anything else."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.needs_input_grad = tuple(isinstance(v, Tensor) for v in inputs)
        self.saved_tensors: tuple[Any, ...] = ()
        self.constant: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self.constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Gradients are always tensors here."""

    def mark_dirty(self, *tensors: Tensor) -> None:
        raise NotImplementedError("an autograd.Function that writes into its inputs")


class _Twin:
    """One call of an older function: the function in the newer form, and what this call keeps."""

    def __init__(self, older: Any) -> None:
        self.older, self.ctx, self.single = older, _Context(()), True
        self.places: dict[str, list[Any]] = {}

    def __call__(self, inputs: tuple[Any, ...]) -> Any:
        outputs = self._function().apply(*inputs)
        return outputs[0] if self.single else outputs[: self.count]

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        self.ctx = _Context(inputs)
        result = self.older.forward(self.ctx, *inputs)
        self.single = not isinstance(result, tuple)
        outputs = (result,) if self.single else tuple(result)
        self.count = len(outputs)
        self.constant = [i for i, v in enumerate(outputs) if _among(v, self.ctx.constant)]
        known, more = [*inputs, *outputs], []
        held = {k: v for k, v in vars(self.ctx).items() if isinstance(v, Tensor)}
        held |= {f"saved {i}": v for i, v in enumerate(self.ctx.saved_tensors)}
        self.kept: dict[str, int | None] = {}
        for name, value in held.items():
            if isinstance(value, Tensor) and not _among(value, known):
                known.append(value)
                more.append(value)
            self.kept[name] = _place(value, known)
        return (*outputs, *more)

    def setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        constant = [*(output[i] for i in self.constant), *output[self.count :]]
        ctx.mark_non_differentiable(*constant)
        known = [*inputs, *output]
        ctx.save_for_backward(*(None if p is None else known[p] for p in self.kept.values()))

    def backward(self, ctx: Any, *grads: Any) -> Any:
        held = dict(zip(self.kept, ctx.saved_tensors, strict=True))
        saved = [v for k, v in held.items() if k.startswith("saved ")]
        vars(self.ctx).update({k: v for k, v in held.items() if not k.startswith("saved ")})
        self.ctx.saved_tensors = tuple(saved)
        back = self.older.backward
        once = getattr(back, "__code__", None) is _ONCE
        found = (back.__wrapped__ if once else back)(self.ctx, *grads[: self.count])
        return _no_further(found) if once else found

    def _function(self) -> Any:
        """The newer form: methods that torch asks to be static."""
        members: dict[str, Any] = {
            name: staticmethod(getattr(self, name))
            for name in ("forward", "setup_context", "backward")
        }
        return type(self.older.__name__, (Function,), {**members, "generate_vmap_rule": True})


class _Once(Function):
    """The identity, without a derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("a function marked once_differentiable has no second derivative")


def _no_further(found: Any) -> Any:
    """Gradients that cannot be differentiated again."""
    once: Callable[[Tensor], Tensor] = _Once.apply
    if isinstance(found, tuple):
        return tuple(once(v) if isinstance(v, Tensor) else v for v in found)
    return once(found)


def _among(value: Any, tensors: Sequence[Any]) -> bool:
    return any(value is tensor for tensor in tensors)


def _place(value: Any, known: Sequence[Any]) -> int | None:
    return next((i for i, v in enumerate(known) if v is value), None) if value is not None else None
