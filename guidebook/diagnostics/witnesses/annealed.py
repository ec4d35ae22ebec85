"""Do chains that begin in the prior end where the draws are?

Annealed importance sampling from the prior gives weighted draws of the posterior that know nothing of
q: where a row has several explanations, chains end in each of them, in proportion. Their weighted
means and standard deviations are held against those of the draws. With few effective chains that is
coarse, and still sees what importance weights at the draws and short runs from them are blind to: an
explanation that q leaves out. A chain that ends where q has no draws, across a valley of the density, shows
that there is one. The share that such chains give must be harmless to means and standard deviations: one
chain of 256 far enough away makes a standard deviation wrong by 20 %. Without a valley q is too narrow, and
no explanation is left out.

Where mixtures begun at the ends came so close to the posterior that their weights are even
(`numerics.population`), thousands of effective draws stand in place of the chains: they put means and
standard deviations within bounds by themselves, however heavy the tail of q's own weights is, and of several
explanations.

Sources: Neal 2001, "Annealed importance sampling"; Cappe, Douc, Guillin, Marin and Robert 2008, "Adaptive
importance sampling in general mixture classes".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from guidebook.diagnostics.evidence.subject import Annealed, Subject
from guidebook.diagnostics.evidence.testimony import (
    MEAN_LIMIT,
    SD_LOW,
    Estimate,
    Testimony,
    where,
)
from guidebook.diagnostics.numerics.moments import moments
from guidebook.diagnostics.numerics.psis import weighted_moments
from guidebook.diagnostics.witnesses.importance import weights_of
from guidebook.diagnostics.witnesses.modes import harm

NAME = "Annealing from the prior"
LEAST_ESS = 16.0
"""Effective chains below which their weights say nothing."""
CAUTION = 2.5
"""Times the standard errors of weighted means: those of few and unequal weights are too small (the
spread of 96 standardised errors of an exact posterior is 1.2), and many marginals are looked at."""
OUTSIDE = 4.0
"""Of q's standard deviations, from its mean: a chain that ends beyond sqrt D + 4 is elsewhere."""
ELSEWHERE = 0.05
"""Of the weight: with more of it elsewhere the mean of q is the code of one explanation of several."""
LOOKED_AT = 64
"""Draws outside, and points of a way."""
VALLEY = 1.0
"""Nats by which the density falls on the way from the draws to another explanation, below both."""
OFTEN = 0.05
"""Of the rows: where more have one, that is what to mend first."""


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Errors of raw and weighted draws by the ends of chains annealed from the prior, per posterior.

    `detail`: (n,), the share of the posterior in explanations that q leaves out.
    """
    if subject.annealed is None:
        return Testimony(NAME, absent=subject.lacks.get("annealed", ""))
    values, log_w, known = subject.annealed[:3]
    weights = normalised(log_w)
    ess = 1 / np.square(weights).sum(0)
    able = ess >= LEAST_ESS
    raw = _estimate(subject, values, weights, able, None)
    of_draws = weights_of(heard)
    weighted = None if of_draws is None else _estimate(subject, values, weights, able, of_draws)
    of_q = subject.values if subject.own is None else subject.own.draws
    outside, own = _outside(of_q, values), _outside(of_q, of_q).mean(0)
    elsewhere = (weights * outside).sum(0)
    matters = _matters(subject, values, weights * outside, elsewhere - own)
    # few effective chains prove it too
    left_out = matters & _across(subject, values, weights * outside)
    words = [_how_well(ess, known, able)]
    if left_out.any():
        words.append(
            f"In {left_out.mean():.0%} of the rows q keeps one of several explanations: "
            f"{np.median(elsewhere[left_out]):.0%} of the posterior lies where it has no draws."
        )
    return Testimony(
        NAME,
        words=tuple(words),
        role="confirms",
        estimate=_of_known(raw, known),  # a few chains may contradict, and are too few to confirm
        weighted=None if weighted is None else _of_known(weighted, known),
        against=_against(subject, raw, left_out, elsewhere),
        against_weighted=_against(subject, weighted, left_out, elsewhere),
        checks=known,
        far=able & ~raw.bad() & ~left_out,
        agreement="chains annealed from the prior end where the draws are" if able.all() else "",
        remedy=REMEDY if left_out.mean() > OFTEN else "",
        detail=np.where(left_out & (elsewhere > ELSEWHERE), elsewhere, 0.0),
    )


def open_to(heard: Mapping[str, Testimony]) -> tuple[np.ndarray, np.ndarray]:
    """Whether (n,) raw and weighted draws can be spoken against by what goes by a Gaussian or by drift.

    Not where means and standard deviations of the posterior are known with small errors, and those of the
    draws are within bounds of them: of several explanations both others can be misled.
    """
    told = heard.get(NAME)
    found = (None, None) if told is None else (told.estimate, told.weighted)
    raw, weighted = (np.ones(1, bool) if one is None else ~one.good() for one in found)
    return raw, weighted


def normalised(log_w: np.ndarray) -> np.ndarray:
    """Weights (C, n) that sum to 1 over the draws."""
    weights = np.exp(log_w - log_w.max(0))
    found: np.ndarray = weights / weights.sum(0)
    return found


def _of_known(one: Estimate, known: np.ndarray) -> Estimate:
    """The estimate, able to judge the posteriors (n,) alone that are known."""
    return replace(one, able=one.able & known[:, None])


def _how_well(ess: np.ndarray, known: np.ndarray, able: np.ndarray) -> str:
    """From how many effective draws the posteriors are known, in words."""
    told = []
    if known.any():
        told.append(
            f"For {known.mean():.0%} of the rows a mixture was adapted to the posterior (median effective "
            f"draws of it: {np.median(ess[known]):.0f})."
        )
    if not known.all():
        rows = "the other rows" if known.any() else "the rows"
        told.append(f"Effective chains for {rows}: median {np.median(ess[~known]):.0f}.")
    return f"{' '.join(told)} {able.mean():.0%} of {len(able)} rows could be judged."


REMEDY = (
    "Use a guide that can hold several explanations of a row (AmortizedFlow), or take the symmetry out "
    "of the decoder."
)


def _estimate(
    subject: Subject,
    values: np.ndarray,
    weights: np.ndarray,
    able: np.ndarray,
    of_draws: np.ndarray | None,
) -> Estimate:
    """Moments of q, or of its draws with their weights (S, n), against those of the chains (n, M)."""
    assert subject.annealed is not None
    shape = values.shape[1:]
    shift, shift_se, log_ratio, log_ratio_se = (np.full(shape, np.nan) for _ in range(4))
    for i in range(shape[0]):
        caution = 1.0 if subject.annealed.known[i] else CAUTION
        mean, sd, size = _judged(subject, i, of_draws)
        target = moments(values[:, i], weights[:, i], _drawn_from(subject.annealed, i))
        shift[i] = (mean - target.mean) / target.sd
        shift_se[i] = caution * np.sqrt(np.square(target.mean_se) + 1 / size)
        log_ratio[i] = np.log(np.maximum(sd, 1e-300) / target.sd)
        log_ratio_se[i] = caution * np.sqrt(np.square(target.log_sd_se) + 0.5 / size)
    told = np.broadcast_to(able[:, None], shape)
    return Estimate(shift, shift_se, log_ratio, log_ratio_se, told)


def _drawn_from(found: Annealed, i: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation (M,) of what the draws of posterior i are of, where they are known."""
    return (found.center[i], found.spread[i]) if found.known[i] else None


