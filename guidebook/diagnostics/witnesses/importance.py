"""Pareto-smoothed importance sampling of the draws, with the error of k-hat.

    w_s = p(x, z_s) / q(z_s),   log evidence = log mean w,   ESS = (sum w)^2 / sum w^2.

k-hat is the shape of the generalised Pareto distribution of the largest M = min(S / 5, 3 sqrt S)
weights; its standard error is (1 + k) / sqrt(M), that of maximum likelihood for k > -1/2 (Smith
1987, "Estimating tails of probability distributions"). Weights are usable below
min(1 - 1 / log10 S, 0.7): Vehtari et al. 2024, "Pareto smoothed importance sampling".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from arviz_stats.base import array_stats

from guidebook.diagnostics.witnesses.testimony import Estimate, Marginals

if TYPE_CHECKING:
    import xarray as xr


LEAST_SHARE = 0.1
"""Of the draws: effective ones of weights that could not be smoothed, below which they say nothing."""


LEAST_DRAWS = 25
"""arviz_stats fits no tail to fewer."""


ROUNDING = 1e-5
"""Weights that differ by less, relative to the log density, are equal."""


@dataclass(frozen=True)
class Importance:
    """weights (S,) smoothed and summing to 1; k-hat with its error; effective sample size."""

    weights: np.ndarray
    khat: float
    khat_se: float
    ess: float

    @property
    def usable(self) -> bool:
        return self.khat < khat_limit(len(self.weights))


def khat_limit(draws: int) -> float:
    """min(1 - 1 / log10 S, 0.7)."""
    return min(1 - 1 / math.log10(max(draws, 11)), 0.7)


def psis(log_ratio: np.ndarray) -> Importance | None:
    """Smoothed weights of log p(x, z) - log q(z), shape (S,); None where nothing can be said.

    Equal weights (q is the posterior) give k-hat -inf, error 0 and ESS S. Draws of zero density
    (-inf) have weight zero; +inf or NaN, or fewer than 25 draws, give None.
    """
    size = len(log_ratio)
    if size < LEAST_DRAWS or np.isnan(log_ratio).any() or np.isposinf(log_ratio).any():
        return None
    finite = np.isfinite(log_ratio)
    if finite.sum() < LEAST_DRAWS:
        return None
    centred = np.where(finite, log_ratio - log_ratio[finite].max(), -1e4)
    # weights equal to a thousandth: what is left is rounding (float32), which has no tail to fit
    if np.ptp(centred) < max(1e-3, 1e-9 * float(np.abs(log_ratio[finite]).max())):
        return Importance(np.full(size, 1 / size), -math.inf, 0.0, float(size))
    # arviz_stats negates its argument: it expects -log ratio, as of leave-one-out densities
    with np.errstate(divide="ignore", invalid="ignore"):  # many equal weights in the tail
        try:
            log_weights, khat = array_stats.psislw(-centred, r_eff=1)
        except ValueError:  # the whole tail is one value: bounded weights, nothing to smooth
            log_weights, khat = centred, -math.inf
    smoothed = bool(np.isfinite(log_weights).all())
    if not smoothed:  # ties in the tail, as discrete draws have: taken as they are
        log_weights = centred
    weights = np.exp(log_weights - np.max(log_weights))
    weights = weights / weights.sum()
    khat = float(khat)
    if math.isnan(khat) or khat == math.inf:
        return None
    if not smoothed and 1 / np.square(weights).sum() < LEAST_SHARE * size:
        return None  # neither ties nor a tail: a few weights carry everything
    tail = min(size / 5, 3 * math.sqrt(size))
    ess = float(1 / np.square(weights).sum())
    return Importance(weights, khat, (1 + max(khat, 0.0)) / math.sqrt(tail), ess)


def khat_of_moment(log_ratio: np.ndarray, values: np.ndarray) -> float:
    """k-hat of w (1 + z^2), z the standardised values (S,): can their variance be estimated?

    The function-specific k-hat of Vehtari et al. 2024, section 2.4.
    """
    spread = values.std()
    if not spread > 0:
        return -math.inf
    z = (values - values.mean()) / spread
    found = psis(log_ratio + np.log1p(z * z))
    return found.khat if found else math.nan


def tail_inflation(values: np.ndarray) -> np.ndarray:
    """By how much to widen the standard errors of standard deviations (M,) of draws (S, M).

    The error of a standard deviation rests on fourth moments, infinite where the tail's Pareto
    shape exceeds 1/4 and badly estimated well below that: from 0.15 on the error is widened by
    4 (k - 0.15), so that it is about doubled for a log-normal of shape 1.3.
    """
    if len(values) < LEAST_DRAWS * 4:
        return np.ones(values.shape[1])
    shapes = [float(array_stats.pareto_khat(v[None], chain_axis=0, draw_axis=1)) if np.ptp(v) > 0
              else 0.0 for v in values.T]  # fmt: skip
    return 1 + 4 * np.clip(np.nan_to_num(shapes) - 0.15, 0, None)


def weighted_moments(
    values: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (M,) of values (S, M); weights (S,) sum to 1 or are None."""
    if weights is None:
        return values.mean(0), values.std(0)
    mean = weights @ values
    return mean, np.sqrt(np.maximum(weights @ np.square(values - mean), 0.0))


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


