"""The ELBO of coordinate ascent against Pyro, the evidence and closed forms."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import stats

import guidebook as gb
from guidebook import Status
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.inference.cavi import cavi
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.mixture import GaussianMixture
from guidebook.scope import precision
from tests.inference.cavi.clusters import COVARIANCES, clusters, fitted, mixture


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_the_elbo_is_pyros_of_globals_and_assignments(covariance, concentration):
    # 200 draws of the globals, assignments enumerated: within 5 standard errors, fixed seed.
    x = clusters(n=30)
    model = mixture(covariance, concentration=concentration)
    fit = fitted(model, x)
    rows, elbo = torch.from_numpy(x), TraceEnum_ELBO(max_plate_nesting=1)
    with precision(torch.float64), torch.no_grad():
        found = [-elbo.loss(model, fit.guide.with_assignments, rows) for _ in range(200)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) + fit.history[-1]) < 5 * error
    assert error < 0.5


def test_the_elbo_is_pyros_with_drawn_assignments():
    # 400 draws of everything, within 5 standard errors, fixed seed.
    x = clusters(n=30)
    model = mixture("diagonal")
    fit = fitted(model, x)
    rows, elbo = torch.from_numpy(x), Trace_ELBO()
    drawn = poutine.infer_config(fit.guide.with_assignments, lambda site: {"enumerate": None})
    with precision(torch.float64), torch.no_grad():
        found = [-elbo.loss(model, drawn, rows) for _ in range(400)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) + fit.history[-1]) < 5 * error
    assert error < 0.5


@pytest.mark.parametrize("apart", [0.0, 1.0, 6.0])
def test_the_elbo_is_below_the_evidence(apart):
    """q sits in one of the two copies of the mode: far apart that alone costs log 2."""
    x = clusters(n=8, apart=apart, D=1, K=2)
    model = GaussianMixture(2, 1, "unit", None, 3.0, 0.1)
    fit = fitted(model, x)
    _, evidence = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    elbo = -fit.history[-1]
    assert elbo < float(evidence)
    if apart == 6.0:
        assert float(evidence) - elbo == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_component_is_the_exact_posterior_after_one_sweep(covariance):
    """K = 1: the ELBO is log p(x), in closed form."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2)) * [1.0, 2.0] + 1
    m, kappa, nu, b = 0.5, 0.3, 3.5, 1.7
    model = GaussianMixture(1, 2, covariance, None, m, kappa, nu, b)
    fit = fitted(model, x)
    if covariance == "unit":
        joint = stats.multivariate_normal(np.full(20, m), np.eye(20) + np.ones((20, 20)) / kappa)
        expected = sum(joint.logpdf(column) for column in x.T)
    elif covariance == "diagonal":
        guide = NormalGammaPosterior(loc=m, strength=kappa, shape=nu / 2, rate=b / 2)
        expected = sum(float(guide.log_evidence(torch.from_numpy(c.copy()))) for c in x.T)
    else:  # one row after the other, each a multivariate t given those before (Murphy 2007, 258)
        expected, loc, scale = 0.0, np.full(2, m), b * np.eye(2)
        for row in x:
            df = nu - 1
            spread = scale * (kappa + 1) / (kappa * df)
            expected += stats.multivariate_t(loc, spread, df=df).logpdf(row)
            away = row - loc
            scale = scale + kappa / (kappa + 1) * np.outer(away, away)
            loc = loc + away / (kappa + 1)
            kappa, nu = kappa + 1, nu + 1
    assert -fit.history[-1] == pytest.approx(expected, abs=1e-8)
    assert fit.notes["sweeps"] <= 2
    assert gb.exact(model, fit.guide, {"x": x}).notes["log_evidence"] == pytest.approx(expected)


def test_gaussian_mean_ends_where_its_closed_form_is():
    x = np.random.default_rng(0).normal(2.0, 1.5, size=25)
    fit = cavi(gaussian_mean, GaussianMeanField(), {"x": x}, tolerance=1e-14, progress=False)
    solved = GaussianMeanField()
    elbo = float(solved.solve({"x": torch.from_numpy(x)}))
    assert fit.status is Status.CONVERGED
    assert -fit.history[-1] == pytest.approx(elbo, abs=1e-10)
    for name, value in solved.state_dict().items():
        torch.testing.assert_close(fit.guide.state_dict()[name], value, rtol=1e-6, atol=0)
    assert np.diff(fit.history).max() <= 1e-10
