"""Exact guides: log p(x, z) - log q(z) is the evidence, whatever z; SciPy knows the evidence."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from sklearn.decomposition import PCA

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.exact.conjugate import ConjugateRegression, LinearGaussianPosterior
from guidebook.models.decoders.latent import LinearVAE
from guidebook.models.regression import linear_regression

PRIOR = {"shape": 3.0, "rate": 1.5, "scale": 0.7}


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def regression_data(n=20, P=4):
    X = torch.randn(n, P, dtype=torch.float64)
    return {"X": X, "y": X @ torch.linspace(-1, 1, P).double() + 0.5 * torch.randn(n).double()}


def log_weight(model, guide, data):
    with torch.no_grad():
        drawn = poutine.trace(guide).get_trace(**data)
        joint = poutine.trace(poutine.replay(model, drawn)).get_trace(**data)
        return (joint.log_prob_sum() - drawn.log_prob_sum()).item()


def prior_model(X, y=None, size=None):
    return linear_regression(X, y, size, **PRIOR)


def test_regression_evidence_is_scipys_multivariate_t():
    data = regression_data()
    A = np.column_stack([np.ones(20), data["X"].numpy()])
    a, b, s = PRIOR["shape"], PRIOR["rate"], PRIOR["scale"]
    marginal = stats.multivariate_t(
        loc=np.zeros(20), shape=b / a * (np.eye(20) + s**2 * A @ A.T), df=2 * a
    )
    found = ConjugateRegression(**PRIOR).log_evidence(**data).item()
    assert found == pytest.approx(marginal.logpdf(data["y"].numpy()), abs=1e-9)


@pytest.mark.parametrize("defaults", [True, False])
def test_regression_log_weight_is_constant_and_the_evidence(defaults):
    data = regression_data()
    guide = ConjugateRegression() if defaults else ConjugateRegression(**PRIOR)
    model = linear_regression if defaults else prior_model
    evidence = guide.log_evidence(**data).item()
    for _ in range(20):
        assert log_weight(model, guide, data) == pytest.approx(evidence, abs=1e-8)


def test_regression_posterior_by_completing_the_square_by_hand():
    # One row and no column but the intercept's: V = 1 / (1 + 1 / s^2), m = V y.
    X, y = torch.zeros(1, 0, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    exact = ConjugateRegression(shape=2.0, rate=1.0, scale=1.0).posterior(X, y)
    assert exact.mean.tolist() == pytest.approx([1.0])
    assert (exact.scale_tril @ exact.scale_tril.T).tolist() == [pytest.approx([0.5])]
    assert exact.shape.item() == pytest.approx(2.5)
    assert exact.rate.item() == pytest.approx(1.0 + 0.5 * (1.0 + 1.0))


def test_regression_draws_have_the_posteriors_moments():
    # sigma2: mean b_n / (a_n - 1). w: mean m, covariance b_n / (a_n - 1) V. Each coordinate's mean
    # over 1,500 independent draws is tested at 1e-5: about 1e-4 for all.
    data = regression_data(P=3)
    guide = ConjugateRegression(**PRIOR)
    exact = guide.posterior(**data)
    with torch.no_grad():
        drawn = [guide(**data) for _ in range(1500)]
    sigma2 = torch.stack([draw["sigma2"] for draw in drawn]).numpy()
    w = torch.stack([torch.cat([draw["intercept"][None], draw["beta"]]) for draw in drawn]).numpy()
    a, b = exact.shape.item(), exact.rate.item()
    assert stats.kstest(sigma2, stats.invgamma(a, scale=b).cdf).pvalue > 1e-5
    V = (exact.scale_tril @ exact.scale_tril.T).numpy()
    # w_j and every sum of them is Student t with 2 a_n degrees of freedom.
    for direction in [*np.eye(4), np.ones(4), np.array([1.0, -1.0, 2.0, -2.0])]:
        scale = np.sqrt(b / a * direction @ V @ direction)
        marginal = stats.t(2 * a, loc=direction @ exact.mean.numpy(), scale=scale)
        assert stats.kstest(w @ direction, marginal.cdf).pvalue > 1e-5


def test_regression_in_vectorised_particles_keeps_the_weight_constant():
    data = regression_data()
    guide = ConjugateRegression()

    def particles(function):
        def vectorised(**data):
            with pyro.plate("particle", 16, dim=-2):
                function(**data)

        return vectorised

    drawn = poutine.trace(particles(guide)).get_trace(**data)
    joint = poutine.trace(poutine.replay(particles(linear_regression), drawn)).get_trace(**data)
    weight = torch.zeros(16, dtype=torch.float64)
    for trace, sign in ((joint, 1), (drawn, -1)):
        trace.compute_log_prob()
        for name in ("sigma2", "intercept", "beta", "y"):
            if name in trace.nodes:
                weight += sign * trace.nodes[name]["log_prob"].sum(-1)
    expected = guide.log_evidence(**data).expand(16)
    torch.testing.assert_close(weight, expected, rtol=0.0, atol=1e-8)


def test_regression_with_collinear_columns_is_still_exact():
    data = regression_data()
    data["X"][:, 1] = data["X"][:, 0]
    guide = ConjugateRegression()
    evidence = guide.log_evidence(**data).item()
    assert log_weight(linear_regression, guide, data) == pytest.approx(evidence, abs=1e-8)


def test_regression_errors():
    data = regression_data()
    guide = ConjugateRegression()
    with pytest.raises(GuideError, match="needs all 100 rows and was given 20"):
        guide(**data, size=100)
    with pytest.raises(DataError, match="no y"):
        guide(data["X"])
    with pytest.raises(DataError, match=r"y \(19,\)"):
        guide(data["X"], data["y"][1:])
    with pytest.raises(SettingError, match="positive"):
        ConjugateRegression(scale=0.0)


def linear_decoder(P=6, d=2):
    model = LinearVAE(P, d).double()
    with torch.no_grad():
        model.bias.normal_()
        model.log_scale.fill_(-0.8)
    return model


@torch.no_grad()
def test_pca_evidence_is_scipys_multivariate_normal():
    model = linear_decoder()
    x = model(size=9)
    W, b = model.weight.numpy(), model.bias.numpy()
    marginal = stats.multivariate_normal(b, W @ W.T + np.exp(-1.6) * np.eye(6))
    found = LinearGaussianPosterior(model).log_evidence(x).numpy()
    np.testing.assert_allclose(found, marginal.logpdf(x.numpy()), rtol=0, atol=1e-10)


@torch.no_grad()
def test_pca_posterior_is_the_conditional_of_the_joint_normal():
    # (z, x) is normal with covariance [[I, W'], [W, C]]: the conditional by the textbook formula.
    model = linear_decoder()
    x = model(size=9)
    W, b = model.weight.numpy(), model.bias.numpy()
    C = W @ W.T + np.exp(-1.6) * np.eye(6)
    q = LinearGaussianPosterior(model).posterior(x)
    mean = np.linalg.solve(C, (x.numpy() - b).T).T @ W
    covariance = np.eye(2) - W.T @ np.linalg.solve(C, W)
    np.testing.assert_allclose(q.mean, mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(q.covariance_matrix[0], covariance, rtol=0, atol=1e-12)


def test_pca_log_weight_is_constant_and_the_evidence():
    model = linear_decoder()
    guide = LinearGaussianPosterior(model)
    with torch.no_grad():
        x = model(size=9)
        evidence = guide.log_evidence(x).sum().item()
    for _ in range(10):
        assert log_weight(model, guide, {"x": x}) == pytest.approx(evidence, abs=1e-8)
        scaled = log_weight(model, guide, {"x": x, "size": 90})
        assert scaled == pytest.approx(10 * evidence, abs=1e-7)


def test_pca_evidence_is_scikit_learns_score():
    x = torch.randn(80, 3).double() @ torch.randn(3, 7).double() + 0.4 * torch.randn(80, 7).double()
    pca = PCA(3).fit(x.numpy())
    model = LinearVAE(7, 3).double()
    spread = np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(pca.components_.T * spread))
        model.bias.copy_(torch.from_numpy(pca.mean_))
        model.log_scale.fill_(0.5 * math.log(pca.noise_variance_))
        found = LinearGaussianPosterior(model).log_evidence(x).mean().item()
    assert found == pytest.approx(pca.score(x.numpy()), abs=1e-10)


def test_pca_guide_has_no_parameters_and_follows_its_model():
    model = linear_decoder()
    names = [name for name, _ in model.named_parameters()]
    guide = LinearGaussianPosterior(model)
    assert list(guide.parameters()) == []
    assert [name for name, _ in model.named_parameters()] == names
    x = torch.randn(3, 6).double()
    other_model, other = copy.deepcopy((model, guide))
    with torch.no_grad():
        other_model.bias.add_(1.0)
        torch.testing.assert_close(
            other.posterior(x + 1).mean, guide.posterior(x).mean, rtol=0, atol=1e-12
        )


def test_training_with_the_exact_guide_climbs_to_the_maximum_of_likelihood():
    # With the exact posterior the ELBO is the evidence, whose maximum is known in closed form.
    x = torch.randn(60, 2).double() @ torch.randn(2, 5).double() + 0.5 * torch.randn(60, 5).double()
    best = LinearGaussianPosterior(LinearVAE.maximum_likelihood(x, 2)).log_evidence(x).sum().item()
    model = LinearVAE(5, 2).double()
    guide = LinearGaussianPosterior(model)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def objective():
        optimiser.zero_grad()
        with pyro.poutine.trace() as drawn:
            guide(x)
        joint = poutine.trace(poutine.replay(model, drawn.trace)).get_trace(x)
        loss = drawn.trace.log_prob_sum() - joint.log_prob_sum()
        loss.backward()
        return loss.detach()

    optimiser.step(objective)
    assert -objective().item() == pytest.approx(best, abs=1e-6)


def test_pca_errors():
    with pytest.raises(GuideError, match="no weight and no bias"):
        LinearGaussianPosterior(linear_regression)
    with pytest.raises(GuideError, match="pass x"):
        LinearGaussianPosterior(linear_decoder())(size=3)


@pytest.mark.parametrize("name", ["shape", "rate", "scale"])
def test_the_limits_of_the_prior(name):
    for right in (0.5, 30.0):
        assert getattr(ConjugateRegression(**{name: right}), name) == right
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SettingError, match=f"{name}={wrong}"):
            ConjugateRegression(**{name: wrong})


def test_all_rows_may_be_said_to_be_all_and_x_is_one_matrix():
    data = regression_data(5, 2)
    guide = ConjugateRegression()
    drawn = guide(**data, size=5)
    assert drawn["beta"].shape == (2,) and drawn["sigma2"] > 0
    with pytest.raises(DataError, match=r"X \(5, 2, 1\)"):
        guide(data["X"].unsqueeze(-1), data["y"])
    with pytest.raises(DataError, match=r"y \(5, 1\)"):
        guide(data["X"], data["y"].unsqueeze(-1))
    single = guide.posterior(data["X"].float(), data["y"].float())
    for one, other in zip(single, guide.posterior(**data), strict=True):
        assert one.dtype is torch.float32 and other.dtype is torch.float64


def test_the_names_of_the_latents_and_of_their_plate():
    guide = LinearGaussianPosterior(linear_decoder(), site="u", plate="item")
    trace = poutine.trace(guide).get_trace(torch.zeros(3, 6).double(), size=6)
    u = trace.nodes["u"]
    assert [frame.name for frame in u["cond_indep_stack"]] == ["item"] and u["scale"] == 2
