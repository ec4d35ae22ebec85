"""Does every mode of the posterior hold its share of the draws?

A mode that the draws never visit, or visit too often, is the one failure that importance weights,
gradients and short Markov chains at the draws are all blind to. What matters is what a wrong share
does to means and standard deviations: with masses w_k of K basins, shares a_k of the draws in them,
and a marginal's mean m_k and variance v_k in each,

    mean of p = sum_k w_k m_k,   var of p = sum_k w_k (v_k + m_k^2) - mean^2,

the same of q with a_k, and the two are compared as those of any other witness. A far mode of 0.6 % of
the mass may double a standard deviation; a near one of 5 % may not matter.

Mass beyond all draws, as on a shelf around a peak, is stated besides (`witnesses.beyond`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from guidebook.diagnostics.evidence.subject import Subject, Whole
from guidebook.diagnostics.evidence.testimony import ERRORS, Estimate, Testimony, percent, where
from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.numerics.modes import reached
from guidebook.diagnostics.witnesses.beyond import WIDER, beyond, lower_bound
from guidebook.diagnostics.witnesses.importance import weights_of

NAME = "Modes"
REPLICATES = 400
"""Of masses and shares within their errors, for the error of what they make."""
LEAST_DRAWS = 50
"""In a basin, from which on its moments are those of the draws and not of its own sample."""
SYMMETRIC = 0.2
"""Nats between two log masses, and standard deviations between images, that are one by a symmetry."""
UNVISITED = 0.3
"""Of its share: a mode with fewer of the draws is called missing, else wrongly weighted."""


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Errors of means and standard deviations that come of wrong shares of the modes."""
    if subject.kind == "point":
        return Testimony(NAME)
    basins = subject.modes
    if basins is None or subject.position is None or subject.potential is None:
        return Testimony(NAME, absent=subject.lacks.get("modes", ""))
    left = beyond(subject, heard)
    told = _without_shares(subject, basins) or _of_shares(subject, basins, heard)
    return _with_beyond(told, *left)


def _of_shares(subject: Subject, basins: Basins, heard: Mapping[str, Testimony]) -> Testimony:
    """What the shares of several modes make of means and standard deviations."""
    assert subject.position is not None
    masses = _masses(subject, basins, heard)
    place = basins.of(subject.position[:, 0])
    means, variances = _moments(subject, basins, place)
    seen = np.full(subject.draws, 1 / subject.draws)
    raw = _estimate(basins, masses, place, seen, means, variances, subject.seed)
    weights = weights_of(heard)
    weighted = None
    if weights is not None:
        weighted = _estimate(basins, masses, place, weights[:, 0], means, variances, subject.seed)
    shares = np.bincount(place, minlength=len(basins))[: len(basins)] / subject.draws
    expected = np.exp(masses - np.logaddexp.reduce(masses))
    said = _described(subject, expected, shares, means)
    missing = bool((shares < UNVISITED * expected)[_worst(expected, shares, means)[0]])
    rules_out = ""
    if raw.bad()[0] and missing and (weighted is None or weighted.bad()[0]):
        rules_out = f"The posterior has mass where there are no draws: {said}."
    return Testimony(
        NAME,
        words=(f"{said[:1].upper()}{said[1:]}; {_harm(subject, raw)}.",),
        estimate=raw,
        weighted=weighted,
        against=_against(subject, raw, said),
        against_weighted=() if weighted is None else _against(subject, weighted, said, "weighted "),
        rules_out=rules_out,
        far=raw.within(ERRORS),
        agreement=AGREEMENT if raw.within(ERRORS)[0] else "",
        remedy="" if raw.within(ERRORS)[0] else _remedy(subject, basins, shares, expected, means),
        detail=basins,
    )


def _without_shares(subject: Subject, basins: Basins) -> Testimony | None:
    """What is stated where there are no shares to compare; None where there are."""
    if not len(basins):
        return Testimony(NAME, words=("No maximum of the density was found from any start.",))
    if len(basins) == 1:
        return Testimony(NAME, words=(ONE,), far=np.ones(1, bool), agreement=AGREEMENT)
    listed = _listed(subject, basins)
    if listed < LISTED:
        return Testimony(
            NAME, words=(MORE,), against=[MORE], against_weighted=[MORE], remedy=ELSEWHERE
        )
    return None


