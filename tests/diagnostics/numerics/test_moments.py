"""Moments of weighted draws: their errors over repetitions against those that are stated."""

import numpy as np
import pytest

from guidebook.diagnostics.numerics.moments import moments

REPEATED, DRAWS = 400, 500


def repeated(
    kind: str,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], float, float]:
    """Values (R, S, 1), weights (R, S), moments of what is drawn from, and mean and sd of the target."""
    rng = np.random.default_rng(0)
    if kind == "shifted":  # N(0, 1) for N(0.3, 1)
        values = rng.standard_normal((REPEATED, DRAWS))
        w, mean, sd = np.exp(0.3 * values), 0.3, 1.0
        drawn = np.zeros(1), np.ones(1)
    else:  # a branch ten standard deviations away: a fifth of the draws, a hundredth of the target
        there = rng.random((REPEATED, DRAWS)) < 0.2
        values = rng.standard_normal((REPEATED, DRAWS)) + 10 * there
        w, mean, sd = np.where(there, 0.01 / 0.2, 0.99 / 0.8), 0.1, np.sqrt(1 + 0.99)
        drawn = np.full(1, 2.0), np.full(1, np.sqrt(1 + 16.0))
    return values[..., None], w / w.sum(1, keepdims=True), drawn, mean, float(sd)


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("kind", ["shifted", "branch"])
def test_stated_errors_are_those_of_repetitions(kind: str, controlled: bool) -> None:
    """The standard deviation of 400 standardised errors lies in 1 +- 0.18, five of its own errors; their
    mean, the bias of moments of normalised weights, below 0.3.
    """
    values, w, drawn, mean, sd = repeated(kind)
    found = [
        moments(v, one, drawn if controlled else None) for v, one in zip(values, w, strict=True)
    ]
    means = np.array([(one.mean[0] - mean) / one.sd[0] / one.mean_se[0] for one in found])
    sds = np.array([np.log(one.sd[0] / sd) / one.log_sd_se[0] for one in found])
    for errors in (means, sds):
        assert abs(errors.std() - 1) < 0.18 and abs(errors.mean()) < 0.3


def test_control_variates_take_the_noise_of_even_weights_away() -> None:
    """Of N(0, 1) for N(0.3, 1) two thirds of the standard error of the mean; of equal weights all of it."""
    values, w, drawn, *_ = repeated("shifted")
    both = [(moments(v, one, drawn), moments(v, one)) for v, one in zip(values, w, strict=True)]
    assert np.mean([a.mean_se[0] / b.mean_se[0] for a, b in both]) < 0.67
    equal = moments(values[0], np.full(DRAWS, 1 / DRAWS), drawn)
    np.testing.assert_allclose([equal.mean[0], equal.sd[0]], [0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose([equal.mean_se[0], equal.log_sd_se[0]], 0.0, atol=1e-12)


def test_values_that_are_one_have_no_spread() -> None:
    found = moments(np.full((10, 2), 3.0), np.full(10, 0.1))
    np.testing.assert_allclose(found.mean, 3.0)
    assert np.isfinite(found.sd).all() and np.isfinite(found.mean_se).all()
