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

import numpy as np
from arviz_stats.base import array_stats

LEAST_DRAWS = 25
"""arviz_stats fits no tail to fewer."""
EVEN_SHARE, EVEN_TOP = 0.99, 2.0
"""Weights of which so many draws are effective, none above so many times the mean, need no tail."""
LEAST_SHARE = 0.1
"""Of the draws: effective ones of weights that could not be smoothed, below which they say nothing."""


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

    @property
    def undecided(self) -> bool:
        """k-hat lies within its standard error of the limit: on which side of it is not known."""
        return abs(self.khat - khat_limit(len(self.weights))) < self.khat_se


def khat_limit(draws: int) -> float:
    """min(1 - 1 / log10 S, 0.7)."""
    return min(1 - 1 / math.log10(max(draws, 11)), 0.7)


def psis(log_ratio: np.ndarray) -> Importance | None:
    """Smoothed weights of log p(x, z) - log q(z), shape (S,); None where nothing can be said.

    Equal weights (q is the posterior) give k-hat -inf, error 0 and ESS S. So do weights that are equal
    to a few per cent where k-hat is above its limit: it is then that of rounding, or of differences
    that no moment notices. Draws of zero density (-inf) have weight zero; +inf or NaN, or fewer than
    25 draws, give None.
    """
    size = len(log_ratio)
    if size < LEAST_DRAWS or np.isnan(log_ratio).any() or np.isposinf(log_ratio).any():
        return None
    finite = np.isfinite(log_ratio)
    if finite.sum() < LEAST_DRAWS:
        return None
    top = float(log_ratio[finite].max())
    centred = np.where(finite, log_ratio - top, -1e4)
    # weights equal to a thousandth: what is left is rounding (float32), which has no tail to fit
    if finite.all() and np.ptp(centred) < max(1e-3, 1e-9 * abs(top)):
        return Importance(np.full(size, 1 / size), -math.inf, 0.0, float(size))
    log_weights, khat = _smoothed(centred)
    plain = np.exp(centred) / np.exp(centred).sum()
    if _even(plain) and not khat < khat_limit(size):
        return Importance(plain, -math.inf, 0.0, float(1 / np.square(plain).sum()))
    smoothed = bool(np.isfinite(log_weights).all())
    if not smoothed:  # ties in the tail, as discrete draws have: taken as they are
        log_weights = centred
    weights = np.exp(log_weights)
    weights = weights / weights.sum()
    if math.isnan(khat) or khat == math.inf:
        return None
    if not smoothed and 1 / np.square(weights).sum() < LEAST_SHARE * size:
        return None  # neither ties nor a tail: a few weights carry everything
    tail = min(size / 5, 3 * math.sqrt(size))
    ess = float(1 / np.square(weights).sum())
    return Importance(weights, khat, (1 + max(khat, 0.0)) / math.sqrt(tail), ess)


def _even(weights: np.ndarray) -> bool:
    """Whether normalised weights are equal to a few per cent: their tail is that of rounding."""
    size = len(weights)
    whole = 1 / np.square(weights).sum() >= EVEN_SHARE * size
    return bool(whole and weights.max() * size <= EVEN_TOP)


def _smoothed(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Log weights (S,), not always normalised or finite, and k-hat."""
    # arviz_stats negates its argument: it expects -log ratio, as of leave-one-out densities
    with np.errstate(divide="ignore", invalid="ignore"):  # many equal weights in the tail
        try:
            log_weights, khat = array_stats.psislw(-log_ratio, r_eff=1)
        except ValueError:  # the whole tail is one value: bounded weights, nothing to smooth
            return log_ratio, -math.inf
    return log_weights, float(khat)


def smoothed_rows(log_ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised log weights (S, N) and k-hat (N,) of log ratios (S, N), each row by itself.

    Where draws have equal weights in the tail, nothing is smoothed: k-hat is -inf where the whole tail is
    one value (a row of which all draws say the same), and else inf, unless arviz_stats gives a number. It is
    -inf, too, where weights that are equal to a few per cent have one above its limit, as in `psis`.
    """
    weights, khat = np.empty_like(log_ratio), np.empty(log_ratio.shape[1])
    for i, row in enumerate(log_ratio.T):
        centred = row - row.max()
        found, k = _smoothed(centred)
        if not np.isfinite(found).all():
            found = centred
        weights[:, i] = found - np.logaddexp.reduce(found)
        khat[i] = math.inf if math.isnan(k) else k
        plain = np.exp(centred) / np.exp(centred).sum()
        if _even(plain) and not khat[i] < khat_limit(len(row)):
            weights[:, i], khat[i] = np.log(plain), -math.inf
    return weights, khat


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
    # r_eff=1: the draws are independent, and an effective sample size costs more than the fit
    shapes = [_tail_shape(v) if np.ptp(v) > 0 else 0.0 for v in values.T]
    return 1 + 4 * np.clip(np.nan_to_num(shapes) - 0.15, 0, None)


def _tail_shape(values: np.ndarray) -> float:
    """The larger Pareto shape of the two tails of draws (S,); 0 of counts whose tail is one value."""
    try:
        return float(array_stats.pareto_khat(values[None], chain_axis=0, draw_axis=1, r_eff=1))
    except ValueError:
        return 0.0


def weighted_moments(
    values: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations (M,) of values (S, M); weights (S,) sum to 1 or are None."""
    if weights is None:
        return values.mean(0), values.std(0)
    mean = weights @ values
    return mean, np.sqrt(np.maximum(weights @ np.square(values - mean), 0.0))
