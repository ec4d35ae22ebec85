"""Where a fit starts: the mode against SciPy, the Gaussian against closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
import scipy.stats
import torch
from pyro.distributions import constraints

from guidebook.programs.potential import Potential
from guidebook.programs.start.gaussian import elbo
from guidebook.programs.start.mode import Climb, find_start


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def flat(X, y):
    """y ~ N(X b, 1) under a flat prior: b ~ N((X'X)^-1 X'y, (X'X)^-1)."""
    prior = dist.ImproperUniform(constraints.real_vector, (), (X.shape[1],))
    b = pyro.sample("b", prior)
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def poisson(x, y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Poisson(rate * (slope * x).exp()), obs=y)


def funnel(y):
    """Neal's funnel: the density is unbounded as v falls."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("arm", 5):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
    pyro.sample("y", dist.Normal(v, 10.0), obs=y)


def poisson_data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=30)
    return {"x": tensor(x), "y": tensor(rng.poisson(2.0 * np.exp(0.4 * x)))}


def test_the_mode_is_that_of_scipy():
    data = poisson_data()
    x, y = (value.numpy() for value in data.values())

    def negative(u):
        rate = math.exp(u[0])
        terms = scipy.stats.poisson(rate * np.exp(u[1] * x)).logpmf(y)
        prior = scipy.stats.gamma(2).logpdf(rate) + scipy.stats.norm.logpdf(u[1]) + u[0]
        return -(terms.sum() + prior)

    best = scipy.optimize.minimize(negative, np.zeros(2), method="Nelder-Mead",
                                   options={"xatol": 1e-10, "fatol": 1e-13})  # fmt: skip
    climb = Climb(Potential(poisson, data))
    top = climb.mode_at(climb.from_point(np.zeros(2))[-1])
    assert top is not None
    assert top.mode
    # at a smooth maximum an error of 1e-13 in the value is one of about 1e-7 in the place
    np.testing.assert_allclose(top.center, best.x, atol=1e-6)
    assert top.log_density == pytest.approx(-best.fun, abs=1e-9)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("correlation", [0.0, 0.999])
def test_a_gaussian_posterior_of_any_scale_is_found_exactly(unit, correlation):
    rng = np.random.default_rng(0)
    scales = np.array([unit, 3 * unit])
    covariance = np.outer(scales, scales) * np.array([[1, correlation], [correlation, 1]])
    basis = np.linalg.qr(rng.normal(size=(10, 2)))[0]
    X = basis @ np.linalg.cholesky(np.linalg.inv(covariance)).T
    mean = 20 * scales
    y = X @ mean  # the residual is orthogonal to X, and taken as zero
    potential = Potential(flat, {"X": tensor(X), "y": tensor(y)})
    start = find_start(potential)
    sds = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((start.center.numpy() - mean) / sds, 0, atol=1e-4)
    found = (start.factor @ start.factor.T).numpy()
    # the correlation multiplies rounding by 1 / (1 - 0.999)
    np.testing.assert_allclose(
        found / np.outer(sds, sds), covariance / np.outer(sds, sds), atol=1e-3
    )


def test_the_start_is_the_optimal_gaussian_of_a_skewed_posterior():
    """At the optimum E grad log p = 0 and -E Hessian = C^-1 (Opper and Archambeau 2009).

    log p(u) = 3 u - e^u has E_q[grad] = 3 - e^(m + s^2/2) and E_q[-Hessian] = e^(m + s^2/2), so
    s^2 = 1/3 and m = log 3 - 1/6.
    """

    def model(y):
        pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("y", dist.Exponential(1.0), obs=y)

    def gamma3(y):
        pyro.sample("z", dist.Gamma(3.0, 1.0))
        pyro.sample("y", dist.Exponential(1.0), obs=y)

    for story, shape in ((model, 2.0), (gamma3, 3.0)):
        start = find_start(Potential(story, {"y": tensor(1.0)}))
        # 512 antithetic draws: the noise of a mean is about s^2 / sqrt(512) in m
        assert float(start.center[0]) == pytest.approx(math.log(shape) - 0.5 / shape, abs=0.03)
        assert float(start.factor[0, 0]) == pytest.approx(1 / math.sqrt(shape), rel=0.05)


def test_a_funnel_has_no_mode_and_still_a_start():
    potential = Potential(funnel, {"y": tensor(0.0)})
    start = find_start(potential)
    assert not start.mode
    assert torch.isfinite(start.center).all()
    assert torch.isfinite(start.factor).all()
    assert (start.factor.diagonal() > 0).all()
    assert math.isfinite(elbo(potential, start))
    # In closed form E_q[-Hessian] of the best Gaussian is 1/9 + 1/100 + 5/2 in v, where its mean is 0.
    assert float((start.factor @ start.factor.T)[0, 0]) == pytest.approx(1 / 2.621, rel=0.1)
    assert abs(float(start.center[0])) < 0.3


def test_the_elbo_of_a_start_is_a_lower_bound_and_tight_for_a_gaussian():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10, 2)), rng.normal(size=10)

    def model(X, y):
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("row", len(X)):
            pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    potential = Potential(model, {"X": tensor(X), "y": tensor(y)})
    evidence = scipy.stats.multivariate_normal(np.zeros(10), np.eye(10) + X @ X.T).logpdf(y)
    start = find_start(potential)
    assert elbo(potential, start) == pytest.approx(evidence, abs=1e-5)
    assert start.log_mass == pytest.approx(evidence, abs=1e-5) or not start.mode
    assert elbo(potential, Climb(potential).standard()) < evidence


def test_many_coordinates_keep_a_diagonal_factor():
    D = 700

    def model(y):
        with pyro.plate("cell", D):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    y = tensor(np.random.default_rng(0).normal(size=D))
    start = find_start(Potential(model, {"y": y}))
    assert start.factor.shape == (D,)
    torch.testing.assert_close(start.center, y / 1.25, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(start.factor, torch.full_like(y, math.sqrt(0.2)), rtol=1e-3, atol=0)
