"""The Laplace approximation is exact for a Gaussian, and says where it does not exist."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import guidebook as gb
from guidebook import Status


def regression(X, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(X.shape[1]), 2.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 0.5), obs=y)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(15, 3))
    return {"X": X, "y": X @ np.array([1.0, -2.0, 0.5]) + 0.5 * rng.normal(size=15)}


def test_a_gaussian_posterior_and_its_evidence_are_exact(data):
    fit = gb.laplace(regression, data)
    X, y = data["X"], data["y"]
    precision = X.T @ X / 0.25 + np.eye(3) / 4
    mean = np.linalg.solve(precision, X.T @ y / 0.25)
    q = fit.guide.get_posterior()
    np.testing.assert_allclose(q.mean.detach(), mean, atol=1e-9)
    np.testing.assert_allclose(q.covariance_matrix.detach(), np.linalg.inv(precision), atol=1e-12)
    evidence = scipy.stats.multivariate_normal(np.zeros(15), 4 * X @ X.T + 0.25 * np.eye(15))
    assert fit.notes["log_evidence_laplace"] == pytest.approx(evidence.logpdf(y), abs=1e-9)
    assert fit.status is Status.CONVERGED
    assert fit.engine == "laplace"
    assert fit.history.shape == (0,)
    stats = fit.posterior(500)["sample_stats"]
    weights = (stats["lp"] - stats["log_q"]).values
    np.testing.assert_allclose(weights, evidence.logpdf(y), atol=1e-8)


def padded(X, y):
    """The same regression, through sequences that torch.func can neither transform nor record."""
    b = pyro.sample("b", dist.Normal(torch.zeros(X.shape[1]), 2.0).to_event(1))
    lengths = torch.full((len(X),), X.shape[1])
    packed = pack_padded_sequence((X * b)[..., None], lengths, batch_first=True)
    terms, _ = pad_packed_sequence(packed, batch_first=True)
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(terms[..., 0].sum(-1), 0.5), obs=y)


def test_what_torch_func_cannot_transform_is_differentiated_by_autograd(data):
    exact, fit = gb.laplace(regression, data), gb.laplace(padded, data)
    q, truth = fit.guide.get_posterior(), exact.guide.get_posterior()
    torch.testing.assert_close(q.mean, truth.mean, rtol=0, atol=1e-6)
    # its Hessian is by differences of the gradient
    torch.testing.assert_close(q.covariance_matrix, truth.covariance_matrix, rtol=1e-6, atol=1e-8)


def test_a_positive_site_is_approximated_on_the_log_scale():
    """Gamma(a, b) in u = log z has its mode at log(a / b) and curvature a."""

    def model(y):
        rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.array([3.0, 1.0, 4.0])
    fit = gb.laplace(model, {"y": y})
    shape, rate = 4 + y.sum(), 2 + len(y)
    q = fit.guide.get_posterior()
    assert float(q.mean.detach()) == pytest.approx(math.log(shape / rate), abs=1e-8)
    assert float(q.covariance_matrix.detach()) == pytest.approx(1 / shape, rel=1e-8)


def test_a_funnel_has_no_mode():
    with pytest.warns(UserWarning, match=r"No mode.*svi or nuts"):
        fit = gb.laplace(unbounded, {"y": np.array(0.0)})
    assert fit.status is Status.NO_MODE
    assert not fit.status.good
    assert "log_evidence_laplace" not in fit.notes
    assert np.isfinite(fit.posterior(50)["posterior"]["v"].values).all()


def unbounded(y):
    """A funnel with a flat prior on its log scale: no maximum anywhere."""
    v = pyro.sample("v", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("arm", 4):
        pyro.sample("x", dist.Normal(0.0, v.exp()))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_the_same_seed_gives_the_same_fit_and_nothing_is_touched(data):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = gb.laplace(regression, data), gb.laplace(regression, data)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    left, right = (fit.posterior(10)["posterior"]["b"].values for fit in (one, two))
    assert (left == right).all()