def _judged(
    subject: Subject, i: int, of_draws: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Means and standard deviations (M,) of what is judged, and of how many draws they are."""
    if of_draws is not None:
        own = of_draws[:, i]
        return *weighted_moments(subject.values[:, i], own), 1 / float(np.square(own).sum())
    if subject.own is not None:
        return subject.own.mean[i], subject.own.sd[i], subject.own.size
    return *weighted_moments(subject.values[:, i], None), float(subject.draws)


def _outside(draws: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which places (C, n) are far from nearly all draws (S, n, M) of q."""
    found = np.zeros(values.shape[:2], bool)
    limit = np.sqrt(values.shape[2]) + OUTSIDE
    for i in range(draws.shape[1]):
        own = draws[:, i]
        covariance = np.atleast_2d(np.cov(own, rowvar=False))
        away = values[:, i] - own.mean(0)
        squared = ((away @ np.linalg.pinv(covariance)) * away).sum(1)
        found[:, i] = squared > limit**2
    return found


def _matters(
    subject: Subject, values: np.ndarray, weights: np.ndarray, lost: np.ndarray
) -> np.ndarray:
    """Rows (n,) where a share `lost` of the posterior, around the ends with these weights (C, n), makes means
    or standard deviations of the draws wrong.
    """
    found = np.zeros(len(lost), bool)
    for i in np.flatnonzero(lost > 0):
        mean, sd = weighted_moments(subject.values[:, i], None)
        there, _ = weighted_moments(values[:, i], weights[:, i] / weights[:, i].sum())
        mass, share = np.array([1 - lost[i], lost[i]]), np.array([1.0, 0.0])
        shift, log_ratio = harm(mass, share, np.stack([mean, there]), np.stack([sd, sd]) ** 2)
        found[i] = (np.abs(shift) > MEAN_LIMIT).any() or (log_ratio < math.log(SD_LOW)).any()
    return found


def _across(subject: Subject, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows (n,) where the density falls on the straight way from the draw of q with the highest density to
    the highest of the draws outside, or to their mean: in many dimensions an end lies far below its
    peak, the mean of several does not.

    `weights` (C, n) are nil inside. Of the draws outside those with the largest are looked at, and a way is
    as many points. Where there is no density every draw outside counts.
    """
    outside = weights > 0
    if subject.density is None or subject.log_density is None or not outside.any():
        return np.asarray(outside.any(0))
    row = np.arange(subject.posteriors)
    order = np.argsort(-weights, axis=0, kind="stable")[:LOOKED_AT]
    values, weights = (
        np.take_along_axis(values, order[..., None], 0),
        np.take_along_axis(weights, order, 0),
    )
    outside = weights > 0
    start = subject.values[np.nan_to_num(subject.log_density, nan=-np.inf).argmax(0), row]
    height = np.where(outside, _log_density(subject, values), -np.inf)
    mean = (values * outside[..., None]).sum(0) / np.maximum(outside.sum(0), 1)[:, None]
    steps = np.linspace(0.0, 1.0, len(values))[:, None, None]
    found = np.zeros(subject.posteriors, bool)
    for end in (values[height.argmax(0), row], mean):
        path = _log_density(subject, start + steps * (end - start))
        found |= path.min(0) < np.minimum(path[0], path[-1]) - VALLEY
    return np.asarray(found & outside.any(0))


def _log_density(subject: Subject, values: np.ndarray) -> np.ndarray:
    """log p(x, z) (C, n) at z (C, n, M)."""
    assert subject.density is not None
    z = torch.as_tensor(values, dtype=subject.density.dtype, device=subject.density.device)
    value, _ = subject.density.value_and_grad(z)
    return np.nan_to_num(value.double().cpu().numpy(), nan=-np.inf)


def _against(
    subject: Subject, found: Estimate | None, left_out: np.ndarray, elsewhere: np.ndarray
) -> list[str]:
    """Why the draws cannot be used: of weighted ones that are not known, an explanation left out only."""
    bad = left_out if found is None else found.bad() | left_out
    return where(
        bad,
        lambda i: (
            f"The draws keep one of several explanations of the data: {100 * elsewhere[i]:.2g} % of the "
            "posterior lies where there are none."
            if left_out[i] or found is None
            else f"Compared with chains annealed from the prior, {found.worst(subject.names, i)}."
        ),
    )
