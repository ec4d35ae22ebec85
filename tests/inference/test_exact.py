"""`exact` believes a guide after checking it: log p(x, z) - log q(z) must be constant."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import guidebook as gb
from guidebook import Status
from guidebook.errors import GuideError
from guidebook.guides.exact.conjugate import ConjugateRegression
from guidebook.models.regression import linear_regression

Y = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])


def coin(y=None):
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    with pyro.plate("toss", 7 if y is None else len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def conjugate(y=None):
    pyro.sample("p", dist.Beta(2.0 + y.sum(), 3.0 + len(y) - y.sum()))


def test_a_conjugate_pair_passes_with_its_evidence():
    fit = gb.exact(coin, conjugate, {"y": Y})
    expected = scipy.special.betaln(7, 5) - scipy.special.betaln(2, 3)
    assert fit.notes["log_evidence"] == pytest.approx(expected, abs=1e-9)
    assert fit.status is Status.EXACT
    assert fit.status.good
    draws = fit.posterior(4000)["posterior"]["p"].values.ravel()
    truth = scipy.stats.beta(7, 5)
    # Kolmogorov-Smirnov at a false-alarm rate of 1e-3, fixed seed
    assert scipy.stats.kstest(draws, truth.cdf).pvalue > 1e-3


def test_normal_inverse_gamma():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    data = {"X": X, "y": X @ np.array([0.5, 1.0]) + rng.normal(size=20)}
    fit = gb.exact(linear_regression, ConjugateRegression(), data)
    # y is a multivariate t: 2 a degrees of freedom, scale b / a (I + A A')
    A = np.column_stack([np.ones(20), X])
    evidence = scipy.stats.multivariate_t(np.zeros(20), 0.5 * (np.eye(20) + A @ A.T), df=4)
    assert fit.notes["log_evidence"] == pytest.approx(evidence.logpdf(data["y"]), abs=1e-8)


@pytest.mark.parametrize("wrong", [0.01, 0.5])
def test_a_wrong_guide_is_refused(wrong):
    def off(y=None):
        pyro.sample("p", dist.Beta(2.0 + wrong + y.sum(), 3.0 + len(y) - y.sum()))

    with pytest.raises(GuideError, match=r"not the posterior.*Fit it with svi"):
        gb.exact(coin, off, {"y": Y})


def test_single_precision_networks_are_checked_in_their_precision():
    torch.manual_seed(0)
    model = gb.models.LinearVAE(6, 2)
    data = {"x": torch.randn(30, 6)}
    fit = gb.exact(model, gb.guides.LinearGaussianPosterior(model), data)
    expected = gb.guides.LinearGaussianPosterior(model).log_evidence(data["x"]).sum().detach()
    assert fit.notes["log_evidence"] == pytest.approx(float(expected), rel=1e-5)
