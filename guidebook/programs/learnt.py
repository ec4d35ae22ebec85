"""Distributions whose transforms are networks, as a normalising flow that is the prior: held as they are now.

A program's networks have the tensors that are trained only while it runs; what asks for the density of a
site afterwards must read the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import _InverseTransform


def as_now(fn: Any) -> Any:
    """The distribution with the tensors that its learnt transforms have now: its log_prob is asked for after
    the run, when a network has its own again.
    """
    base, transforms = getattr(fn, "base_dist", None), list(getattr(fn, "transforms", ()))
    inner, made = base if base is None else as_now(base), _at_present(transforms)
    if inner is base and made is transforms:
        return fn
    twin = copy.copy(fn)
    twin.base_dist = inner
    if transforms:
        twin.transforms = made
    return twin


def _at_present(part: Any) -> Any:
    """A transform, or what one calls, with copies of its networks; itself where it has none."""
    if isinstance(part, nn.Module):
        return _snapshot(part)
    if isinstance(part, MethodType) and isinstance(part.__self__, nn.Module):
        return MethodType(part.__func__, _snapshot(part.__self__))
    if isinstance(part, partial):
        func = _at_present(part.func)
        return part if func is part.func else partial(func, *part.args, **part.keywords)
    if isinstance(part, list):
        made = [_at_present(one) for one in part]
        return made if any(a is not b for a, b in zip(made, part, strict=True)) else part
    if isinstance(part, _InverseTransform):
        return part if (forward := _at_present(part._inv)) is part._inv else forward.inv
    if not isinstance(part, Transform):
        return part
    held = {key: _at_present(value) for key, value in vars(part).items() if key != "_inv"}
    if all(held[key] is vars(part)[key] for key in held):
        return part
    twin = copy.copy(part)
    vars(twin).update(held)
    return twin


def _snapshot(network: nn.Module) -> nn.Module:
    """A copy of the network, and of those that its attributes call, that has the same tensors."""
    return copy.deepcopy(network, dict[int, Any]((id(t), t) for t in _tensors(network, set())))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Those of modules, of containers and of partial calls; a module may hold a method of its own."""
    if isinstance(value, Tensor):
        yield value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: list[Any] = []
    if isinstance(value, nn.Module):
        inside = [v for m in value.modules() for k, v in vars(m).items() if k != "_modules"]
    elif isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, (list, tuple)):
        inside = list(value)
    elif isinstance(value, partial):
        inside = [value.func, value.args, value.keywords]
    elif isinstance(value, MethodType):
        inside = [value.__self__]
    for one in inside:
        yield from _tensors(one, seen)
