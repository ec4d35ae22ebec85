"""Guides and models written as functions with pyro.param, as modules that own their parameters.

Pyro keeps the parameters of a function in one global store, where two fits share what has the same
name. `Owned` keeps them in itself, so that a fit is a value and torch.func can substitute them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from guidebook.errors import GuidebookError, GuideError
from guidebook.scope import alone, replaced

T = TypeVar("T")
DIVIDER = "$$$"  # between the name of a network and of its parameter, as Pyro writes it


class Owned(nn.Module):
    """A function whose pyro.param statements read parameters of this module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = [function]  # in a list: a module inside it is not ours to list
        self.names: list[str] = []
        self.constraints: dict[str, constraints.Constraint] = {}
        self.unconstrained = nn.ParameterList()

    def forward(self, **data: Any) -> Any:
        with _OwnParameters(self), _own_modules(self):
            return self.function[0](**data)

    def value(self, name: str) -> Tensor:
        """The constrained value of a parameter."""
        free = self.unconstrained[self.names.index(name)]
        return transform_to(self.constraints[name])(free)

    def adopt(self, name: str, value: Tensor, constraint: constraints.Constraint) -> None:
        free = transform_to(constraint).inv(value.detach())
        self.names.append(name)
        self.constraints[name] = constraint
        self.unconstrained.append(nn.Parameter(free.clone()))


@contextlib.contextmanager
def _own_modules(owner: Owned) -> Iterator[None]:
    """pyro.module(name, network) gives the network, for this run, the parameters of `owner`.

    Pyro's own registers the network's tensors in the global store, where an optimiser changes them
    in place; the network that the user holds stays as it is.
    """
    swapped: list[tuple[dict[str, Any], str, Any]] = []

    def module(name: str, network: nn.Module, update_module_params: bool = False) -> nn.Module:
        for key, parameter in list(network.named_parameters()):
            full = f"{name}{DIVIDER}{key}"
            if full not in owner.names:
                if not parameter.requires_grad:
                    continue
                owner.adopt(full, parameter, constraints.real)
            path, _, leaf = key.rpartition(".")
            place = network.get_submodule(path)._parameters
            swapped.append((place, leaf, place[leaf]))
            place[leaf] = owner.value(full)  # type: ignore[assignment]
        return network

    try:
        with replaced((pyro, "module", module)):
            yield
    finally:
        for place, leaf, value in reversed(swapped):
            place[leaf] = value


class _OwnParameters(Messenger):
    def __init__(self, owner: Owned) -> None:
        super().__init__()
        self.owner = owner

    def _pyro_param(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.owner.names and DIVIDER in name:
            raise GuideError(
                f"The network of '{name}' is registered by a copy of pyro.module: write pyro.module(...) "
                "and not `from pyro import module`, so that its parameters can be fitted."
            )
        if name not in self.owner.names:
            initial = msg["args"][1] if len(msg["args"]) > 1 else msg["kwargs"].get("init_tensor")
            if initial is None:
                raise KeyError(
                    f"pyro.param('{name}') is read before it has an initial value: give one as the "
                    "second argument."
                )
            value = initial() if callable(initial) else initial
            constraint = msg["kwargs"].get("constraint", constraints.real)
            self.owner.adopt(name, value, constraint)
        msg["value"] = self.owner.value(name)
        msg["done"] = True
        msg["stop"] = True


class Joined(nn.Module):
    """A model and its guide as one module; forward computes an objective of the two."""

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model if isinstance(model, nn.Module) else Owned(model)
        self.guide = guide if isinstance(guide, nn.Module) else Owned(guide)

    def forward(self, objective: Callable[..., Any], data: Mapping[str, Any]) -> Any:
        return objective(self.model, self.guide, **data)


@alone()
def copied(model: Callable[..., Any], guide: Callable[..., Any]) -> tuple[Any, Any]:
    """Deep copies that share what the two share; the user's own stay untouched.

    Pyro's autoguides drop the model from the original when they are copied, so it is put back.
    """
    guides = [m for m in guide.modules() if isinstance(m, AutoGuide)] if isinstance(
        guide, nn.Module
    ) else []  # fmt: skip
    kept = [(g, g._model, g.master) for g in guides]
    models = [g._model for g in guides]
    memo: dict[int, Any] = {}
    try:
        twin_model, twin_guide, twin_models = copy.deepcopy((model, guide, models), memo)
    finally:
        for one, story, master in kept:
            one._model, one.master = story, master
    for one, story in zip(guides, twin_models, strict=True):
        memo[id(one)]._model = story
    for part in (twin_model, twin_guide):
        make_local(part)
    return twin_model, twin_guide


def make_local(part: Any) -> None:
    """Gives a PyroModule made in Pyro's default mode what `module_local_params` needs of it."""
    owner = part if isinstance(part, nn.Module) else getattr(part, "__self__", None)
    if not isinstance(owner, nn.Module):
        return
    for module in owner.modules():
        context = getattr(module, "_pyro_context", None)
        if context is not None and not hasattr(context, "param_state"):
            context.param_state = {"params": {}, "constraints": {}}


def parameters_of(*parts: Any) -> list[Tensor]:
    """The parameters of those parts that are modules (or methods of modules)."""
    found: list[Tensor] = []
    for part in parts:
        owner = part if isinstance(part, nn.Module) else getattr(part, "__self__", None)
        if isinstance(owner, nn.Module):
            found += list(owner.parameters())
    return found


def dtype_of(model: Any, guide: Any) -> torch.dtype:
    """The dtype of the networks where there are some, float64 where there are none.

    A posterior with a mean of 10^4 and a standard deviation of 10^-3 needs float64; networks are
    trained in the precision they were made in.
    """
    floats = [p for p in parameters_of(model, guide) if p.is_floating_point()]
    return floats[0].dtype if floats else torch.float64


def working_precision(model: Any, guide: Any, attempt: Callable[[torch.dtype], T]) -> T:
    """attempt(dtype_of(model, guide)), and in float32 where constants of the model are float32.

    A model or guide that multiplies its latents with float32 matrices of its own cannot run in
    float64; torch's message then speaks of dtypes.
    """
    dtype = dtype_of(model, guide)
    try:
        return attempt(dtype)
    except GuidebookError as error:
        if dtype is torch.float64 and "dtype" in str(error):
            return attempt(torch.float32)
        raise
