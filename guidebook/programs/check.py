"""The eager run that comes before the recorded one: do model, guide and data fit together?"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import traceback
from collections.abc import Mapping
from types import CodeType
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import constraints

from guidebook.errors import DataError, GuidebookError, GuideError, ModelError, line_of_user
from guidebook.programs.nodes import check_all_rows, partial_plates, sample_nodes, sum_out
from guidebook.programs.owned import Owned
from guidebook.programs.sites import sites_change, trace_at
from guidebook.scope import holds_all_rows, random_state, subsampling, validation

RUNS = 4
"""Of a guide with discrete sites, to see whether its sites are the same in each."""
SUPPORT_DRAWS, SUPPORT_NUMBERS = 100_000, 1_000_000
"""Draws of every site of a guide that are held against the support; numbers of a site at most."""


def check_pair(model: Any, guide: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Runs guide and model once, validation on; builds lazy guides. Returns the guide's latent sites, the
    nodes of its trace by name.

    Raises:
        ModelError: no latent site, or the model itself fails, with Pyro's message.
        GuideError: a site too many or too few, or a value of the wrong shape or outside the
            support of the model's site.
        DataError: an observed value outside the support of its likelihood.
    """
    with torch.no_grad(), validation(True), _Readable(model, data, guide):
        guide_trace = poutine.trace(guide).get_trace(**data)
    summed = _SummedOut()
    with torch.no_grad(), validation(True), _Readable(model, data):
        with _SitesFit(summed.names):  # at the site, before what follows from a wrong value fails
            replayed = poutine.trace(poutine.replay(summed(model), trace=guide_trace))
            model_trace = replayed.get_trace(**data)
        # validates observed values against their support
        model_trace.compute_log_prob(lambda name, site: site["is_observed"])
    with torch.no_grad(), _Readable(model, data):
        sum_out(model, data, model_trace, held=guide_trace.nodes)
    of_guide = {n: s for n, s in guide_trace.nodes.items() if _latent(s) and not _auxiliary(s)}
    of_model = {n for n, s in model_trace.nodes.items() if _latent(s)} - summed.names
    if not of_model and not any(_latent(s) for s in model_trace.nodes.values()):
        raise ModelError(
            "The model has no latent site: every pyro.sample is observed, so there is no posterior."
        )
    _same_sites(of_model, set(of_guide), summed.names)
    outside = _outside(guide_trace, model_trace, of_model)
    if outside:
        raise GuideError(outside)
    _observed_in_support(model_trace)
    return of_guide


def check_same_sites(model: Any, guide: Any, data: Mapping[str, Any], names: set[str]) -> None:
    """Runs a guide with discrete sites again, which a program may count by: are the latent sites `names`?

    Raises:
        ModelError: they are others in another run.
    """
    for _ in range(RUNS):
        with torch.no_grad(), _Readable(model, data, guide):
            nodes = poutine.trace(guide).get_trace(**data).nodes
        found = {n: s for n, s in nodes.items() if _latent(s) and not _auxiliary(s)}
        if set(found) != names:
            raise sites_change(names ^ set(found))
        if not any(s["fn"].support.is_discrete and not _enumerated(s) for s in found.values()):
            return


def check_sum(model: Any, guide: Any, objective: Any, data: Mapping[str, Any]) -> None:
    """Evaluates once an objective that sums over sites of the guide. What fails in the sum alone, as a
    product of tensors of two precisions, fails here.
    """
    with torch.no_grad(), validation(False), random_state(0), _Readable(model, data, guide):
        objective.loss(model, guide, **data)


def check_model(model: Any, data: Mapping[str, Any]) -> None:
    """Runs the model once at the origin, validation on, for engines without a guide.

    Raises:
        ModelError: no latent site, or the model itself fails, with Pyro's message.
        DataError: an observed value outside the support of its likelihood.
    """
    with torch.no_grad(), validation(True), _Readable(model, data):
        trace, seen = trace_at(model, data, None)
        trace.compute_log_prob()
    with torch.no_grad(), _Readable(model, data):
        sum_out(model, data, trace)
    check_all_rows(trace.nodes)
    if not seen.values:
        raise ModelError(
            "The model has no latent site: every pyro.sample is observed, so there is no posterior."
        )
    _observed_in_support(trace)


