"""Pyro's AutoLaplaceApproximation ends as the Gaussian, and nothing else that is trained as a point does."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation
from pyro.infer.autoguide.initialization import init_to_value

import guidebook as gb

Y = np.array([0.4, 1.9, -0.6, 2.2, 1.1, 0.3])
QUIET = {"compile": "graph", "progress": False}
ADAM = pyro.optim.Adam({"lr": 0.1})


def regression(y=None):
    """Two coefficients of covariates that are correlated: the posterior is a normal."""
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", 6) as i:
        pyro.sample("y", dist.Normal(a + b * (1 + i / 5), 1.0), obs=y)


def test_its_covariance_is_the_posterior_s(tmp_path):
    guide = AutoLaplaceApproximation(regression)
    fit = gb.svi(regression, guide, {"y": Y}, steps=500, optim=ADAM, **QUIET)
    X = np.stack([np.ones(6), 1 + np.arange(6) / 5], 1)
    covariance = np.linalg.inv(X.T @ X + np.eye(2) / 4)
    q = fit.guide.get_posterior()
    np.testing.assert_allclose(q.covariance_matrix.detach().numpy(), covariance, rtol=1e-6)
    np.testing.assert_allclose(q.mean.detach().numpy(), covariance @ X.T @ Y, atol=1e-3)
    assert fit.approximation.kind == "density" and "curvature" in fit.notes["laplace_approximation"]
    again = gb.load(fit.save(tmp_path / "fit.pt"))
    left, right = (f.posterior(5)["posterior"]["a"].values for f in (fit, again))
    np.testing.assert_allclose(left, right)


def test_it_is_the_gaussian_that_pyro_gives_at_the_same_point():
    def positive(y=None):
        s = pyro.sample("s", dist.Gamma(3.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, s).expand([6]).to_event(1), obs=y)

    value = {"s": torch.tensor(1.7, dtype=torch.float64)}
    fit = gb.svi(positive, AutoLaplaceApproximation(positive, init_loc_fn=init_to_value(values=value)),
                 {"y": Y}, steps=1, optim=pyro.optim.Adam({"lr": 1e-9}), **QUIET)  # fmt: skip
    s = 1.7  # u = log s: log p = 3 u - s - 6 u - sum y^2 / (2 s^2)
    curvature = s + 2 * (Y**2).sum() / s**2
    q = fit.guide.get_posterior()
    assert float(q.variance.detach()) == pytest.approx(1 / curvature, rel=1e-6)
    assert float(q.mean.detach()) == pytest.approx(np.log(s), abs=1e-6)


def test_a_point_without_curvature_is_said_to_be_a_point():
    def saddle(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z**2, 0.1), obs=y)

    at_zero = init_to_value(values={"z": torch.zeros((), dtype=torch.float64)})
    guide = AutoLaplaceApproximation(saddle, init_loc_fn=at_zero)
    with pytest.warns(UserWarning, match="The fit is a point: .* not negative definite"):
        fit = gb.svi(saddle, guide, {"y": np.array(4.0)}, steps=2, **QUIET)
    assert fit.status is gb.Status.NO_MODE and fit.approximation.kind == "point"


def test_a_point_estimate_stays_one():
    fit = gb.svi(regression, AutoDelta(regression), {"y": Y}, steps=2, **QUIET)
    assert fit.approximation.kind == "point" and "laplace_approximation" not in fit.notes
