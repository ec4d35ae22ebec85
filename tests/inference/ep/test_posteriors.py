"""Expectation propagation where it is exact, and against quadrature where it is not."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from scipy.special import logsumexp

import guidebook as gb
from guidebook import Status
from guidebook.guides.conjugate.moments import Tilted
from guidebook.guides.conjugate.sites import ClutterSites, LogisticSites, ProbitSites
from guidebook.inference.ep import ep
from guidebook.models.clutter import clutter
from guidebook.models.probit import probit_regression
from guidebook.models.regression import logistic_regression
from tests.inference.ep.stories import BOTH, log_joint_of_clutter, minka, one_column, quadrature

# where it is exact -------------------------------------------------------------------------------


def known_noise(X, y=None, size=None):
    intercept = pyro.sample("intercept", dist.Normal(X.new_zeros(()), 1.5))
    beta = pyro.sample("beta", dist.Normal(X.new_zeros(X.shape[1]), 1.5).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(intercept + X @ beta, 0.7), obs=y)


class GaussianSites(ProbitSites):
    """A likelihood of one's own: N(y; s, 0.7^2), through the same Protocol."""

    def moments(self, y, mean, variance):
        total = variance + 0.49
        log_mass = torch.distributions.Normal(mean, total.sqrt()).log_prob(y)
        return Tilted(log_mass, mean + variance / total * (y - mean), variance * 0.49 / total)


@BOTH
def test_a_linear_gaussian_model_is_exact_after_one_sweep(schedule):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 3))
    y = rng.integers(0, 2, 12).astype(float)
    fit = ep(
        known_noise, GaussianSites(scale=1.5), {"X": X, "y": y}, schedule=schedule, damping=1.0,
        progress=False,
    )  # fmt: skip
    A = np.column_stack([np.ones(12), X])
    covariance = np.linalg.inv(A.T @ A / 0.49 + np.eye(4) / 2.25)
    q = fit.guide.posterior()
    np.testing.assert_allclose(q.covariance_matrix, covariance, atol=1e-12)
    np.testing.assert_allclose(q.mean, covariance @ A.T @ y / 0.49, atol=1e-11)
    evidence = scipy.stats.multivariate_normal(np.zeros(12), 2.25 * A @ A.T + 0.49 * np.eye(12))
    assert fit.notes["log_evidence_ep"] == pytest.approx(evidence.logpdf(y), abs=1e-9)
    assert fit.notes["sweeps"] == 1
    assert fit.status is Status.CONVERGED
    stats = fit.posterior(300)["sample_stats"]
    np.testing.assert_allclose((stats["lp"] - stats["log_q"]).values, evidence.logpdf(y), atol=1e-8)


@BOTH
def test_a_single_factor_is_matched_exactly(schedule):
    """With one row and no column, q has the mean and variance of the posterior, and its evidence."""
    data = {"X": np.zeros((1, 1)), "y": np.array([1.0])}
    fit = ep(probit_regression, ProbitSites(), data, schedule=schedule, progress=False)
    truth = quadrature(scipy.stats.norm.logcdf, 0.0, 1.0)
    q = fit.guide.posterior()
    assert fit.notes["log_evidence_ep"] == pytest.approx(np.log(0.5), abs=1e-6)
    assert float(q.mean[0]) == pytest.approx(truth[1], abs=1e-5)
    assert float(q.variance[0]) == pytest.approx(truth[2], rel=1e-5)


# against quadrature ------------------------------------------------------------------------------


def grid_truth(log_joint, centre, covariance, points=401):
    """log evidence, mean and covariance in two dimensions, by the trapezoidal rule on +-8 sd."""
    root = np.linalg.cholesky(covariance)
    axis = np.linspace(-8, 8, points)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    theta = centre + z @ root.T
    log_p = log_joint(theta)
    log_evidence = logsumexp(log_p) + 2 * np.log(axis[1] - axis[0]) + np.log(np.diag(root)).sum()
    weight = np.exp(log_p - logsumexp(log_p))
    mean = weight @ theta
    away = theta - mean
    return log_evidence, mean, away.T @ (weight[:, None] * away)


LINKS = {
    "probit": (probit_regression, ProbitSites, 1.0, scipy.stats.norm),
    "logistic": (logistic_regression, LogisticSites, 2.5, scipy.stats.logistic),
}


