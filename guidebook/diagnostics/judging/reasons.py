"""Of every posterior: why its raw or its weighted draws may not be used, the first reason that was heard.

Trust needs a witness that could see an error of the size that matters and puts every marginal within
bounds (alone, or pooled by inverse variances), one that would have seen mass far from the draws, and
none that contradicts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings
from guidebook.diagnostics.judging.shares import SHARE_TRUSTED, enough_of_sample

WEIGHTED_ERRORS = 1.0
"""Standard errors by which weighted draws must be within bounds where k-hat leaves them in doubt."""
NOT_SEEN = "Inconclusive: no diagnostic could be computed"


def why_not_trust(f: Findings) -> list[str]:
    """Of every posterior: empty where its raw draws can be trusted, else the first reason against."""
    reasons = _first(f, "against")
    confirmed, alone = _confirmed(f), _alone(f)
    unknown = _undecided(f)
    return [
        reason or ("" if confirmed[i] or alone[i] else unknown(i))
        for i, reason in enumerate(reasons)
    ]


def why_not_reweight(f: Findings) -> list[str]:
    """Of every posterior: empty where its weighted draws can be used, else the first reason against."""
    if not any(t.numbers.get("khat") is not None for t in f.testimonies.values()):
        absent = ", ".join(f.absent()) or "importance weights"
        return [f"The draws cannot be reweighted; not computed: {absent}."] * f.posteriors
    reasons, weak = _first(f, "against_weighted"), _first(f, "weak_weighted")
    within = _any(f, _weighted_within) & (_seen_far(f) | _usable(f))
    within &= f.posteriors == 1  # of a row other draws are used than those that were looked at
    checked = _any(f, lambda t: t.checks)
    if f.sampled is not None:  # what the sample confirms holds for rows like it
        checked |= bool(checked[list(f.sampled)].all())
    unseen = (
        "Discrete variables have no gradients; without a sound reference a mode that the weighted "
        "draws miss cannot be detected."
        if f.discrete
        else "No diagnostic independent of the importance weights could check the weighted draws."
    )
    return [
        reason or ("" if within[i] else weak[i]) or ("" if checked[i] else unseen)
        for i, reason in enumerate(reasons)
    ]


def _first(f: Findings, name: str) -> list[str]:
    """The first reason of that name for every posterior; the last heard, a reference, comes first."""
    found = [""] * f.posteriors
    for testimony in f.testimonies.values():
        for i, words in enumerate(getattr(testimony, name)):
            found[i] = words or found[i]
    return found


def _any(f: Findings, flags: Callable[[Testimony], np.ndarray | None]) -> np.ndarray:
    total = np.zeros(f.posteriors, bool)
    for testimony in f.testimonies.values():
        own = flags(testimony)
        if own is not None:
            total |= own
    return total


def _weighted_within(t: Testimony) -> np.ndarray | None:
    """Whether a confirming witness that can judge the weighted draws puts them within bounds."""
    if t.role != "confirms" or t.weighted is None:
        return None
    return t.weighted.able.all(-1) & t.weighted.within(WEIGHTED_ERRORS)


def _confirmed(f: Findings) -> np.ndarray:
    """Vouched for, or every marginal is within bounds by the pooled estimate of those that can judge."""
    confirmed = _any(f, lambda t: t.vouches)
    together = pooled(f)
    if together is None:
        return confirmed
    confirmed |= together.good() & (_seen_far(f) | _usable(f))
    if f.sampled is not None and _sample_agrees(f):
        confirmed |= _any(f, _usable_and_within)
    return confirmed


def _seen_far(f: Findings) -> np.ndarray:
    """Where mass far from the draws would have been seen."""
    far = _any(f, lambda t: t.far)
    if f.sampled is not None:  # what holds for the sample holds for rows like it
        far |= bool(far[list(f.sampled)].all())
    return far


def _usable(f: Findings) -> np.ndarray:
    """Where the importance weights can be relied on: k-hat above its limit is a doubt."""
    return _any(f, lambda t: None if t.doubt is None else np.isfinite(t.doubt))


def _sample_agrees(f: Findings) -> bool:
    """Whether costly witnesses could judge most of the sampled rows, and found few of them off.

    A run on a few hundred draws of a row is too short to put it within bounds by itself; it sees what
    the row's weights are blind to.
    """
    rows = list(f.sampled or [])
    judged = np.any([one.able[rows].all(-1) for one in _confirming(f)], axis=0)
    off = np.any([one.bad()[rows] for one in _confirming(f)], axis=0)
    return bool(judged.mean() > 0.5) and enough_of_sample(~off, SHARE_TRUSTED)


def _usable_and_within(t: Testimony) -> np.ndarray | None:
    if t.role != "sharpens" or t.estimate is None:
        return None
    return t.estimate.good()


def pooled(f: Findings) -> Estimate | None:
    """The estimates that confirm and those that sharpen them, weighted by inverse variances."""
    confirming = _confirming(f)
    if not confirming:
        return None
    together = confirming[0]
    for one in confirming[1:]:
        together = _combined(together, one, np.ones(f.posteriors), together.able | one.able)
    for t in f.testimonies.values():
        if t.role == "sharpens" and t.estimate is not None and t.doubt is not None:
            together = _combined(together, t.estimate, t.doubt, together.able)
    return together


def _confirming(f: Findings) -> list[Estimate]:
    """The estimates on which a trust may rest."""
    told = f.testimonies.values()
    return [t.estimate for t in told if t.role == "confirms" and t.estimate is not None]


def _combined(a: Estimate, b: Estimate, doubt: np.ndarray, able: np.ndarray) -> Estimate:
    """Both, with the errors of b multiplied by `doubt` (n,): infinite leaves a as it is."""
    factor = np.where(np.isfinite(doubt), doubt, 1.0)[:, None]
    listened = np.isfinite(doubt)[:, None]

    def mean(x: np.ndarray, x_se: np.ndarray, y: np.ndarray, y_se: np.ndarray) -> list[np.ndarray]:
        x_weight = np.nan_to_num(1 / np.square(x_se + 1e-9))
        y_weight = np.where(listened, np.nan_to_num(1 / np.square(factor * y_se + 1e-9)), 0.0)
        total = x_weight + y_weight
        with np.errstate(divide="ignore", invalid="ignore"):
            value = (np.nan_to_num(x) * x_weight + np.nan_to_num(y) * y_weight) / total
            return [value, 1 / np.sqrt(total)]

    shift = mean(a.shift, a.shift_se, b.shift, b.shift_se)
    ratio = mean(a.log_ratio, a.log_ratio_se, b.log_ratio, b.log_ratio_se)
    return Estimate(shift[0], shift[1], ratio[0], ratio[1], able)


def _alone(f: Findings) -> np.ndarray:
    """Confirmed by the weights alone, which asks more of them and that the gradients agree."""
    alone = _any(f, lambda t: t.alone)
    could = np.zeros(f.posteriors, bool)
    for one in _confirming(f):
        could |= one.able.any(-1)
    if f.discrete or f.converged is False:
        return np.zeros(f.posteriors, bool)
    supported = _any(f, lambda t: t.supports)
    if f.sampled is not None:  # what holds for the sample holds for rows like it
        supported = np.full(f.posteriors, bool(supported[list(f.sampled)].all()))
    return alone & ~could & supported


def _undecided(f: Findings) -> Callable[[int], str]:
    """The reason where no witness contradicts and none confirms, of posterior i."""
    together = pooled(f)
    khat = next((t.numbers["khat"] for t in f.testimonies.values() if "khat" in t.numbers), None)

    def words(i: int) -> str:
        if f.discrete:
            return (
                "Discrete variables have no gradients; without a sound reference a missed mode "
                "cannot be detected."
            )
        if together is not None and together.good()[i]:
            weights = (
                "there are no importance weights" if khat is None else f"k-hat is {khat[i]:.2f}"
            )
            return (
                f"Inconclusive: what was seen at the draws is within bounds, but {weights}, which leaves "
                "a doubt, and nothing could look for mass far from them."
            )
        if together is not None and together.able[i].all():
            return (
                "Inconclusive: an error is within two standard errors of its limit (the largest: "
                f"{together.worst(f.names, i)})."
            )
        weights = "no importance weights" if khat is None else f"k-hat is {khat[i]:.2f}"
        if together is not None:
            blind = f.names[int(np.argmin(together.able[i]))]
            return f"Inconclusive: the HMC check did not mix for {blind}, and {weights}."
        if khat is None:
            return f"{NOT_SEEN}: {', '.join(f.absent()) or 'no draws or densities were given'}."
        return f"Inconclusive: {weights}, and no other diagnostic could check the raw draws."

    return words