def _same_sites(of_model: set[str], of_guide: set[str], summed: set[str]) -> None:
    both = sorted(of_guide & summed)
    if both:
        raise GuideError(
            f"The model sums {_listed(both)} out (infer enumerate), and the guide samples it. Remove it from "
            "the guide; or, as Pyro's objectives go by the guide, leave it unmarked in the model: "
            "pyro.poutine.infer_config(model, lambda site: {'enumerate': None} if site['name'] in "
            f"{both} else {{}})."
        )
    missing, extra = sorted(of_model - of_guide), sorted(of_guide - of_model)
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1)
        hint = f" It has '{near[0]}': rename it." if near else ""
        raise GuideError(
            f"The guide has no site for {_listed(missing)}, which the model samples.{hint} Every "
            "latent site of the model needs a pyro.sample of the same name in the guide."
        )
    if extra:
        raise GuideError(
            f"The guide samples {_listed(extra)}, which is not a latent site of the model (those are "
            f"{_listed(sorted(of_model))}). Remove it, or mark it infer={{'is_auxiliary': True}}."
        )


class _SitesFit(Messenger):
    """Refuses a replayed value of the wrong shape or outside the support of the model's site."""

    def __init__(self, summed: set[str]) -> None:
        super().__init__()
        self.summed = summed

    def _pyro_post_sample(self, msg: Any) -> None:
        if _latent(msg) and msg["name"] not in self.summed:
            _fits(msg["name"], msg["value"], msg["fn"])


class _SummedOut(Messenger):
    """Notes the names of the sites that the model itself marks for enumeration, as a guide may, too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if _latent(msg) and _enumerated(msg):
            self.names.add(msg["name"])


def _fits(name: str, value: Any, fn: Any) -> None:
    if tuple(value.shape) != tuple(fn.shape()):
        raise GuideError(
            f"Site '{name}': the guide gives shape {tuple(value.shape)}, the model has "
            f"{tuple(fn.shape())} (batch {tuple(fn.batch_shape)}, event {tuple(fn.event_shape)}). "
            "Use the same plates and .to_event in both."
        )
    if not bool(fn.support.check(value).all()):
        raise GuideError(
            f"Site '{name}': the guide gives a value outside the model's support {fn.support}. Give "
            "the guide a distribution with that support (LogNormal for a positive site, or a "
            "TransformedDistribution by torch.distributions.biject_to)."
        )


def outside_support(model: Any, guide: Any, data: Mapping[str, Any]) -> str:
    """Of a fitted pair: the site whose guide reaches outside the model's support, in words; else "".

    A pair that no longer runs, as one whose parameters are not numbers, says so by its status.
    """
    try:
        with torch.no_grad(), validation(False), random_state(0):
            guide_trace = poutine.trace(guide).get_trace(**data)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**data)
    except (RuntimeError, ValueError):
        return ""
    names = {n for n, s in model_trace.nodes.items() if _latent(s) and n in guide_trace.nodes}
    return _outside(guide_trace, model_trace, names)


def _outside(guide_trace: Any, model_trace: Any, names: set[str]) -> str:
    with torch.no_grad(), random_state(0):
        for name in sorted(names):
            fn, support = guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"].support
            if _same_or_all(support, fn):
                continue
            draws = max(1, min(SUPPORT_DRAWS, SUPPORT_NUMBERS // max(1, math.prod(fn.shape()))))
            try:
                share = float((~support.check(fn.sample((draws,)))).double().mean())
            except (NotImplementedError, TypeError, ValueError, RuntimeError):
                continue  # a distribution or a support that cannot be asked: its one draw was
            if share > 0:
                return (
                    f"Site '{name}': {share:.2g} of the draws of the guide's {_kind(fn)} lie outside "
                    f"the model's support {support}. Give the guide a distribution with that support "
                    "(LogNormal for a positive site, or a TransformedDistribution by "
                    "torch.distributions.biject_to)."
                )
    return ""


def _same_or_all(support: Any, fn: Any) -> bool:
    """Whether the guide's distribution cannot leave the support, by what it says of itself."""
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    return base is constraints.real or str(getattr(fn, "support", None)) == str(support)


