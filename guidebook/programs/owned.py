"""Models and guides as modules that own their parameters, whatever they are written as.

`owning` makes a pair of these of a user's: a function becomes `Owned`; a module whose forward has
pyro.param or pyro.module statements of its own (an EasyGuide, a plain nn.Module) reads them from a
submodule; an autoguide's own copy of the model is the model. What both name alike is one tensor
(`guidebook.programs.statements`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoCallable, AutoGuide
from pyro.nn import PyroModule, pyro_method
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

from guidebook.errors import GuideError, ModelError
from guidebook.programs.statements import Shared, Statements, evaluated, make_local
from guidebook.scope import alone, replaced

T = TypeVar("T")
STATEMENTS = "pyro_statements"
"""The name of the submodule of a module whose forward has statements of its own."""


class Owned(Statements):
    """A function whose statements read parameters of this module.

    `below` is the PyroModule under Pyro's handlers (poutine.reparam(module, ...)), where there is one.
    """

    def __init__(self, function: Callable[..., Any], shared: Shared | None = None) -> None:
        super().__init__(shared)
        self.function = [function]  # in a list: a module inside it is not ours to list
        self.below = _below_handlers(function)
        make_local(self.below)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function, whose signature this has."""
        return self.function[0]

    def forward(self, *args: Any, **data: Any) -> Any:
        function = _without_observed(self.function[0])
        owner = getattr(function, "__self__", None)
        with contextlib.ExitStack() as stack:
            if not self.training:
                stack.enter_context(evaluated(owner))
            if _is_pyro_method(function):
                stack.enter_context(self.lends(owner))
            stack.enter_context(self.reading(self.below, owner))
            return function(*args, **data)


def _without_observed(function: Any) -> Any:
    """A guide that runs the model as it goes has the observed sites in its trace, too; Pyro's objectives
    take them out of it.
    """
    if isinstance(unwrap(function), GuideMessenger):
        return poutine.block(function, hide_fn=lambda msg: msg["is_observed"])
    return function


_PYRO_METHOD = pyro_method(lambda self: None).__code__


def _is_pyro_method(function: Any) -> bool:
    """Whether it is a method that Pyro tells of all parameters of its module that it reads."""
    code = getattr(getattr(function, "__func__", None), "__code__", None)
    return code is _PYRO_METHOD and isinstance(function.__self__, PyroModule)


def _below_handlers(function: Any) -> PyroModule | None:
    while not isinstance(function, nn.Module):
        inner = unwrap(function)
        inner = getattr(inner, "fn", inner)  # of a ReparamHandler
        if inner is function or not callable(inner):
            return None
        function = inner
    return function if isinstance(function, PyroModule) else None


class _Forward:
    """The forward of a module whose statements read those of `statements`."""

    def __init__(self, module: nn.Module, statements: Statements) -> None:
        self.module, self.statements = module, statements

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.module).forward.__get__(self.module))

    def __call__(self, *args: Any, **data: Any) -> Any:
        with self.statements.reading(self.module):
            return type(self.module).forward(self.module, *args, **data)


def statements_of(part: Any) -> Statements | None:
    """Where the statements of a model or guide are read from; None where it has none."""
    if isinstance(part, Statements):
        return part
    found = part._modules.get(STATEMENTS) if isinstance(part, nn.Module) else None
    return found if isinstance(found, Statements) else None


def own_parameters(model: Any) -> list[str]:
    """The names of the parameters that a fit of the model would train."""
    statements = statements_of(model)
    names = list(statements.names) if statements is not None else []
    module = model.below if isinstance(model, Owned) else model
    if isinstance(module, nn.Module):
        own = [n for n, p in module.named_parameters() if p.requires_grad]
        names += [n for n in own if not n.startswith(f"{STATEMENTS}.")]
    return names


def reads_from(part: nn.Module, statements: Statements) -> None:
    """The statements of the module's forward are read from now on from there."""
    part.__dict__["forward"] = _Forward(part, statements)
    part._modules[STATEMENTS] = statements.train(part.training)


def owning(model: Any, guide: Any, originals: tuple[Any, Any] = (None, None)) -> tuple[Any, Any]:
    """The pair as modules that share what their statements name alike.

    `originals` are the user's own of which the pair is a copy: a network that is registered by one
    and held by the other is one network. The pair is changed in place: give copies.
    """
    shared = Shared()
    for own, twin in zip(originals, (model, guide), strict=True):
        pairs = zip(_parameters(own), _parameters(twin), strict=False)
        shared.twins |= {id(p): (p, q) for p, q in pairs if p is not q}
    made: dict[Any, Any] = {}

    def owned(part: Any) -> Any:
        statements = statements_of(part)
        if statements is not None:
            statements.joins(shared)
        elif isinstance(part, nn.Module):
            if not isinstance(part, AutoGuide):
                reads_from(part, Statements(shared))
        else:
            key = (id(getattr(part, "__self__", None)), getattr(part, "__func__", part))
            return made.setdefault(key, Owned(part, shared))
        return part

    found = owned(model) if model is not None else None
    for holder, place in _models_within(guide):
        setattr(holder, place, (owned(getattr(holder, place)[0]),))
        if isinstance(holder, AutoCallable):
            holder._guide = owned(holder._guide)
    return found, owned(guide) if guide is not None else None


