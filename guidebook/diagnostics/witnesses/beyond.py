"""Is there mass of the posterior beyond all draws?

A peak above a wide shelf is one mode with two scales: what the shelf holds beyond all draws is integrated
along straight lines out of them, and along every coordinate (`numerics.shells`). A lower bound of the
evidence says whether the lines have found the mass that there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import ERRORS, SD_HIGH, Testimony, percent
from guidebook.diagnostics.numerics.modes import log_density
from guidebook.diagnostics.numerics.psis import khat_limit
from guidebook.diagnostics.numerics.shells import Shells, along, along_in_marginals, shells
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.importance import weights_of
from guidebook.programs.labels import exchangeable, log_labellings
from guidebook.programs.potential import Potential
from guidebook.programs.start.gaussian import Start, elbo

UNDER = 1.0
"""Nats by which the integral along lines may be below a lower bound of the evidence and still be used."""
WIDER = (
    "A peak above a wide shelf often comes of a scale near zero: give the scale a prior away from zero, or "
    "reparameterise (the non-centred model); else use gb.pathfinder, or nuts from scattered starts."
)


def beyond(subject: Subject, heard: Mapping[str, Testimony]) -> tuple[str, str]:
    """What lies beyond all draws where that makes the standard deviations of the raw and of the weighted
    draws wrong (`numerics.shells`); else "". Raw draws that were moved after the fit are never used, and not
    looked at.
    """
    assert subject.potential is not None and subject.position is not None
    potential = subject.potential
    if subject.density is None or exchangeable(potential.model) is not None:
        return "", ""  # evaluated one position at a time; or the lines run into other labellings
    u, seed, weights = subject.position[:, 0], subject.seed, weights_of(heard)

    def log_p(at: np.ndarray) -> np.ndarray:
        return log_density(potential, at)

    off = _off_the_lines(subject, heard, shells(log_p, u, seed))
    if off:
        return off, off
    raw = "" if subject.moved else _along(subject, log_p, None)
    if weights is None:
        return raw, raw
    if any(heard[importance.NAME].against_weighted):  # they cannot be used, whatever lies there
        return raw, raw
    return raw, _along(subject, log_p, weights[:, 0])


def _off_the_lines(subject: Subject, heard: Mapping[str, Testimony], found: Shells | None) -> str:
    """The reason where the integral along random lines can be used and the error is shown to matter."""
    if found is None:
        return ""
    least = lower_bound(subject, heard)
    error = ERRORS * found.log_ratio_se * float(subject.tails.max())
    if found.log_mass < least - UNDER or -found.log_ratio - error <= math.log(SD_HIGH):
        return ""
    return (
        f"The posterior has mass beyond all draws: of the density integrated along straight lines out of "
        f"them {percent(found.beyond)} lies beyond the farthest draw, and without it standard deviations "
        f"are too small by a factor of about {math.exp(-found.log_ratio):.3g}."
    )


def _along(
    subject: Subject, log_p: Callable[[np.ndarray], np.ndarray], weights: np.ndarray | None
) -> str:
    """The reason of the first coordinate, of those that lack most beyond their farthest draw, where that
    makes a marginal's standard deviation too small.
    """
    assert subject.position is not None and subject.density is not None
    u, density = subject.position[:, 0], subject.density

    def marginals(at: np.ndarray) -> np.ndarray:
        place = torch.as_tensor(at[:, None], dtype=density.dtype, device=density.device)
        return density.values(place)[:, 0]

    for j, share, log_ratio in along(log_p, u, subject.seed, weights):
        if -log_ratio <= math.log(SD_HIGH):
            continue
        told = log_p, marginals, u, subject.values[:, 0], j
        ratio = along_in_marginals(*told, subject.seed, weights)
        m = int(np.argmin(ratio))
        if -ratio[m] > math.log(SD_HIGH):
            return (
                f"The posterior has mass beyond all draws: of {subject.coordinates[j]} given the others (a "
                f"Gibbs step from some of the draws) {percent(share)} lies beyond the farthest "
                f"draw, and without it the standard deviation of {subject.names[m]} is too small by a "
                f"factor of {math.exp(-ratio[m]):.3g} or more."
            )
    return ""


# the evidence ------------------------------------------------------------------------------------


def lower_bound(subject: Subject, heard: Mapping[str, Testimony]) -> float:
    """A lower bound of log p(x): an ELBO, or the evidence estimate where weights are usable."""
    assert subject.potential is not None and subject.position is not None
    bounds = [gaussian_elbo(subject.potential, subject.position[:, 0])]
    numbers = heard[importance.NAME].numbers if importance.NAME in heard else {}
    if "elbo" in numbers and np.isfinite(numbers["elbo"][0]):
        usable = "khat" in numbers and numbers["khat"][0] < khat_limit(subject.draws)
        bounds.append(float(numbers["log_evidence" if usable else "elbo"][0]))
    return max(bounds)


def gaussian_elbo(potential: Potential, u: np.ndarray) -> float:
    """The ELBO of the Gaussian with the moments of the draws u (S, D); -inf where it has none."""
    covariance = np.atleast_2d(np.cov(u, rowvar=False))
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return -math.inf
    center, factor_ = (
        torch.as_tensor(a, dtype=potential.dtype, device=potential.device)
        for a in (u.mean(0), factor)
    )
    own = elbo(potential, Start(center, factor_, -math.inf, mode=False))
    return own + log_labellings(potential.model)
