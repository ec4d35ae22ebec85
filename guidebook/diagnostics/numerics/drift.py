"""What a run moved: moments of draws before and after it, and what that says of their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

AUTOCORRELATION_LIMIT = 0.6
LEAST_ACCEPTANCE = 0.4


class Errors(Protocol):
    """Errors of means and of log standard deviations with standard errors, (1, M) each."""

    @property
    def shift(self) -> np.ndarray: ...
    @property
    def shift_se(self) -> np.ndarray: ...
    @property
    def log_ratio(self) -> np.ndarray: ...
    @property
    def log_ratio_se(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Transport:
    """Per posterior and marginal (n, M) on the constrained scale, before and after the run.

    shift: error of the mean of q in posterior sds, with standard error; sd_ratio: sd of q over that
    of the posterior, with relative error; able: which of them the run could judge. mean and sd are
    those of the posterior as the run estimates them; acceptance (n,); nested_rhat, see there.
    """

    mean: np.ndarray
    sd: np.ndarray
    shift: np.ndarray
    shift_se: np.ndarray
    sd_ratio: np.ndarray
    sd_ratio_se: np.ndarray
    able: np.ndarray
    acceptance: np.ndarray
    nested_rhat: np.ndarray = field(default_factory=lambda: np.ones((1, 1)))


def compared(old: np.ndarray, new: np.ndarray, acceptance: np.ndarray) -> Transport:
    """Marginals (C, n, M) before and after the run."""
    size = len(old)
    sd = np.maximum(new.std(0), 1e-300)
    mean_old, mean_new = old.mean(0), new.mean(0)
    drift = mean_old - mean_new
    r = rank_correlation(old, new)
    square_old = np.square((old - mean_new) / sd)
    square_new = np.square((new - mean_new) / sd)
    r2 = np.clip(rank_correlation(square_old, square_new), 0, None)
    kept = np.clip(1 - np.clip(r, 0, None), 0.05, None)
    shift = drift / sd / kept
    return Transport(
        mean=mean_old - shift * sd,
        sd=sd,
        shift=shift,
        shift_se=(old - new).std(0) / sd / kept / math.sqrt(size),
        sd_ratio=np.exp(np.log(np.maximum(old.std(0), 1e-300) / sd) / np.clip(1 - r2, 0.3, None)),
        sd_ratio_se=0.5 * (square_old - square_new).std(0) / math.sqrt(size),
        able=(np.abs(r) < AUTOCORRELATION_LIMIT) & (acceptance > LEAST_ACCEPTANCE)[:, None],
        acceptance=acceptance,
        nested_rhat=nested_rhat(r),
    )


def within_basins(
    old: np.ndarray,
    new: np.ndarray,
    acceptance: np.ndarray,
    places: list[np.ndarray],
    shares: Errors,
) -> Transport:
    """Marginals before and after the run, each from the mean of its basin, with the errors of shares.

    var = var within basins + var of their means: an error of the first counts by its part of the whole.
    """
    home = np.bincount(places[0]).argmax()
    means = {k: old[places[0] == k].mean(0) for k in np.unique(places[0])}
    apart = [
        values - np.stack([means.get(k, means[home]) for k in place])
        for values, place in zip((old, new), places, strict=True)
    ]
    inner = compared(apart[0], apart[1], acceptance)
    sd = np.maximum(old.std(0), 1e-300)
    part = np.minimum(inner.sd / sd, 1.0)
    shift = inner.shift * part + shares.shift
    log_ratio = np.log(inner.sd_ratio) * part**2 + shares.log_ratio
    sd_of_p = sd / np.exp(log_ratio)
    return Transport(
        mean=old.mean(0) - shift * sd_of_p,
        sd=sd_of_p,
        shift=shift,
        shift_se=np.hypot(inner.shift_se * part, shares.shift_se),
        sd_ratio=np.exp(log_ratio),
        sd_ratio_se=np.hypot(inner.sd_ratio_se * part**2, shares.log_ratio_se),
        able=inner.able,
        acceptance=acceptance,
        nested_rhat=inner.nested_rhat,
    )


def nested_rhat(r: np.ndarray) -> np.ndarray:
    r"""Nested R-hat of many short chains, from the autocorrelation r over the run.

    Of chains that start together the end has the variance (1 - r^2) sigma^2, and its mean over
    them, from start to start, r^2 sigma^2:

    .. math:: \sqrt{1 + \frac{r^2}{1 - r^2}} = \frac{1}{\sqrt{1 - r^2}};

    with r the rank correlation it is that of ranks, and no chain has to be run twice from one start.

    Source: Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman 2024, "Nested R-hat:
    assessing the convergence of Markov chain Monte Carlo when running many short chains".
    """
    rhat: np.ndarray = 1 / np.sqrt(np.maximum(1 - np.square(r), 1e-12))
    return rhat


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation, column by column. Ties are ranked by their place, so a column that is
    constant before and after correlates fully: a run that moves nothing cannot judge it.
    """
    ranks_a, ranks_b = (np.argsort(np.argsort(x, axis=0), axis=0).astype(float) for x in (a, b))
    ranks_a -= ranks_a.mean(0)
    ranks_b -= ranks_b.mean(0)
    scale = np.sqrt(np.square(ranks_a).sum(0) * np.square(ranks_b).sum(0))
    return np.divide((ranks_a * ranks_b).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)
