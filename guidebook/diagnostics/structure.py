"""A model's structure as a value: its sites with their distributions, its plates, who depends on whom."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer.inspect import get_model_relations
from pyro.poutine.trace_struct import Trace
from torch.distributions import Distribution
from torch.distributions.utils import lazy_property

from guidebook.programs.data import as_tensors, find_device
from guidebook.programs.owned import dtype_of, parameters_of
from guidebook.programs.sites import Substitute
from guidebook.scope import local_parameters, precision, random_state


@dataclass(frozen=True)
class Site:
    """One random variable of a model, as the table of priors and the likelihood says it.

    `kind` is "prior", "likelihood" or "deterministic"; `distribution` has its parameters where they
    do not depend on another site; `shape` is the shape of its value; `parents` are the sites it
    depends on.
    """

    name: str
    kind: str
    distribution: str
    shape: tuple[int, ...]
    plates: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Plate:
    """A plate: its size and the sites in it. Crossed plates come in several nested pieces."""

    name: str
    size: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """The sites of a model in the order they are drawn from, and its plates.

    Without sites, `reason` says why there are none.
    """

    sites: tuple[Site, ...] = ()
    plates: tuple[Plate, ...] = ()
    reason: str = ""


def structure_of(model: Callable[..., Any] | None, data: Mapping[str, Any] | None) -> Structure:
    """The structure of `model(**data)`, the data in the precision of the model's parameters.

    Runs the model twice at one position, so that a prior without draws will do, with its own random state
    and parameter store: neither the caller's random numbers nor `pyro.get_param_store()` change.
    """
    if model is None:
        return Structure(reason="the comparison was made from files, which do not carry the model")
    dtype = dtype_of(model, None)
    device = next((p.device for p in parameters_of(model)), None)
    try:
        arguments = as_tensors(data or {}, dtype, device or find_device(None, data or {}))
        with (
            local_parameters(), precision(dtype), random_state(0), torch.no_grad(), Substitute(),
        ):  # fmt: skip
            trace = pyro.poutine.trace(model).get_trace(**arguments)
            relations = get_model_relations(
                model, model_kwargs=arguments, include_deterministic=True
            )
    except Exception as error:  # any Pyro callable may be a model: its errors are not ours to know
        first = (str(error).strip().splitlines() or ["no message"])[0]
        return Structure(
            reason=f"the model could not be traced ({type(error).__name__}: {first[:200]})"
        )
    names = [name for name in relations["sample_sample"] if name in trace.nodes]
    if not names:
        return Structure(reason="the model has no random variable")
    plates = _plates(relations["plate_sample"], trace)
    return Structure(tuple(_site(name, relations, trace) for name in names), plates)


def _site(name: str, relations: Mapping[str, Any], trace: Trace) -> Site:
    """One row of the table."""
    node = trace.nodes[name]
    parents = tuple(relations["sample_sample"][name])
    word = str(relations["sample_dist"][name])
    kind = "likelihood" if name in relations["observed"] else "prior"
    if word == "Deterministic":
        kind = "deterministic"
    else:
        word += _parameters(node["fn"], parents)
    value = node["value"]
    shape = tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()
    plates = tuple(frame.name for frame in node["cond_indep_stack"])
    return Site(name, kind, word, shape, plates, parents)


def _parameters(fn: Any, parents: tuple[str, ...]) -> str:
    """`(0, 5)`, or `(loc, scale)` by name where the values come from other sites."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "Independent",
        "MaskedDistribution",
        "ExpandedDistribution",
    ):
        fn = fn.base_dist
    if not isinstance(fn, Distribution):
        return ""
    try:
        names = _given(fn)
        if not names:
            return ""
        if parents:
            return f"({', '.join(names)})"
        return f"({', '.join(f'{key} = {_value(getattr(fn, key))}' for key in names)})"
    except (NotImplementedError, AttributeError, ValueError):
        return ""


def _given(fn: Distribution) -> list[str]:
    """The parameters that the distribution was made with.

    Some distributions take one of several (probs or logits) and derive the others as lazy
    properties, which appear behind the given one once they have been asked for.
    """
    kinds = {key: inspect.getattr_static(type(fn), key, None) for key in fn.arg_constraints}
    lazy = [key for key in fn.__dict__ if isinstance(kinds.get(key), lazy_property)]
    plain = [
        key
        for key, kind in kinds.items()
        if type(kind) is property or (key in fn.__dict__ and key not in lazy)
    ]
    return plain + lazy[:1]


def _value(value: Any) -> str:
    """A parameter that is one number everywhere as that number, another by its shape and range."""
    if not isinstance(value, torch.Tensor):
        return f"{value:.4g}" if isinstance(value, int | float) else str(type(value).__name__)
    flat = value.detach().double().reshape(-1)
    if flat.numel() == 0:
        return "empty"
    low, high = float(flat.min()), float(flat.max())
    if low == high:
        return f"{low:.4g}"
    return f"{' × '.join(map(str, value.shape))} values, {low:.3g} to {high:.3g}"


def _plates(members: Mapping[str, list[str]], trace: Trace) -> tuple[Plate, ...]:
    """Plates in the order of nesting; Pyro splits crossed ones into nested pieces named __CLONE."""
    plates = []
    for name, sites in members.items():
        plain = name.replace("__CLONE", "")
        sizes = [
            f.size for s in sites for f in trace.nodes[s]["cond_indep_stack"] if f.name == plain
        ]
        if sites:
            plates.append(Plate(plain, int(sizes[0]) if sizes else 0, tuple(sites)))
    return tuple(sorted(plates, key=lambda plate: -len(plate.members)))
