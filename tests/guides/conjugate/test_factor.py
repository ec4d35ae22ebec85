"""The posterior of factor analysis and probabilistic PCA, and each step of EM by itself."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.factor import NOISE_FLOOR, FactorPosterior
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from guidebook.models.regression import linear_regression

PARAMETERS = ("weight", "bias", "log_scale")
both = pytest.mark.parametrize("kind", [FactorAnalysis, LinearVAE])


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def decoder(kind, P=6, d=2):
    model = kind(P, d).double()
    with torch.no_grad():
        model.bias.normal_()
        model.log_scale.normal_().mul_(0.3).sub_(0.5)
    return model


def covariance_of(model):
    with torch.no_grad():
        psi = (2 * model.log_scale).exp().expand(len(model.bias))
        return (model.weight @ model.weight.T + psi.diag()).numpy()


def parameters_of(model, center):
    return {n: getattr(model, n).detach().clone() for n in PARAMETERS} | {"center": center}


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


def test_one_e_step_by_hand():
    # One column, one factor, W = 2, b = 1, sigma = 1: M = 5, E z = 2 (x - 1) / 5, var z = 1/5.
    model = FactorAnalysis(1, 1).double()
    one = torch.ones(1, dtype=torch.float64)
    parameters = {
        "weight": 2 * one.reshape(1, 1), "bias": one, "log_scale": 0 * one, "center": 0 * one,
    }  # fmt: skip
    x = torch.tensor([[1.0], [6.0]], dtype=torch.float64)
    statistics, log_evidence = FactorPosterior(model).e_step({"x": x}, parameters)
    means = np.array([0.0, 2.0])
    expected = {
        "count": 2.0, "sum_x": [7.0], "sum_xx": [37.0], "sum_z": [2.0], "sum_xz": [[12.0]],
        "sum_zz": [[(means**2 + 0.2).sum()]],
    }  # fmt: skip
    assert statistics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(statistics[name], value, rtol=0, atol=1e-12)
    evidence = stats.norm(1, math.sqrt(5)).logpdf([1.0, 6.0]).sum()
    assert log_evidence.item() == pytest.approx(evidence, abs=1e-12)


@both
@torch.no_grad()
def test_expected_log_joint_and_entropy_make_the_evidence(kind):
    # ELBO = E_q log p(x, z) + H(q) equals log p(x) where q is the posterior.
    model = decoder(kind)
    x = model(size=30)
    guide = FactorPosterior(model)
    parameters = parameters_of(model, x.mean(0) + 0.3)  # any origin of the statistics
    statistics, log_evidence = guide.e_step({"x": x}, parameters)
    entropy = guide.posterior(x).entropy().sum()
    elbo = guide.expected_log_joint(statistics, parameters) + entropy
    assert elbo.item() == pytest.approx(log_evidence.item(), abs=1e-9)
    assert log_evidence.item() == pytest.approx(guide.log_evidence(x).sum().item(), abs=1e-9)


@both
def test_the_m_step_is_a_maximum_of_the_expected_log_joint(kind):
    model = decoder(kind)
    with torch.no_grad():
        x = decoder(kind)(size=40)
        guide = FactorPosterior(model)
        parameters = parameters_of(model, x.mean(0))
        statistics, _ = guide.e_step({"x": x}, parameters)
        best = guide.m_step(statistics, parameters)
    free = {n: best[n].clone().requires_grad_() for n in PARAMETERS}
    top = guide.expected_log_joint(statistics, best | free)
    for gradient in torch.autograd.grad(top, list(free.values())):
        np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-8)
    assert top > guide.expected_log_joint(statistics, parameters)
    for name in PARAMETERS:  # a stationary point from which every way leads down
        for _ in range(5):
            moved = best | {name: best[name] + 0.05 * torch.randn_like(best[name])}
            assert guide.expected_log_joint(statistics, moved) < top


@both
def test_the_m_step_with_a_prior_is_conditional_and_climbs(kind):
    model = decoder(kind)
    guide = FactorPosterior(model, alpha=3.0)
    with torch.no_grad():
        x = decoder(kind)(size=40)
        parameters = parameters_of(model, x.mean(0))
        statistics, _ = guide.e_step({"x": x}, parameters)
        best = guide.m_step(statistics, parameters)

    def value(at):
        return guide.expected_log_joint(statistics, at) + guide.log_prior(at)

    # W and b at the former sigma: there the gradient in W and b is zero.
    free = {n: best[n].clone().requires_grad_() for n in ("weight", "bias")}
    at = parameters | free
    for gradient in torch.autograd.grad(value(at), list(free.values())):
        np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-8)
    log_scale = best["log_scale"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(best | {"log_scale": log_scale}), [log_scale])
    np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-8)
    assert value(best) > value(parameters)


def test_the_prior_is_scipys_normal():
    model = decoder(FactorAnalysis)
    parameters = parameters_of(model, torch.zeros(6, dtype=torch.float64))
    expected = stats.norm(0, 1 / math.sqrt(2.5)).logpdf(parameters["weight"].numpy()).sum()
    found = FactorPosterior(model, alpha=2.5).log_prior(parameters).item()
    assert found == pytest.approx(expected, abs=1e-10)
    assert FactorPosterior(model).log_prior(parameters).item() == 0


@both
@torch.no_grad()
def test_statistics_of_chunks_add_up_to_those_of_all_rows(kind):
    model = decoder(kind)
    guide, x = FactorPosterior(model), 100 + model(size=50)
    parameters = parameters_of(model, x.mean(0))
    whole, evidence = guide.e_step({"x": x}, parameters)
    parts = [guide.e_step({"x": piece}, parameters) for piece in x.split(7)]
    for name, value in whole.items():
        summed = torch.stack([statistics[name] for statistics, _ in parts]).sum(0)
        np.testing.assert_allclose(summed, value, rtol=1e-12, atol=1e-9)
    assert sum(e for _, e in parts).item() == pytest.approx(evidence.item(), rel=1e-12)


def test_the_start_follows_the_units_of_the_columns_and_the_seed():
    x = torch.randn(60, 6).double()
    units = torch.tensor([1.0, 1e3, 1e-3, 1.0, 7.0, 1.0], dtype=torch.float64)
    guide = FactorPosterior(FactorAnalysis(6, 2))
    start, other = guide.start({"x": x}, 5), guide.start({"x": x * units}, 5)
    np.testing.assert_allclose(other["weight"], start["weight"] * units[:, None], rtol=1e-10)
    np.testing.assert_allclose(other["log_scale"], start["log_scale"] + units.log(), atol=1e-10)
    assert not torch.equal(guide.start({"x": x}, 6)["weight"], start["weight"])
    # Half noise, half factors: expected 0.5, standard deviation 0.2 over the P d = 12 weights.
    share = (start["weight"].square().sum(-1) / x.var(0, correction=0)).mean()
    assert 0.1 < share < 1.2


def test_finished_copies_keep_the_models_dtype_and_leave_it_alone():
    model = FactorAnalysis(6, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    guide = FactorPosterior(model, alpha=0.5)
    parameters = guide.start({"x": torch.randn(30, 6)}, 0)
    trained, other = guide.finished(model, parameters)
    assert trained.weight.dtype is torch.float32 and other.alpha == 0.5
    np.testing.assert_array_equal(trained.weight.detach(), parameters["weight"].float())
    x = torch.randn(4, 6)
    trained.bias.data.add_(1.0)  # the new guide reads the new model
    assert not torch.equal(other.posterior(x).mean, guide.posterior(x).mean)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_noise_never_falls_below_its_bound():
    x = torch.randn(30, 4).double()
    x[:, 1] = 3 * x[:, 0]  # one factor explains both columns without noise
    guide = FactorPosterior(FactorAnalysis(4, 1))
    parameters = guide.start({"x": x}, 0)
    for _ in range(60):
        statistics, _ = guide.e_step({"x": x}, parameters)
        parameters = guide.m_step(statistics, parameters)
    share = (2 * parameters["log_scale"]).exp() / x.var(0, correction=0)
    np.testing.assert_allclose(share[:2], NOISE_FLOOR, rtol=1e-6)
    assert share[2:].min() > 0.01
    below = parameters | {"log_scale": parameters["log_scale"] - 1}
    assert guide.expected_log_joint(statistics, below) == -math.inf


def test_data_without_a_maximum_are_refused():
    x = torch.randn(30, 4).double()
    constant = x.clone()
    constant[:, 2] = 0.1
    few = x[:3].repeat(10, 1)  # three distinct rows lie in a plane
    for kind in (FactorAnalysis, LinearVAE):
        guide = FactorPosterior(kind(4, 2))
        with pytest.raises(DataError, match="Column 2 of x is constant"):
            guide.start({"x": constant}, 0)
        with pytest.raises(DataError, match="30 rows of x lie in 2 dimensions or fewer"):
            guide.start({"x": few}, 0)
        with pytest.raises(DataError, match="one row"):
            guide.start({"x": x[:1]}, 0)
        with pytest.raises(
            DataError, match=r"shape \(30, 3\), and the model was made for \(n, 4\)"
        ):
            guide.start({"x": x[:, :3]}, 0)
        with pytest.raises(DataError, match="needs the observed rows"):
            guide.start({}, 0)
        with pytest.raises(DataError, match="4 columns, and 4 latents"):
            FactorPosterior(kind(4, 4)).start({"x": x}, 0)
        with pytest.raises(DataError, match="4 columns, and 9 latents"):
            FactorPosterior(kind(4, 9)).start({"x": x}, 0)


def test_errors():
    with pytest.raises(GuideError, match="no weight and no bias"):
        FactorPosterior(linear_regression)
    with pytest.raises(SettingError, match="alpha=-1"):
        FactorPosterior(FactorAnalysis(4, 1), alpha=-1.0)
    odd = FactorAnalysis(4, 1)
    odd.log_scale = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(GuideError, match=r"log_scale has shape \(3,\)"):
        FactorPosterior(odd)
    with pytest.raises(GuideError, match="pass x"):
        FactorPosterior(FactorAnalysis(4, 1))(size=3)


@both
@pytest.mark.parametrize("d", [1, 3])
def test_the_start_is_half_noise_and_half_factors_by_the_seeds_own_numbers(kind, d):
    x = torch.randn(20, 5) * torch.arange(1.0, 6.0) + 7
    found = FactorPosterior(kind(5, d)).start({"x": x}, 3)
    rows = x.double()
    spread = rows.var(0, correction=0)
    if kind is LinearVAE:
        spread = spread.mean().expand(5)
    noise = torch.randn(5, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = noise * (spread / (2 * d)).sqrt()[:, None]  # to the last digits: drawn as doubles
    torch.testing.assert_close(found["weight"], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close((2 * found["log_scale"]).exp().expand(5), spread / 2)
    torch.testing.assert_close(found["bias"], rows.mean(0))
    torch.testing.assert_close(found["center"], rows.mean(0))
    assert found["log_scale"].shape == (() if kind is LinearVAE else (5,))


def test_units_matter_to_one_sigma_and_not_to_a_sigma_for_each_column():
    """One column of standard deviation 10^7: with a single sigma the others are rounding errors."""
    x = torch.randn(20, 3).double()
    x[:, 0] *= 1e7
    assert FactorPosterior(FactorAnalysis(3, 1)).start({"x": x}, 0)["bias"].shape == (3,)
    with pytest.raises(DataError, match="20 rows of x lie in 1 dimensions or fewer"):
        FactorPosterior(LinearVAE(3, 1)).start({"x": x}, 0)
    assert FactorPosterior(FactorAnalysis(2, 1)).start({"x": x[:, :2]}, 0)["bias"].shape == (2,)
    far = torch.randn(20, 3).double() + torch.tensor([1e7, 0, 0])  # an origin far away is no matter
    for kind in (FactorAnalysis, LinearVAE):
        assert FactorPosterior(kind(3, 1)).start({"x": far}, 0)["bias"].shape == (3,)


def test_more_columns_than_rows_and_the_limit_of_what_has_a_maximum():
    """Two directions whose variances have the ratio 10^-12 are one; 2 * 10^-12 are two."""
    wide = torch.randn(4, 9).double()
    for d in (1, 2):
        assert FactorPosterior(FactorAnalysis(9, d)).start({"x": wide}, 0)["weight"].shape == (9, d)
    with pytest.raises(DataError, match="4 rows of x lie in 3 dimensions"):
        FactorPosterior(FactorAnalysis(9, 3)).start({"x": wide}, 0)
    x = torch.tensor([[1e6, 0], [-1e6, 0], [0, 1], [0, -1]], dtype=torch.float64)
    with pytest.raises(DataError, match="1 dimensions or fewer"):
        FactorPosterior(LinearVAE(2, 1)).start({"x": x}, 0)
    more = x * torch.tensor([1, 2**0.5]).double()
    assert FactorPosterior(LinearVAE(2, 1)).start({"x": more}, 0)["weight"].shape == (2, 1)
    small = 0.7**0.5  # two directions of 0.7 * 10^-12 each are more than 10^-12 together
    rows = [
        [1e6, small, small],
        [1e6, -small, -small],
        [-1e6, small, -small],
        [-1e6, -small, small],
    ]
    three = torch.tensor(rows, dtype=torch.float64)
    assert FactorPosterior(LinearVAE(3, 1)).start({"x": three}, 0)["weight"].shape == (3, 1)


def test_constant_columns_are_named_up_to_eight():
    x = torch.randn(6, 12).double()
    x[:, :10] = 0.1
    with pytest.raises(DataError, match="Column 0, 1, 2, 3, 4, 5, 6, 7 of x"):
        FactorPosterior(FactorAnalysis(12, 2)).start({"x": x}, 0)
    with pytest.raises(DataError, match=r"shape \(6, 12, 1\)"):
        FactorPosterior(FactorAnalysis(12, 2)).start({"x": x.unsqueeze(-1)}, 0)


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


def test_the_origin_of_the_statistics_has_no_gradient():
    model = decoder(FactorAnalysis)
    guide = FactorPosterior(model)
    parameters = parameters_of(model, torch.ones(6, dtype=torch.float64))
    statistics, _ = guide.e_step({"x": model(size=9).detach()}, parameters)
    at = parameters | {n: parameters[n].clone().requires_grad_() for n in ("bias", "center")}
    value = guide.expected_log_joint(statistics, at)
    of_bias, of_center = torch.autograd.grad(value, [at["bias"], at["center"]], allow_unused=True)
    assert of_center is None and bool((of_bias != 0).any())


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
