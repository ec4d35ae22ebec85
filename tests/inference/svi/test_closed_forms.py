"""svi against posteriors in closed form."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
from pyro.distributions import constraints

import guidebook as gb
from guidebook import Status
from tests.inference.svi.stories import QUIET, moments, normal_mean


@pytest.mark.parametrize("scale", [1e-3, 1e4])
@pytest.mark.parametrize(
    "family", ["mean_field", "full_rank", "low_rank", pytest.param("flow", marks=pytest.mark.slow)]
)
def test_the_mean_of_gaussian_data_at_any_scale(scale, family):
    """25 rows with sigma = 5 scale: the posterior sd is scale, and the mean 1,000 sds from zero."""
    rng = np.random.default_rng(0)
    sigma, prior = 5 * scale, 1e5 * scale
    y = 1000 * scale + sigma * rng.normal(size=25)
    guide = getattr(gb.guides, family)(normal_mean)
    data = {"y": y, "sigma": sigma, "prior": prior}
    fit = gb.svi(normal_mean, guide, data, steps=500, **QUIET)
    precision = 25 / sigma**2 + 1 / prior**2
    mean, sd, _ = moments(fit, "mu")
    assert abs(mean - y.sum() / sigma**2 / precision) * np.sqrt(precision) < 0.05
    assert sd * np.sqrt(precision) == pytest.approx(1, abs=0.05)


def flat_regression(X, y):
    b = pyro.sample("b", dist.ImproperUniform(constraints.real_vector, (), (X.shape[1],)))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def designed(unit, correlation, seed=0):
    """X and y of a flat-prior regression with a posterior of given scales and correlation."""
    sds = np.array([unit, 1e4 * unit])
    covariance = np.outer(sds, sds) * np.array([[1, correlation], [correlation, 1]])
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 2)))[0]
    X = basis @ np.linalg.cholesky(np.linalg.inv(covariance)).T
    mean = np.array([30.0, -50.0]) * sds
    return {"X": X, "y": X @ mean}, mean, sds


@pytest.mark.parametrize("unit", [1e-3, 1.0])
def test_correlation_0_999_flat_prior_and_scales_that_differ_by_ten_thousand(unit):
    data, mean, sds = designed(unit, 0.999)
    fit = gb.svi(flat_regression, gb.guides.full_rank(flat_regression), data, steps=500, **QUIET)
    found, spread, draws = moments(fit, "b")
    np.testing.assert_allclose((found - mean) / sds, 0, atol=0.05)
    np.testing.assert_allclose(spread / sds, 1, atol=0.05)
    # Fisher's z of the correlation: its standard error is 1 / sqrt(draws)
    z = np.arctanh(np.corrcoef(draws.T)[0, 1]) - np.arctanh(0.999)
    assert abs(z) < 0.05


def test_mean_field_gives_the_conditional_standard_deviations():
    """The best independent Gaussian of N(m, C) has variances 1 / (C^-1)_ii (Bishop 2006, 10.1.2)."""
    data, mean, sds = designed(1.0, 0.9)
    fit = gb.svi(flat_regression, gb.guides.mean_field(flat_regression), data, steps=800, **QUIET)
    found, spread, _ = moments(fit, "b")
    np.testing.assert_allclose((found - mean) / sds, 0, atol=0.05)
    np.testing.assert_allclose(spread / (sds * np.sqrt(1 - 0.9**2)), 1, atol=0.05)


def test_delta_finds_the_mode_of_z():
    def model(y):
        rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.array([3.0, 1.0, 4.0])
    fit = gb.svi(model, gb.guides.delta(model), {"y": y}, steps=500, **QUIET)
    found = fit.posterior(1)["posterior"]["rate"].item()
    assert found == pytest.approx((4 + 8 - 1) / (2 + 3), rel=1e-3)


def test_default_settings_converge_and_the_objective_is_minus_the_evidence():
    rng = np.random.default_rng(0)
    y = 3 + 2 * rng.normal(size=25)
    data = {"y": y, "sigma": 2.0, "prior": 10.0}
    fit = gb.svi(normal_mean, gb.guides.full_rank(normal_mean), data, **QUIET)
    assert fit.status is Status.CONVERGED
    assert fit.status.good
    covariance = 4 * np.eye(25) + 100
    evidence = scipy.stats.multivariate_normal(np.zeros(25), covariance).logpdf(y)
    assert fit.history.shape == (2000,)
    # for an exact guide the objective has no variance but that of its parameters' own noise
    assert -fit.history[-400:].mean() == pytest.approx(evidence, abs=0.01)