def _with_beyond(told: Testimony, raw: str, weighted: str) -> Testimony:
    """The same with what lies beyond all draws, against the raw and against the weighted ones."""
    if not raw and not weighted:
        return told
    return replace(
        told,
        words=tuple(dict.fromkeys(filter(None, (*told.words, raw, weighted)))),
        against=[(*told.against, "")[0] or raw],
        against_weighted=[(*told.against_weighted, "")[0] or weighted],
        far=None,
        agreement="",
        remedy=told.remedy or WIDER,
    )


LISTED, CLIMBS = 0.5, 8
"""Of the climbs from draws, so many must end at a mode that the search has found."""
MORE = (
    "The posterior has more modes than the search could list: most draws lie around modes that no other "
    "start reached, so their shares cannot be checked."
)
ELSEWHERE = (
    "Take the symmetry that makes so many modes out of the model, or compare with a reference that is "
    "known to visit them all."
)
ONE = (
    "One mode was found, from starts around the draws, the origin and the prior, and along random lines. A "
    "far second mode that is much narrower can be missed (docs/verdicts.md has rates)."
)
AGREEMENT = "every mode that a search from the prior found holds its share of the draws"


def _listed(subject: Subject, basins: Basins) -> float:
    """The share of climbs from a few draws that end at a mode that is among the basins'."""
    assert subject.position is not None and subject.potential is not None
    every = [mode for group in basins.modes for mode in group]
    chosen = np.linspace(0, subject.draws - 1, CLIMBS).round().astype(int)
    return reached(subject.potential, every, subject.position[chosen, 0])


# masses and moments --------------------------------------------------------------------------------


def _masses(subject: Subject, basins: Basins, heard: Mapping[str, Testimony]) -> np.ndarray:
    """Log masses (K,). What a lower bound of the evidence has above their sum lies around the draws."""
    assert subject.position is not None
    masses = basins.log_mass.copy()
    least = lower_bound(subject, heard)
    total = float(np.logaddexp.reduce(masses))
    if least > total:
        home = int(np.bincount(basins.of(subject.position[:, 0])).argmax())
        excess = least + math.log(-math.expm1(total - least))
        masses[home] = np.logaddexp(masses[home], excess)
    return masses


