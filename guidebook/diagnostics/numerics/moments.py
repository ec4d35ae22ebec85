"""Means and standard deviations of weighted draws, with errors; by control variates where there are any.

Of draws whose own distribution r has known moments, weights w and values and squares f,

    sum w f - beta (mean f - E_r f),    beta = cov(w f, f) / var f,

has less noise than sum w f: where all weights are equal none is left.

Source: Owen 2013, "Monte Carlo theory, methods and examples", sections 8.9 and 9.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from guidebook.diagnostics.numerics.psis import weighted_moments


class Moments(NamedTuple):
    """Means and standard deviations (M,); the standard errors of means, in standard deviations, and of
    logarithms of standard deviations.
    """

    mean: np.ndarray
    sd: np.ndarray
    mean_se: np.ndarray
    log_sd_se: np.ndarray


def moments(
    values: np.ndarray, w: np.ndarray, drawn_from: tuple[np.ndarray, np.ndarray] | None = None
) -> Moments:
    """Of values (S, M) under weights w (S,) that sum to 1; `drawn_from`, mean and standard deviation (M,) of
    the distribution that they are independent draws of.
    """
    mean, sd = weighted_moments(values, w)
    if drawn_from is not None:
        center, spread = drawn_from
        mean, mean_se = _controlled(values, w, center)
        square = np.square(values - mean)
        expected = np.square(spread) + np.square(center - mean)
        variance, variance_se = _controlled(square, w, expected)
        if (variance > 0).all():
            sd = np.sqrt(variance)
            return Moments(mean, sd, mean_se / sd, 0.5 * variance_se / variance)
        mean, _ = weighted_moments(values, w)
    sd = np.maximum(sd, 1e-300)
    z2 = np.square((values - mean) / sd)
    mean_se, log_sd_se = np.square(w) @ z2, np.square(w) @ np.square(z2 - 1)
    return Moments(mean, sd, np.sqrt(mean_se), 0.5 * np.sqrt(log_sd_se))


def _controlled(
    f: np.ndarray, w: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean (M,) of f (S, M) under weights w (S,), and its standard error, where that under the
    distribution of the draws is `expected`.
    """
    plain = w @ f
    weighted = len(w) * w[:, None] * (f - plain)
    own = f - f.mean(0)
    beta = (weighted * own).mean(0) / np.maximum(np.square(own).mean(0), 1e-300)
    left = weighted - beta * own
    value = plain - beta * (f.mean(0) - expected)
    return value, np.sqrt(np.square(left).mean(0) / len(w))
