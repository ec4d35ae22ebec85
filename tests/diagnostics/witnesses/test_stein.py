"""Stein's identities on Gaussians, where shift and sd ratio are known."""

import numpy as np
import pytest

from guidebook.diagnostics.witnesses.stein import stein, stein_from_surface

COVARIANCE = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 4.0]])
MEAN = np.array([1.0, -2.0, 30.0])
NAMES = ["a", "b", "c"]


def gradient(u: np.ndarray) -> np.ndarray:
    return -(u - MEAN) @ np.linalg.inv(COVARIANCE)


def draws(mean: np.ndarray, covariance: np.ndarray, size: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).multivariate_normal(mean, covariance, size)


def test_the_posterior_has_no_discrepancy() -> None:
    u = draws(MEAN, COVARIANCE, 100_000)
    found = stein(u, gradient(u), NAMES)
    assert found is not None
    assert found.discrepancy < 5 / np.sqrt(100_000)  # the draws' own sampling error


def test_mean_field_narrowness_is_measured_exactly() -> None:
    """q has the conditional sds; the regression of a linear gradient has no noise at all."""
    precision = np.linalg.inv(COVARIANCE)
    u = draws(MEAN, np.diag(1 / np.diagonal(precision)), 20_000)
    found = stein(u, gradient(u), NAMES)
    assert found is not None and found.covariance is not None
    np.testing.assert_allclose(found.covariance, COVARIANCE, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.mean, MEAN, rtol=1e-8)
    expected = u.std(0) / np.sqrt(np.diagonal(COVARIANCE))
    np.testing.assert_allclose(found.sd_ratio, expected, rtol=1e-8)
    assert "narrow" in found.worst()


def test_a_needle_far_away_is_seen() -> None:
    """k-hat is blind to this one: facts.md has 0.01 for draws that are wrong by many sds."""
    u = draws(MEAN + 50, 1e-8 * np.eye(3))
    found = stein(u, gradient(u), NAMES)
    assert found is not None and found.discrepancy > 10
    np.testing.assert_allclose(
        found.shift, (u.mean(0) - MEAN) / np.sqrt(np.diagonal(COVARIANCE)), rtol=1e-4
    )


def test_weights_mend_the_identities() -> None:
    u = draws(MEAN, 1.5 * COVARIANCE, 50_000)
    centred = u - MEAN
    quadratic = np.einsum("si,ij,sj->s", centred, np.linalg.inv(COVARIANCE), centred)
    weights = np.exp(-0.5 * quadratic * (1 - 1 / 1.5))
    weights /= weights.sum()
    raw, weighted = stein(u, gradient(u), NAMES), stein(u, gradient(u), NAMES, weights)
    assert raw is not None and weighted is not None
    assert raw.discrepancy > 0.15 > 0.03 > weighted.discrepancy


def test_a_saddle_has_infinite_discrepancy() -> None:
    u = draws(MEAN, COVARIANCE)
    found = stein(u, +0.5 * (u - MEAN), NAMES)
    assert found is not None and found.discrepancy == np.inf and found.covariance is None


def test_too_few_draws_say_nothing() -> None:
    u = draws(MEAN, COVARIANCE, 10)
    assert stein(u, gradient(u), NAMES) is None


def test_the_surface_of_lp_stands_in_for_gradients() -> None:
    u = draws(MEAN, 0.25 * COVARIANCE)
    centred = u - MEAN
    lp = 7 - 0.5 * np.einsum("si,ij,sj->s", centred, np.linalg.inv(COVARIANCE), centred)
    found = stein_from_surface(u, lp, NAMES)
    assert found is not None
    np.testing.assert_allclose(
        found.sd_ratio, u.std(0) / np.sqrt(np.diagonal(COVARIANCE)), rtol=1e-6
    )


def test_a_rough_surface_says_nothing() -> None:
    u = draws(MEAN, COVARIANCE)
    assert stein_from_surface(u, np.random.default_rng(1).normal(size=len(u)), NAMES) is None


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_units_do_not_matter(scale: float) -> None:
    u = draws(MEAN, 0.25 * COVARIANCE)
    one, other = stein(u, gradient(u), NAMES), stein(scale * u, gradient(u) / scale, NAMES)
    assert one is not None and other is not None
    np.testing.assert_allclose(one.sd_ratio, other.sd_ratio, rtol=1e-6)