def _moments(subject: Subject, basins: Basins, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances (K, M) of the marginals in every basin, by the draws where there are enough."""
    assert subject.potential is not None
    own, density = subject.values[:, 0], Whole(subject.potential)
    u = torch.as_tensor(basins.u, dtype=density.dtype, device=density.device)
    sampled = density.values(u[:, None])[:, 0]
    means, variances = (np.zeros((len(basins), own.shape[1])) for _ in range(2))
    for k in range(len(basins)):
        inside = own[place == k]
        if len(inside) >= LEAST_DRAWS:
            means[k], variances[k] = inside.mean(0), inside.var(0)
            continue
        chosen = basins.place == k
        w, values = basins.weight[chosen], np.nan_to_num(sampled[chosen])
        means[k] = w @ values
        variances[k] = w @ np.square(values - means[k])
    return means, variances


def _estimate(
    basins: Basins,
    masses: np.ndarray,
    place: np.ndarray,
    weights: np.ndarray,
    means: np.ndarray,
    variances: np.ndarray,
    seed: int,
) -> Estimate:
    """Errors of draws with these weights (S,) by their shares, errors of masses and shares included."""
    rng = np.random.default_rng(seed)
    shares = np.bincount(place, weights, minlength=len(basins))
    effective = 1 / np.square(weights).sum()
    shift, log_ratio = harm(np.exp(masses - masses.max()), shares, means, variances)
    noisy = masses + basins.log_mass_se * rng.standard_normal((REPLICATES, len(basins)))
    counts = rng.dirichlet(shares * effective + 1e-6, REPLICATES)
    trials = [
        harm(np.exp(m - m.max()), a, means, variances) for m, a in zip(noisy, counts, strict=True)
    ]
    errors = [np.std([trial[i] for trial in trials], axis=0)[None] for i in (0, 1)]
    able = np.ones((1, means.shape[1]), bool)
    return Estimate(shift[None], errors[0], log_ratio[None], errors[1], able)


def harm(
    mass: np.ndarray, share: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(mean of q - mean of p) / sd of p and log(sd of q / sd of p), (M,), of masses and shares (K,)."""
    w, a = mass / mass.sum(), share / share.sum()
    middle = w @ means  # differences from it: large means lose no digits
    moved = means - middle
    var_p = w @ (variances + np.square(moved))
    shift = a @ moved
    var_q = a @ (variances + np.square(moved)) - np.square(shift)
    sd = np.sqrt(np.maximum(var_p, 1e-300))
    return shift / sd, 0.5 * np.log(np.maximum(var_q, 1e-300) / np.maximum(var_p, 1e-300))


# words -----------------------------------------------------------------------------------------------


def _worst(expected: np.ndarray, shares: np.ndarray, means: np.ndarray) -> tuple[int, int]:
    """The basin, besides that of most draws, whose wrong share moves means most; and that of most draws."""
    home = int(np.argmax(shares))
    spread = np.sqrt(np.maximum(expected @ np.square(means - expected @ means), 1e-300))
    away = np.square((means - means[home]) / spread).max(1)
    off = np.abs(expected - shares) * (1 + away)
    off[home] = -1.0
    return int(np.argmax(off)), home


def _described(
    subject: Subject, expected: np.ndarray, shares: np.ndarray, means: np.ndarray
) -> str:
    """The basin with the most harmful share: where it is, what it holds and what it should."""
    k, home = _worst(expected, shares, means)
    spread = np.maximum(subject.values[:, 0].std(0), 1e-300)
    away = np.abs(means[k] - means[home]) / spread
    named = np.argsort(-away)[:3]
    place = ", ".join(f"{subject.names[i]} = {means[k][i]:.3g}" for i in named if away[i] > 0)
    return (
        f"the mode at {place} should hold about {percent(expected[k])} of the posterior mass and "
        f"holds {percent(shares[k])} of the draws"
    )


def _remedy(
    subject: Subject,
    basins: Basins,
    shares: np.ndarray,
    expected: np.ndarray,
    means: np.ndarray,
) -> str:
    """What to do about two modes: by the symmetry between them, where there is one."""
    k, home = _worst(expected, shares, means)
    one, other = basins.modes[home][0], basins.modes[k][0]
    sd = one.factor if one.factor.ndim == 1 else np.linalg.norm(one.factor, axis=1)
    moved = np.abs(one.center - other.center) > sd
    sites = ", ".join(
        dict.fromkeys(n.split("[")[0] for n, m in zip(subject.coordinates, moved, strict=True) if m)
    )
    alike = bool(moved.any()) and abs(one.log_mass - other.log_mass) < SYMMETRIC
    near = SYMMETRIC * sd[moved]
    if alike and (np.abs(one.center + other.center)[moved] < near).all():
        return (
            f"The density is the same with the signs of {sites} reversed: fix the sign of one of its "
            "numbers (a positive prior), and fit again."
        )
    parts = np.sort(one.center[moved]), np.sort(other.center[moved])
    if alike and np.abs(parts[0] - parts[1]).max() < near.min():
        return (
            f"The density is the same with the components of {sites} in another order: order them in "
            "the model, and fit again."
        )
    return "Use a guide that can hold several modes (flow), or nuts with chains started in each of them."


def _harm(subject: Subject, raw: Estimate) -> str:
    if raw.within(ERRORS)[0]:
        return "the error that this makes is within bounds"
    return raw.worst(subject.names)


def _against(subject: Subject, found: Estimate, said: str, which: str = "") -> Sequence[str]:
    """Draws are used only where wrong shares are shown to be harmless."""
    shown = found.bad()
    return where(
        ~found.within(ERRORS),
        lambda i: (
            f"The {which}draws have the modes in wrong shares: {said}; {found.worst(subject.names, i)}."
            if shown[i]
            else f"The posterior has several modes, and their shares are known too roughly: {said}."
        ),
    )
