"""R-hat and effective sample size of draws that come as chains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.inference.fits.chains import agree
from guidebook.inference.fits.status import Status

if TYPE_CHECKING:
    import xarray as xr


NAME = "Convergence"
VETOES = (Status.RESTARTS_DISAGREE, Status.STOPPED_BY_NAN, Status.NO_MODE)
"""Ends after which neither raw nor weighted draws can be used."""
EQUAL = 1e-3
"""Nats by which log p(x, z) - log q(z) of an enumerated posterior may vary: rounding."""


def chains_of(tree: xr.DataTree) -> int:
    """The number of chains of the posterior group."""
    return int(tree["posterior"].sizes.get("chain", 1))


def sampler_convergence(tree: xr.DataTree) -> tuple[bool, str]:
    """Whether chains agree and did not diverge, and in words what they did."""
    worst, least = _worst(tree["posterior"].to_dataset())
    stats = tree.children.get("sample_stats")
    diverged = 0
    if stats is not None and "diverging" in stats.data_vars:
        diverged = int(stats["diverging"].values.sum())
    good = agree(worst, least, chains_of(tree)) and diverged == 0
    words = (
        f"Largest R-hat {worst:.3f}, smallest effective sample size {least:.0f}, {diverged} divergent "
        "transitions."
    )
    return good, words


def _worst(posterior: xr.Dataset) -> tuple[float, float]:
    """The largest R-hat and the smallest effective sample size of all marginals that are not constant.

    A constant, such as the first element of a Cholesky factor of correlations, has neither. Where other
    values have none (too few draws; chains that each stand still), or all are constant, they are infinite
    and zero.
    """
    from arviz_stats import ess, rhat

    found = []
    with np.errstate(divide="ignore", invalid="ignore"):  # of constants
        ranks, sizes = rhat(posterior), ess(posterior)
        for name, values in posterior.data_vars.items():
            moves = (values.max(("chain", "draw")) > values.min(("chain", "draw"))).values
            largest = np.asarray(ranks[name])
            if np.isnan(largest[moves]).any():  # two values have no folded ranks
                plain = np.asarray(rhat(posterior[[name]], method="split")[name])
                largest = np.where(np.isnan(largest), plain, largest)
            found.append((largest[moves], np.asarray(sizes[name])[moves]))
    worst, least = (
        np.concatenate([np.atleast_1d(x) for x in column]) for column in zip(*found, strict=True)
    )
    if not worst.size:
        return math.inf, 0.0
    return float(np.nan_to_num(worst, nan=np.inf).max()), float(np.nan_to_num(least).min())


def effective_draws(tree: xr.DataTree) -> float:
    """The smallest ESS over marginals of chains; the number of draws where there is one chain."""
    from arviz_stats import ess

    posterior = tree["posterior"]
    if chains_of(tree) == 1:
        return float(posterior.sizes["draw"])
    sizes = ess(posterior.to_dataset()).data_vars.values()
    return min(float(np.nanmin(v)) for v in sizes)


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """How the fit ended; of a sampler, whether its chains agree, which vouches for their draws."""
    status, everyone = subject.status, np.ones(subject.posteriors, bool)
    if subject.kind == "chains":
        good, words = (status.good, status.value) if status else sampler_convergence(subject.tree)
        return Testimony(
            NAME,
            words=(words,),
            against=[] if good else [words] * subject.posteriors,
            vouches=everyone & good,
            agreement="R-hat and effective sample sizes are within their limits, without divergences",
        )
    if status is None:
        return Testimony(NAME, absent="the file does not say how the fit ended")
    vouches = None
    if subject.is_discrete and status is Status.EXACT and subject.log_ratio is not None:
        # a posterior that is known by enumeration has no gradients to confirm it, and needs none
        vouches = everyone & (np.ptp(subject.log_ratio, axis=0) < EQUAL)
    return Testimony(
        NAME,
        words=(status.value,),
        # where the model is trained too, its posteriors move as long as it does
        against=[status.value] * subject.posteriors
        if subject.amortized and not status.good
        else (),
        rules_out=status.value if status in VETOES else "",
        vouches=vouches,
    )