def _kind(fn: Any) -> str:
    while hasattr(fn, "base_dist") and type(fn).__name__ in ("Independent", "MaskedDistribution"):
        fn = fn.base_dist
    return type(fn).__name__


def _observed_in_support(trace: Any) -> None:
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or not site["is_observed"] or site_is_subsample(site):
            continue
        if isinstance(site["value"], torch.Tensor) and site["value"].shape != site["fn"].shape():
            shapes = tuple(site["value"].shape), tuple(site["fn"].shape())
            if site["infer"].get("_deterministic"):
                continue
            raise DataError(
                f"Observed site '{name}' has shape {shapes[0]}, its distribution {shapes[1]}. Check "
                "the plates of the model and the shape of the data."
            )


def _latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def _auxiliary(site: Any) -> bool:
    return bool(site["infer"].get("is_auxiliary"))


def _enumerated(site: Any) -> bool:
    return site["infer"].get("enumerate") is not None


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


class _Readable:
    """Turns an error of Pyro or torch inside the block into one of ours, of the part that failed.

    A guide may run the model, as Pyro's autoguides do at first: what fails there is the model.
    """

    def __init__(self, model: Any, data: Mapping[str, Any], guide: Any = None) -> None:
        self.model, self.guide, self.data = model, guide, data

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, (GuidebookError, MemoryError)):
            return
        of_model = error if self.guide is None else self._failure_of_model(error)
        part, kind = ("guide", GuideError) if of_model is None else ("model", ModelError)
        error = of_model or error
        message = " ".join(str(error).split()).split(" Trace Shapes:")[0][:600].rstrip(".")
        message = f"{type(error).__name__}: {message}"
        if "is_observed" in message or ("support" in message and "value" in message.lower()):
            message += " (a value outside the support of its distribution)"
        where = line_of_user(error) or f"run {part}(**data) by itself to see where"
        if part == "model" and holds_all_rows():
            self._refuse_all_rows(f"{message} ({where})", error)
        raise kind(f"The {part} fails when it is run on the data: {message} ({where}).") from error

    def _failure_of_model(self, error: Exception) -> Exception | None:
        """The error of the model, where it is the model that failed while the guide ran."""
        frames = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        if frames & codes_of(self.model):
            return error
        if frames & codes_of(self.guide) and line_of_user(error):
            return None
        try:
            with random_state(0):
                trace_at(self.model, self.data, None)[0].compute_log_prob()
        except Exception as own:
            return own
        return None

    def _refuse_all_rows(self, message: str, error: Exception) -> None:
        """ModelError of a model that fails with plates of all rows, and runs with rows as it draws them."""
        drawn: dict[str, tuple[int, int]] = {}
        with contextlib.suppress(Exception), subsampling(), random_state(0):
            drawn = partial_plates(sample_nodes(self.model, self.data))
        for name, (present, size) in drawn.items():
            raise ModelError(
                f"The plate '{name}' draws {present} of its {size} rows at every run; log p(x, z) is that "
                f"of all {size}, and with all of them the model fails: {message}. Give it the data of all "
                f"rows, indexed by the plate: with pyro.plate('{name}', ...) as i: "
                "pyro.sample(..., obs=y[i])."
            ) from error


def codes_of(program: Any) -> set[CodeType]:
    """The code of a program and of what it wraps."""
    found: set[CodeType] = set()
    while program is not None:
        if isinstance(program, Owned):
            program = program.function[0]
        elif isinstance(program, functools.partial):
            program = program.func
        elif hasattr(program, "__code__"):  # a function, or a method
            found.add(program.__code__)
            program = getattr(program, "__wrapped__", None)
        elif isinstance(program, nn.Module):
            program = type(program).forward
        else:
            program = type(program).__call__
    return found