def settled(model: Any, guide: Any) -> tuple[Any, Any]:
    """A pair of `owning` after its first run: what has shown no statement is as it was before."""
    for part in (model, guide):
        if isinstance(part, Owned):
            part.meets(getattr(part.function[0], "__self__", None))
    for holder, place in _models_within(guide):
        held = getattr(holder, place)[0]
        setattr(holder, place, (_bare(held) if held is not model else _settled(model),))
    return _settled(model), _settled(guide)


def _settled(part: Any) -> Any:
    return part if isinstance(part, Owned) and part.below is not None else _bare(part)


def _bare(part: Any) -> Any:
    statements = statements_of(part)
    if statements is None or statements.names or statements.kept or statements.answered:
        return part
    if isinstance(part, Owned):
        return part.function[0]
    if part.__dict__.pop("forward", None) is not None:
        del part._modules[STATEMENTS]
    return part


def _parameters(part: Any) -> Iterator[nn.Parameter]:
    owner = part if isinstance(part, nn.Module) else getattr(part, "__self__", None)
    return owner.parameters() if isinstance(owner, nn.Module) else iter(())


def _models_within(guide: Any) -> list[tuple[Any, str]]:
    """Where the guides in a guide hold a model, (model,), to run: Pyro's autoguides and EasyGuides, and ours
    that are of any model. Conjugate guides ask their model for more than to be run.
    """
    if not isinstance(guide, nn.Module):
        return []
    return [
        (module, place)
        for module in guide.modules()
        for place in ("_model", "_story")
        if isinstance(vars(module).get(place), tuple)
        and (place == "_story" or isinstance(module, PyroModule))
    ]


class Joined(nn.Module):
    """A model and its guide as one module; forward computes an objective of the two."""

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any]) -> None:
        super().__init__()
        shared = Shared()
        self.model = model if isinstance(model, nn.Module) else Owned(model, shared)
        self.guide = guide if isinstance(guide, nn.Module) else Owned(guide, shared)

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
        with replaced((Tensor, "__deepcopy__", _value_copied)):
            twin_model, twin_guide, twin_models = copy.deepcopy((model, guide, models), memo)
    finally:
        for one, story, master in kept:
            one._model, one.master = story, master
    for one, story in zip(guides, twin_models, strict=True):
        memo[id(one)]._model = story
    for part in (twin_model, twin_guide):
        make_local(part)
    return twin_model, twin_guide


_copied = Tensor.__deepcopy__


def _value_copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy of a tensor; of one that an earlier run has left in a handler or a module, of its value."""
    twin: Tensor = _copied(tensor if tensor.is_leaf else tensor.detach(), memo)
    return twin


def parameters_of(*parts: Any) -> list[Tensor]:
    """The parameters of those parts that are modules (or methods of modules)."""
    return [parameter for part in parts for parameter in _parameters(part)]


def dtype_of(model: Any, guide: Any) -> torch.dtype:
    """The dtype of parameters where there are some, else of buffers; float64 where there are none.

    A posterior with a mean of 10^4 and a standard deviation of 10^-3 needs float64; networks are
    trained in the precision they were made in, and constants of a module are what it computes with.
    """
    return next((t.dtype for t in _floats(model, guide).values()), torch.float64)


def _floats(*parts: Any) -> dict[str, Tensor]:
    """Name to floating-point parameter, then buffer, of those parts that are modules."""
    owners = [p if isinstance(p, nn.Module) else getattr(p, "__self__", None) for p in parts]
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    tensors: list[tuple[str, Tensor]] = [pair for m in modules for pair in m.named_parameters()]
    tensors += [pair for m in modules for pair in m.named_buffers()]
    found: dict[str, Tensor] = {}
    for name, value in tensors:
        if value.is_floating_point():
            found.setdefault(name, value)
    return found


def working_precision(model: Any, guide: Any, attempt: Callable[[torch.dtype], T]) -> T:
    """attempt(dtype_of(model, guide)), and in float32 where constants of the model are float32.

    A model or guide that multiplies its latents with float32 matrices of its own cannot run in
    float64; torch's message then speaks of dtypes.

    Raises:
        ModelError: it runs in neither, since tensors of both precisions meet.
    """
    failed: Exception | None = None
    for tried in dict.fromkeys([dtype_of(model, guide), torch.float32]):
        try:
            return attempt(tried)
        except (ModelError, GuideError, RuntimeError) as error:
            if "dtype" not in str(error) and "scalar type" not in str(error):
                raise
            failed = failed or error
    raise ModelError(
        f"Tensors of different precisions meet in model or guide ({_precisions(model, guide)}): make "
        "them all of one, by .float() or .double() of a module, and constants of a function by "
        f"torch.tensor(..., dtype=torch.get_default_dtype()) inside it. torch says: {failed}"
    ) from failed


def _precisions(*parts: Any) -> str:
    """The tensors of modules by their precision, the first of each named."""
    named: dict[str, list[str]] = {}
    for name, value in _floats(*parts).items():
        named.setdefault(str(value.dtype).removeprefix("torch."), []).append(name)
    if not named:
        return "constants that a function reads"
    return ", ".join(f"{kind}: '{names[0]}'" for kind, names in named.items())
