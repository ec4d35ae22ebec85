"""k-hat, weights and evidence against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.witnesses.importance import evidence
from guidebook.diagnostics.witnesses.psis import (
    khat_limit,
    khat_of_moment,
    psis,
    tail_inflation,
    weighted_moments,
)


def log_ratio_of_normals(scale: float, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws of q = N(0, scale^2) and log p - log q for p = N(0, 1)."""
    z = np.random.default_rng(seed).normal(0, scale, size)
    return z, stats.norm.logpdf(z) - stats.norm.logpdf(z, scale=scale)


def test_too_narrow_is_not_an_all_clear() -> None:
    """The sign trap: with the wrong sign k-hat is about -1.75 here; theory says 1 - 0.3^2 = 0.91."""
    _, log_ratio = log_ratio_of_normals(0.3, 20_000)
    found = psis(log_ratio)
    assert found is not None and found.khat > 0.7
    assert abs(found.khat - 0.91) < 4 * found.khat_se


@pytest.mark.parametrize("scale", [1.1, 1.5, 2.0])
def test_too_wide_has_bounded_weights(scale: float) -> None:
    """p / q is bounded, so k <= 0 in theory, and importance sampling gives p's moments."""
    z, log_ratio = log_ratio_of_normals(scale, 20_000)
    found = psis(log_ratio)
    assert found is not None and found.usable
    mean, sd = weighted_moments(z[:, None], found.weights)
    # five standard errors of a self-normalised estimate: false alarm below 1e-6
    assert abs(mean[0]) < 5 / math.sqrt(found.ess)
    assert abs(sd[0] - 1) < 5 / math.sqrt(2 * found.ess)


def test_the_stated_error_of_khat_is_that_of_replications() -> None:
    """sd of k-hat over 60 replications within a factor 1.6 of the stated one (chi-square, 1e-6)."""
    found = [psis(log_ratio_of_normals(0.7, 4000, seed)[1]) for seed in range(60)]
    khats = [f.khat for f in found if f is not None]
    stated = np.mean([f.khat_se for f in found if f is not None])
    assert len(khats) == 60
    assert 1 / 1.6 < np.std(khats, ddof=1) / stated < 1.6


def test_equal_weights_are_the_posterior() -> None:
    found = psis(np.full(1000, -31.3))
    assert found is not None and found.khat == -math.inf and found.ess == 1000
    np.testing.assert_allclose(found.weights, 1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_densities_say_nothing(bad: float) -> None:
    log_ratio = np.random.default_rng(0).normal(size=1000)
    log_ratio[3] = bad
    assert psis(log_ratio) is None
    assert psis(np.random.default_rng(0).normal(size=24)) is None


def test_zero_density_has_zero_weight() -> None:
    log_ratio = np.random.default_rng(0).normal(size=1000)
    log_ratio[:10] = -np.inf
    found = psis(log_ratio)
    assert found is not None and found.weights[:10].max() < 1e-300 and np.isfinite(found.khat)


def test_limit() -> None:
    assert khat_limit(4000) == pytest.approx(0.7)
    assert khat_limit(1000) == pytest.approx(1 - 1 / 3)


def test_elbo_and_evidence_of_a_gaussian() -> None:
    """p(x) = exp(5): ELBO = 5 - KL(q || p), log evidence = 5, within five standard errors."""
    _, log_ratio = log_ratio_of_normals(1.3, 50_000)
    found = evidence(log_ratio + 5)
    divergence = 0.5 * (1.3**2 - 1 - 2 * math.log(1.3))
    assert abs(found["elbo"] - (5 - divergence)) < 5 * found["elbo_se"]
    assert abs(found["log_evidence"] - 5) < 5 * found["log_evidence_se"]


def test_second_moments_need_lighter_weights_than_first() -> None:
    z, log_ratio = log_ratio_of_normals(0.8, 20_000)
    joint = psis(log_ratio)
    assert joint is not None
    assert khat_of_moment(log_ratio, z) > joint.khat - joint.khat_se


def test_tails_widen_errors() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=20_000), rng.standard_t(3, size=20_000)])
    light, heavy = tail_inflation(values)
    assert light == pytest.approx(1, abs=0.3) and heavy > 1.5
