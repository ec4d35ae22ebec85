"""The posterior and the evidence of a linear decoder, against scipy and scikit-learn."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis

from guidebook.errors import SettingError
from guidebook.guides.conjugate.factor import NOISE_FLOOR, FactorPosterior
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from tests.guides.conjugate.factor.decoders import both, decoder


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def covariance_of(model):
    with torch.no_grad():
        psi = (2 * model.log_scale).exp().expand(len(model.bias))
        return (model.weight @ model.weight.T + psi.diag()).numpy()


@both
@torch.no_grad()
def test_evidence_is_scipys_multivariate_normal(kind):
    model = decoder(kind)
    x = model(size=9)
    marginal = stats.multivariate_normal(model.bias.numpy(), covariance_of(model))
    found = FactorPosterior(model).log_evidence(x).numpy()
    np.testing.assert_allclose(found, marginal.logpdf(x.numpy()), rtol=0, atol=1e-10)


@both
@torch.no_grad()
def test_posterior_is_the_conditional_of_the_joint_normal(kind):
    model = decoder(kind)
    x = model(size=9)
    W, C = model.weight.numpy(), covariance_of(model)
    q = FactorPosterior(model).posterior(x)
    mean = np.linalg.solve(C, (x.numpy() - model.bias.numpy()).T).T @ W
    np.testing.assert_allclose(q.mean, mean, rtol=0, atol=1e-11)
    expected = np.eye(2) - W.T @ np.linalg.solve(C, W)
    np.testing.assert_allclose(q.covariance_matrix[0], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_with_one_sigma_it_is_the_posterior_of_probabilistic_pca():
    model = decoder(LinearVAE)
    x = model(size=9)
    ours, known = FactorPosterior(model), LinearGaussianPosterior(model)
    np.testing.assert_allclose(ours.log_evidence(x), known.log_evidence(x), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        ours.posterior(x).scale_tril, known.posterior(x).scale_tril, rtol=0, atol=1e-12
    )


@both
def test_log_weight_is_constant_and_the_evidence(kind):
    model = decoder(kind)
    guide = FactorPosterior(model)
    with torch.no_grad():
        x = model(size=9)
        evidence = guide.log_evidence(x).sum().item()
        for data, factor in (({"x": x}, 1), ({"x": x, "size": 90}, 10)):
            drawn = poutine.trace(guide).get_trace(**data)
            joint = poutine.trace(poutine.replay(model, drawn)).get_trace(**data)
            weight = (joint.log_prob_sum() - drawn.log_prob_sum()).item()
            assert weight == pytest.approx(factor * evidence, abs=1e-7)


def test_evidence_is_scikit_learns_score():
    x = np.random.default_rng(0).normal(size=(80, 3)) @ np.arange(21.0).reshape(3, 7) / 10
    x = x + np.random.default_rng(1).normal(size=x.shape) * np.linspace(0.3, 1, 7)
    known = SklearnFactorAnalysis(2, tol=1e-2, svd_method="lapack").fit(x)
    model = FactorAnalysis(7, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(known.components_.T))
        model.bias.copy_(torch.from_numpy(known.mean_))
        model.log_scale.copy_(0.5 * torch.from_numpy(known.noise_variance_).log())
        found = FactorPosterior(model).log_evidence(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, known.score_samples(x), rtol=0, atol=1e-9)


@both
def test_at_its_bound_a_noise_variance_has_a_density_and_below_it_none(kind):
    x = torch.randn(30, 3).double() * torch.tensor([1.0, 2.0, 4.0])
    guide = FactorPosterior(kind(3, 1))
    parameters = guide.start({"x": x}, 0)
    statistics, _ = guide.e_step({"x": x}, parameters)
    variance = x.var(0, correction=0)
    bound = NOISE_FLOOR * (variance.mean() if kind is LinearVAE else variance)
    assert NOISE_FLOOR == 1e-9
    for factor, finite in ((1.001, True), (0.999, False)):
        at = parameters | {"log_scale": 0.5 * (factor * bound).log()}
        assert bool(guide.expected_log_joint(statistics, at).isfinite()) is finite
    x[:, 1:] = x[:, :1] * torch.tensor(
        [2.0, -3.0]
    )  # no noise is left: the M-step stops at the bound
    statistics, _ = guide.e_step({"x": x}, parameters)
    best = guide.m_step(statistics, parameters)
    for _ in range(60):
        statistics, _ = guide.e_step({"x": x}, best)
        best = guide.m_step(statistics, best)
    variance = x.var(0, correction=0)
    bound = NOISE_FLOOR * (variance.mean() if kind is LinearVAE else variance)
    torch.testing.assert_close((2 * best["log_scale"]).exp(), bound, rtol=1e-6, atol=0)
    assert bool(guide.expected_log_joint(statistics, best).isfinite())


def test_the_limits_of_alpha_and_the_names_of_the_sites():
    for right in (0.0, 0.25, 3.0):
        assert FactorPosterior(FactorAnalysis(4, 1), alpha=right).alpha == right
    assert FactorPosterior(FactorAnalysis(4, 1)).alpha == 0
    for wrong in (-0.5, math.inf, math.nan):
        with pytest.raises(SettingError, match=f"alpha={wrong}"):
            FactorPosterior(FactorAnalysis(4, 1), alpha=wrong)
    model = decoder(FactorAnalysis, 4, 1)
    guide = FactorPosterior(model, site="u", plate="item")
    x = model(size=3).detach()
    _, other = guide.finished(model, guide.start({"x": torch.randn(9, 4)}, 0))
    for one in (guide, other):
        trace = poutine.trace(one).get_trace(x)
        assert [frame.name for frame in trace.nodes["u"]["cond_indep_stack"]] == ["item"]
        assert trace.nodes["u"]["value"].shape == (3, 1)
