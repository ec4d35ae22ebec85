"""What the importance weights of the draws state: errors of the raw draws, and whether to reweight.

k-hat and the smoothed weights are those of `psis`; the ELBO is mean log w, the evidence log mean w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import ERRORS, Estimate, Testimony, where
from guidebook.diagnostics.numerics.psis import (
    Importance,
    khat_limit,
    khat_of_moment,
    psis,
    weighted_moments,
)

NAME = "Importance weights"
KHAT_ALONE = 0.5
"""Below it raw importance sampling has finite variance (Vehtari et al. 2024): asked of k-hat where
nothing but the weights and the gradients can judge the draws."""
REWEIGHT_SHARE = 0.1
"""Least importance ESS as a share of the draws: 400 of 4,000 give means to 0.05 sd."""
REWEIGHT_SHARE_OF_ROWS = 0.25
"""The same of each of many rows: 500 of 2,000 give means to 0.045 sd, within 0.1 for 97 of 100 rows."""
MOST_MOMENTS = 400
"""k-hats of second moments computed for all posteriors together, some tenths of a second."""
EVIDENCE = ("elbo", "elbo_se", "log_evidence", "log_evidence_se")


def evidence(log_ratio: np.ndarray) -> dict[str, float]:
    """The ELBO, mean log w, and log evidence, log mean w, with standard errors (delta method)."""
    size = len(log_ratio)
    top = float(np.max(log_ratio))
    w = np.exp(log_ratio - top)
    return {
        "elbo": float(log_ratio.mean()),
        "elbo_se": float(log_ratio.std(ddof=1) / math.sqrt(size)),
        "log_evidence": top + math.log(w.mean()),
        "log_evidence_se": float(w.std(ddof=1) / w.mean() / math.sqrt(size)),
    }


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """The errors of the raw draws by their smoothed weights, posterior by posterior.

    They speak against the draws where k-hat is below its limit, sharpen an estimate that confirms,
    and confirm alone where k-hat and the k-hats of second moments are below 0.5.
    """
    if subject.log_ratio is None:
        return Testimony(NAME, absent=_lacking(subject))
    found = [psis(column) for column in subject.log_ratio.T]
    if subject.posteriors == 1 and found[0] is None:
        return Testimony(
            NAME,
            absent="too few draws, or densities that are not finite",
            numbers=evidence_numbers(subject.log_ratio),
        )
    khat, khat_se, ess = (
        np.array([getattr(one, name) if one else missing for one in found])
        for name, missing in (("khat", math.inf), ("khat_se", math.nan), ("ess", 0.0))
    )
    limit = khat_limit(subject.draws)
    estimate = _estimate(subject, found).widened(subject.tails)
    moments = _khat_of_moments(subject, found)
    numbers = evidence_numbers(subject.log_ratio) | {"khat": khat, "khat_se": khat_se, "ess": ess}
    undecided = _undecided(found)
    tail = np.where(np.isfinite(moments), np.maximum(khat, moments), khat)
    return Testimony(
        NAME,
        words=_words(subject, numbers, undecided, estimate),
        role="sharpens",
        estimate=estimate,
        doubt=_doubt(khat, limit),
        against=_against(subject, estimate, khat, limit),
        against_weighted=_against_weighted(subject, numbers, undecided),
        weak_weighted=_weak_weighted(numbers, undecided, moments, limit),
        alone=(tail + khat_se < KHAT_ALONE) & estimate.within(ERRORS),
        agreement=_agreement(khat, limit),
        numbers=numbers,
        detail=found,
    )


def _undecided(found: list[Importance | None]) -> np.ndarray:
    """Where k-hat does not decide alone (n,). Of many posteriors it does: its errors even out in the
    share of rows that are within the limit, and few rows have another witness.
    """
    alone = len(found) == 1
    return np.array([alone and one is not None and one.undecided for one in found])


def _doubt(khat: np.ndarray, limit: float) -> np.ndarray:
    """The error of the weights grows with k-hat above 0.5, where their variance is infinite."""
    usable = np.isfinite(khat) & (khat < limit)
    return np.where(usable, 1 + 4 * np.maximum(0.0, khat - KHAT_ALONE), math.inf)


def _lacking(subject: Subject) -> str:
    """Why there are no weights; chains and points have none by what they are."""
    if subject.kind in ("chains", "point"):
        return ""
    return subject.lacks.get("log_ratio", "no weights")


def _agreement(khat: np.ndarray, limit: float) -> str:
    if (khat == -math.inf).all():
        return "all importance weights are equal to a few per cent"
    if (khat < limit).all():
        return "importance weighting leaves means and standard deviations within bounds"
    return ""


def weights_of(heard: Mapping[str, Testimony]) -> np.ndarray | None:
    """The smoothed weights (S, n) of the posteriors that were heard; None where there are none."""
    found = heard[NAME].detail if NAME in heard else None
    if not found or any(one is None for one in found):
        return None
    return np.stack([one.weights for one in found], axis=1)


def evidence_numbers(log_ratio: np.ndarray) -> dict[str, np.ndarray]:
    """`evidence` of every posterior, (n,) each, of log ratios (S, n); NaN where not all are finite."""
    found = [
        evidence(column) if np.isfinite(column).all() else dict.fromkeys(EVIDENCE, math.nan)
        for column in log_ratio.T
    ]
    return {name: np.array([one[name] for one in found]) for name in EVIDENCE}


def _estimate(subject: Subject, found: list[Importance | None]) -> Estimate:
    """Raw against weighted moments, with the errors of self-normalised weights, (n, M)."""
    shape = subject.values.shape[1:]
    parts = [np.full(shape, math.nan) for _ in range(4)]
    able = np.zeros(shape, bool)
    least = subject.least_sd
    for i, one in enumerate(found):
        if one is None:
            continue
        values = subject.values[:, i]
        mean, sd = values.mean(0), np.maximum(values.std(0), least)
        target_mean, target_sd = weighted_moments(values, one.weights)
        target_sd = np.maximum(target_sd, least)
        z2 = np.square((values - target_mean) / target_sd)
        tilt = one.weights - 1 / len(one.weights)  # the difference from the raw draws
        parts[0][i] = (mean - target_mean) / target_sd
        parts[1][i] = np.sqrt(np.square(tilt) @ z2)
        parts[2][i] = np.log(sd / target_sd)
        parts[3][i] = 0.5 * np.sqrt(np.square(tilt) @ np.square(z2 - 1))
        able[i] = one.usable
    shift, shift_se, log_ratio, log_ratio_se = parts
    return Estimate(shift, shift_se, log_ratio, log_ratio_se, able)


def _khat_of_moments(subject: Subject, found: list[Importance | None]) -> np.ndarray:
    """The largest k-hat of second moments over up to 40 marginals (n,); NaN where not computed."""
    worst = np.full(len(found), math.nan)
    if subject.is_discrete:  # bounded values have finite moments
        return worst
    assert subject.log_ratio is not None
    columns = min(40, subject.values.shape[2])
    for i, one in enumerate(found[: MOST_MOMENTS // columns]):
        if one is not None and np.isfinite(one.khat):
            log_ratio = subject.log_ratio[:, i]
            worst[i] = max(
                khat_of_moment(log_ratio, column) for column in subject.values[:, i, :columns].T
            )
    return worst


def _against(subject: Subject, estimate: Estimate, khat: np.ndarray, limit: float) -> list[str]:
    off = where(
        estimate.bad() & (khat < limit),
        lambda i: f"According to the importance weights, {estimate.worst(subject.names, i)}.",
    )
    if not subject.is_discrete:
        return off
    # without gradients, marginals may agree with a reference and their dependence be wrong
    dependent = where(
        ~(khat < limit),
        lambda i: (
            "The dependence between discrete variables cannot be checked: the importance weights "
            f"are unreliable (k-hat {khat[i]:.2f}, limit {limit:.2f}), and marginals do not show it."
        ),
    )
    return [a or b for a, b in zip(dependent, off, strict=True)]


def _against_weighted(
    subject: Subject, numbers: Mapping[str, np.ndarray], undecided: np.ndarray
) -> list[str]:
    khat, ess, limit = numbers["khat"], numbers["ess"], khat_limit(subject.draws)
    unusable = where(
        ~(khat < limit) & ~undecided,
        lambda i: (
            f"The importance weights are unreliable (k-hat {khat[i]:.2f}, limit {limit:.2f})."
        ),
    )
    # 95 % of many rows are to be within bounds: the errors of each must be so small
    share = REWEIGHT_SHARE if subject.posteriors == 1 else REWEIGHT_SHARE_OF_ROWS
    few = where(
        ~(ess >= share * subject.draws),
        lambda i: (
            f"The effective sample size under the importance weights is {ess[i]:.0f} of "
            f"{subject.draws} draws, below {share:.0%}."
        ),
    )
    return [a or b for a, b in zip(unusable, few, strict=True)]


def _weak_weighted(
    numbers: Mapping[str, np.ndarray], undecided: np.ndarray, moments: np.ndarray, limit: float
) -> list[str]:
    khat, khat_se = numbers["khat"], numbers["khat_se"]
    near = where(
        undecided,
        lambda i: (
            f"k-hat {khat[i]:.2f} +- {khat_se[i]:.2f} is within its standard error of the limit "
            f"{limit:.2f}, and the HMC check does not show that the weighted draws are within bounds."
        ),
    )
    heavy = where(
        moments > limit,
        lambda i: (
            "Standard deviations cannot be estimated from the importance weights (k-hat of second "
            f"moments {moments[i]:.2f}, limit {limit:.2f})."
        ),
    )
    return [a or b for a, b in zip(near, heavy, strict=True)]


def _words(
    subject: Subject, numbers: Mapping[str, np.ndarray], undecided: np.ndarray, estimate: Estimate
) -> tuple[str, ...]:
    khat, khat_se, ess = numbers["khat"], numbers["khat_se"], numbers["ess"]
    limit = khat_limit(subject.draws)
    finite = np.isfinite(khat)
    if not finite.any():
        equal = (khat == -math.inf).all()
        return (
            ("All equal to a few per cent: q has the shape of the posterior where it has draws.",)
            if equal
            else ()
        )
    if subject.posteriors == 1:
        said = [
            f"k-hat {khat[0]:.2f} +- {khat_se[0]:.2f} of {subject.draws} draws (limit {limit:.2f}), "
            f"effective sample size {ess[0]:.0f}."
        ]
        if khat[0] < limit:
            said.append(
                f"Largest error of the unweighted draws by the weights: {estimate.worst(subject.names)}."
            )
        if undecided[0]:
            said.append(
                "k-hat is within its standard error of the limit, so the HMC check decides whether the "
                "weighted draws can be used."
            )
        return tuple(said)
    middle, high = np.quantile(khat[finite], [0.5, 0.95])
    error = np.median(khat_se[finite])
    return (
        f"k-hat per row: median {middle:.2f}, 95 % below {high:.2f} (each +- {error:.2f}); "
        f"{np.mean(khat < limit):.0%} below the limit {limit:.2f}.",
    )


def khat_by_site(
    names: list[str],
    values: np.ndarray,
    log_ratio: np.ndarray | None,
    importance: Importance | None,
) -> dict[str, tuple[float, float]]:
    """The largest k-hat of second moments among a site's marginals (S, M), with its error, by site."""
    if log_ratio is None or importance is None or not np.isfinite(importance.khat):
        return {}
    sites: dict[str, tuple[float, float]] = {}
    for name, column in zip(names[:200], values.T, strict=False):
        site = name.split("[")[0]
        khat = khat_of_moment(log_ratio, column)
        if site not in sites or khat > sites[site][0]:
            sites[site] = khat, importance.khat_se
    return sites