@BOTH
@pytest.mark.parametrize("link", list(LINKS))
def test_two_coefficients_against_quadrature_and_laplace(link, schedule):
    # EP is not exact in a skewed posterior. Asked for are means within 0.03 sd, a fifth of Laplace's
    # error (0.3 sd), standard deviations within 10 % and the evidence within 0.05 nat.
    model, sites, scale, law = LINKS[link]
    data = one_column(15, 3, law)
    fit = ep(model, sites(), data, schedule=schedule, progress=False)
    assert fit.status is Status.CONVERGED
    q = fit.guide.posterior()

    def log_joint(theta):
        sign = 2 * data["y"] - 1
        likelihood = law.logcdf(sign * (theta[:, :1] + theta[:, 1:] * data["X"][:, 0])).sum(1)
        return likelihood + scipy.stats.norm.logpdf(theta, 0, scale).sum(1)

    evidence, mean, covariance = grid_truth(log_joint, q.mean.numpy(), q.covariance_matrix.numpy())
    sd = np.sqrt(np.diag(covariance))
    rough = gb.laplace(model, data)
    there = rough.guide.get_posterior()
    off = [np.abs((g.mean.detach().numpy() - mean) / sd).max() for g in (q, there)]
    assert off[0] < 0.03 and off[0] < off[1] / 5
    assert np.abs(np.log(q.variance.numpy() / sd**2)).max() < 0.2
    assert abs(fit.notes["log_evidence_ep"] - evidence) < 0.05
    assert fit.history[-1] == pytest.approx(-fit.notes["log_evidence_ep"])


@BOTH
def test_minkas_clutter_problem_against_quadrature_and_laplace(schedule):
    x = minka(20, 1)
    fit = ep(clutter, ClutterSites(), {"x": x}, schedule=schedule, progress=False)
    assert fit.status is Status.CONVERGED
    assert fit.notes["negative_sites"] > 0
    theta = np.linspace(-20, 20, 40_001)
    log_p = log_joint_of_clutter(theta[:, None], x)
    evidence = logsumexp(log_p) + np.log(theta[1] - theta[0])
    weight = np.exp(log_p - logsumexp(log_p))
    mean = weight @ theta
    sd = np.sqrt(weight @ np.square(theta - mean))
    q = fit.guide.posterior()
    rough = gb.laplace(clutter, {"x": x})
    there = rough.guide.get_posterior()
    off = abs(float(q.mean) - mean) / sd, abs(float(there.mean.detach()) - mean) / sd
    assert off[0] < 0.05 and off[0] < off[1]
    wide = abs(np.log(float(q.variance) / sd**2))
    assert wide < 0.1 and wide < abs(np.log(float(there.variance.detach()) / sd**2))
    gap = abs(fit.notes["log_evidence_ep"] - evidence)
    assert gap < 0.05 and gap < abs(rough.notes["log_evidence_laplace"] - evidence)


def test_clutter_in_two_dimensions_against_quadrature():
    # q has one variance for both coordinates: it is held against their average
    x = minka(30, 2)
    fit = ep(clutter, ClutterSites(), {"x": x}, progress=False)
    assert fit.status is Status.CONVERGED
    q = fit.guide.posterior()

    def log_joint(theta):
        return np.concatenate([log_joint_of_clutter(part, x) for part in np.array_split(theta, 40)])

    evidence, mean, covariance = grid_truth(log_joint, q.mean.numpy(), q.covariance_matrix.numpy())
    spread = np.trace(covariance) / 2
    assert np.abs(q.mean.numpy() - mean).max() < 0.05 * spread**0.5
    assert float(q.variance[0]) == pytest.approx(spread, rel=0.1)
    assert fit.notes["log_evidence_ep"] == pytest.approx(evidence, abs=0.05)


def test_thirty_correlated_columns_against_importance_sampling():
    # 20,000 draws of q weighted by p / q have an effective size of thousands; the standard error of a
    # weighted mean is then below 0.03 sd, of a log variance below 0.06, of log p(x) below 0.03.
    data = gb.pair("logistic-regression").data()
    fit = ep(logistic_regression, LogisticSites(), data, progress=False)
    tree = fit.posterior(20_000)
    log_w = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values.ravel()
    theta = tree["unconstrained"]["position"].values[0]
    weight = np.exp(log_w - logsumexp(log_w))
    assert 1 / np.square(weight).sum() > 2000
    mean = weight @ theta
    variance = weight @ np.square(theta - mean)
    q = fit.guide.posterior()
    assert (np.abs(q.mean.numpy() - mean) / np.sqrt(variance)).max() < 0.15
    assert np.abs(np.log(q.variance.numpy() / variance)).max() < 0.25
    truth = logsumexp(log_w) - np.log(len(log_w))
    assert fit.notes["log_evidence_ep"] == pytest.approx(truth, abs=0.2)
