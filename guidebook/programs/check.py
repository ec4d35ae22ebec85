"""The eager run that comes before the recorded one: do model, guide and data fit together?"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import constraints

from guidebook.errors import DataError, GuidebookError, GuideError, ModelError
from guidebook.programs.sites import trace_at
from guidebook.scope import random_state, validation

SUPPORT_DRAWS, SUPPORT_NUMBERS = 100_000, 1_000_000
"""Draws of every site of a guide that are held against the support; numbers of a site at most."""


def check_pair(model: Any, guide: Any, data: Mapping[str, Any]) -> None:
    """Runs guide and model once, validation on; builds lazy guides.

    Raises:
        ModelError: no latent site, or the model itself fails, with Pyro's message.
        GuideError: a site too many or too few, or a value of the wrong shape or outside the
            support of the model's site.
        DataError: an observed value outside the support of its likelihood.
    """
    with torch.no_grad(), validation(True), _Readable("guide", GuideError):
        guide_trace = poutine.trace(guide).get_trace(**data)
    with torch.no_grad(), validation(True), _Readable("model", ModelError):
        with _SitesFit():  # at the site itself, before what follows from a wrong value fails
            replayed = poutine.trace(poutine.replay(model, trace=guide_trace))
            model_trace = replayed.get_trace(**data)
        for site in model_trace.nodes.values():  # validates observed values against their support
            if site["type"] == "sample" and site["is_observed"]:
                site["fn"].log_prob(site["value"])
    of_guide = {n for n, s in guide_trace.nodes.items() if _latent(s) and not _auxiliary(s)}
    of_model = {n for n, s in model_trace.nodes.items() if _latent(s)}
    of_model -= {n for n in of_model if _enumerated(model_trace.nodes[n])}
    if not of_model and not any(_latent(s) for s in model_trace.nodes.values()):
        raise ModelError(
            "The model has no latent site: every pyro.sample is observed, so there is no posterior."
        )
    _same_sites(of_model, of_guide)
    outside = _outside(guide_trace, model_trace, of_model)
    if outside:
        raise GuideError(outside)
    _observed_in_support(model_trace)


def check_model(model: Any, data: Mapping[str, Any]) -> None:
    """Runs the model once at the origin, validation on, for engines without a guide.

    Raises:
        ModelError: no latent site, or the model itself fails, with Pyro's message.
        DataError: an observed value outside the support of its likelihood.
    """
    with torch.no_grad(), validation(True), _Readable("model", ModelError):
        trace, seen = trace_at(model, data, None)
        trace.compute_log_prob()
    if not seen.values:
        raise ModelError(
            "The model has no latent site: every pyro.sample is observed, so there is no posterior."
        )
    _observed_in_support(trace)


def _same_sites(of_model: set[str], of_guide: set[str]) -> None:
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

    def _pyro_post_sample(self, msg: Any) -> None:
        if _latent(msg) and not _enumerated(msg):
            _fits(msg["name"], msg["value"], msg["fn"])


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
    """Turns an error of Pyro or torch inside the block into one of ours, with its message."""

    def __init__(self, part: str, kind: type[GuidebookError]) -> None:
        self.part, self.kind = part, kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, (GuidebookError, KeyboardInterrupt, MemoryError)):
            return
        if not isinstance(error, Exception):
            return
        message = " ".join(str(error).split())[:600]
        if "is_observed" in message or ("support" in message and "value" in message.lower()):
            message += " (a value outside the support of its distribution)"
        raise self.kind(
            f"The {self.part} fails when it is run on the data: {type(error).__name__}: {message}. "
            f"Run {self.part}(**data) by itself to see where."
        ) from error