def _importance(
    tree: xr.DataTree, absent: list[str], sampler: bool
) -> tuple[Importance | None, np.ndarray | None]:
    stats = tree.children.get("sample_stats")
    names = set(stats.data_vars) if stats is not None else set()
    if not {"lp", "log_q"} <= names:
        if not sampler:
            missing = [n for n in ("lp", "log_q") if n not in names]
            absent.append(f"importance weights (sample_stats has no {' and no '.join(missing)})")
        return None, None
    log_ratio = (stats["lp"].values - stats["log_q"].values).reshape(-1)
    found = psis(log_ratio)
    if found is None:
        absent.append("importance weights (too few draws, or densities that are not finite)")
    return found, log_ratio


# estimates ---------------------------------------------------------------------------------------


def _importance_estimate(marginals: Marginals, importance: Importance | None) -> Estimate | None:
    if importance is None:
        return None
    values, weights = marginals.values, importance.weights
    mean, sd = values.mean(0), values.std(0)
    target_mean, target_sd = weighted_moments(values, weights)
    sd, target_sd = (np.maximum(one, marginals.least_sd) for one in (sd, target_sd))
    z2 = np.square((values - target_mean) / target_sd)
    # errors of self-normalised weights, of their difference from the raw draws
    tilt = weights - 1 / len(weights)
    shift_se = np.sqrt(np.square(tilt) @ z2)
    ratio_se = 0.5 * np.sqrt(np.square(tilt) @ np.square(z2 - 1))
    log_ratio = np.log(sd / target_sd)  # both floored above
    able = np.full(len(mean), importance.usable)
    return Estimate((mean - target_mean) / target_sd, shift_se, log_ratio, ratio_se, able)


def _khat_moments(
    log_ratio: np.ndarray | None, marginals: Marginals, importance: Importance | None
) -> float:
    """The largest k-hat of second moments over the marginals; of bounded values they are finite."""
    if (
        marginals.discrete
        or log_ratio is None
        or importance is None
        or not np.isfinite(importance.khat)
    ):
        return math.nan
    columns = marginals.values.T[:40]
    return max(khat_of_moment(log_ratio, column) for column in columns)


def _khat_by_site(
    log_ratio: np.ndarray | None, marginals: Marginals, importance: Importance | None
) -> dict[str, tuple[float, float]]:
    if marginals.discrete or log_ratio is None or importance is None:
        return {}
    if not np.isfinite(importance.khat):
        return {}
    sites: dict[str, tuple[float, float]] = {}
    for name, column in zip(marginals.names[:200], marginals.values.T, strict=False):
        site = name.split("[")[0]
        khat = khat_of_moment(log_ratio, column)
        if site not in sites or khat > sites[site][0]:
            sites[site] = khat, importance.khat_se
    return sites
