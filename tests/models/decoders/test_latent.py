"""Decoder models against SciPy, scikit-learn and their own equations."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from sklearn.decomposition import PCA

from guidebook.errors import DataError, ModelError, SettingError
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.decoders.likelihoods import Gaussian, GaussianPerDatum
from guidebook.models.decoders.networks import mlp

GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(7, 2, generator=GENERATOR, dtype=torch.float64)
GREY = torch.rand(7, 5, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def log_joint(model, z, x):
    with torch.no_grad():
        conditioned = poutine.condition(model, {"z": z})
        return poutine.trace(conditioned).get_trace(x=x).log_prob_sum().item()


def log_prior(z):
    return stats.norm.logpdf(z.numpy()).sum()


def test_linear_log_joint_is_the_equation_in_the_docstring():
    model = LinearVAE(5, 2).double()
    with torch.no_grad():
        model.log_scale.fill_(-0.4)
        model.bias.normal_()
        mean = (Z @ model.weight.T + model.bias).numpy()
    expected = log_prior(Z) + stats.norm(mean, np.exp(-0.4)).logpdf(GREY.numpy()).sum()
    assert log_joint(model, Z, GREY) == pytest.approx(expected, abs=1e-10)


def test_bernoulli_log_joint_for_zeros_and_ones():
    model = VAE(5, 2, (4,)).double()
    x = GREY.round()
    with torch.no_grad():
        p = model.decode(Z).numpy()
    expected = log_prior(Z) + stats.bernoulli(p).logpmf(x.numpy()).sum()
    assert log_joint(model, Z, x) == pytest.approx(expected, abs=1e-10)


def test_bernoulli_takes_grey_levels_as_averages_and_refuses_all_else():
    model = VAE(5, 2, (4,)).double()
    with torch.no_grad():
        p = model.decode(Z).numpy()
    x = GREY.numpy()
    expected = log_prior(Z) + (x * np.log(p) + (1 - x) * np.log1p(-p)).sum()
    assert log_joint(model, Z, GREY) == pytest.approx(expected, abs=1e-10)
    with pytest.raises(DataError, match="support"):
        log_joint(model, Z, GREY + 1)


@pytest.mark.parametrize("scale", [0.3, None])
def test_gaussian_log_joint_with_fixed_and_learned_scale(scale):
    model = VAE(5, 2, (4, 3), likelihood="gaussian", scale=scale).double()
    if scale is None:
        with torch.no_grad():
            model.likelihood.log_scale.fill_(-0.7)
    with torch.no_grad():
        mean = model.decode(Z).numpy()
    sd = np.exp(-0.7) if scale is None else scale
    expected = log_prior(Z) + stats.norm(mean, sd).logpdf(GREY.numpy()).sum()
    assert log_joint(model, Z, GREY) == pytest.approx(expected, abs=1e-10)
    assert ("likelihood.log_scale" in dict(model.named_parameters())) == (scale is None)


MODELS = [
    pytest.param(lambda: LinearVAE(5, 2), id="linear"),
    pytest.param(lambda: VAE(5, 2, (4,)), id="bernoulli"),
    pytest.param(lambda: VAE(5, 2, (4,), likelihood="gaussian"), id="gaussian"),
]


@pytest.mark.parametrize("make", MODELS)
def test_it_simulates_the_rows_that_are_asked_for(make):
    model = make()
    assert model().shape == (1, 5)
    trace = poutine.trace(model).get_trace(size=9)
    assert trace.nodes["x"]["value"].shape == (9, 5)
    assert trace.nodes["z"]["value"].shape == (9, 2)
    assert [frame.name for frame in trace.nodes["z"]["cond_indep_stack"]] == ["row"]
    with pytest.raises(ModelError, match="size=0"):
        model(size=0)


@pytest.mark.parametrize("make", MODELS)
def test_decode_takes_any_leading_dimensions(make):
    model = make().double()
    z = torch.randn(3, 4, 2, dtype=torch.float64)
    found = model.decode(z)
    assert found.shape == (3, 4, 5)
    torch.testing.assert_close(found[1, 2], model.decode(z[1, 2]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", MODELS)
def test_every_parameter_gets_a_finite_gradient(make):
    model = make().double()
    poutine.trace(poutine.condition(model, {"z": Z})).get_trace(GREY).log_prob_sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_maximum_likelihood_is_scikit_learns_up_to_its_divisor():
    x = (torch.randn(200, 3) @ torch.randn(3, 6) + 0.3 * torch.randn(200, 6)).double()
    pca = PCA(3).fit(x.numpy())
    model = LinearVAE.maximum_likelihood(x, 3)
    shrink = 199 / 200  # scikit-learn divides by n - 1
    expected = shrink * pca.get_covariance()
    with torch.no_grad():
        covariance = (
            model.weight @ model.weight.T + torch.eye(6).double() * model.log_scale.exp() ** 2
        )
        np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(model.bias, pca.mean_, rtol=1e-12)


def test_maximum_likelihood_is_a_stationary_point_of_the_evidence():
    x = (torch.randn(100, 2) @ torch.randn(2, 5) + 0.5 * torch.randn(100, 5)).double()
    model = LinearVAE.maximum_likelihood(x, 2)
    LinearGaussianPosterior(model).log_evidence(x).mean().backward()
    for parameter in model.parameters():
        torch.testing.assert_close(
            parameter.grad, torch.zeros_like(parameter), atol=1e-10, rtol=0.0
        )


def test_maximum_likelihood_refuses_data_without_noise():
    flat = torch.randn(30, 2) @ torch.randn(2, 6)
    with pytest.raises(DataError, match="fewer latents"):
        LinearVAE.maximum_likelihood(flat.double(), 2)
    with pytest.raises(DataError, match="more than 2 rows"):
        LinearVAE.maximum_likelihood(torch.randn(2, 6), 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearVAE(0, 2),
        lambda: VAE(5, 0),
        lambda: VAE(5, 2, likelihood="poisson"),
        lambda: VAE(5, 2, scale=0.1),
        lambda: VAE(5, 2, likelihood="gaussian", scale=-1.0),
        lambda: VAE(5, 2, likelihood=Gaussian(columns=4)),
        lambda: VAE(5, 2, likelihood=torch.nn.Linear(2, 5)),
        lambda: VAE(5, 2, prior_scale=0.0),
        lambda: VAE(5, 2, decoder=mlp((3, 5))),
        lambda: VAE(5, 2, decoder=mlp((2, 4))),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(SettingError):
        make()


@pytest.mark.parametrize("prior_scale", [0.5, None])
def test_the_prior_is_a_normal_of_its_scale_or_flat(prior_scale):
    model = VAE(5, 2, (4,), "gaussian", 0.3, prior_scale=prior_scale).double()
    with torch.no_grad():
        likelihood = stats.norm(model.decode(Z).numpy(), 0.3).logpdf(GREY.numpy()).sum()
    prior = 0.0 if prior_scale is None else stats.norm(0, prior_scale).logpdf(Z.numpy()).sum()
    assert log_joint(model, Z, GREY) == pytest.approx(prior + likelihood, abs=1e-10)
    # 4,000 draws of 2 numbers: at 6 standard errors the false alarm rate is below 1e-8
    spread = poutine.trace(model).get_trace(size=4000).nodes["z"]["value"].square().mean().sqrt()
    sigma = prior_scale or 1.0
    assert abs(spread.item() - sigma) < 6 * sigma / np.sqrt(2 * 8000)


def test_a_network_in_place_of_the_perceptron_and_a_likelihood_as_a_module():
    decoder = mlp((2, 3, 10), torch.nn.ReLU)
    model = VAE(5, 2, likelihood=GaussianPerDatum(0.1), decoder=decoder).double()
    assert model.decoder is decoder
    with torch.no_grad():
        mean, raw = decoder(Z).chunk(2, -1)
        scale = 0.1 + torch.nn.functional.softplus(raw)
        expected = log_prior(Z) + stats.norm(mean, scale).logpdf(GREY.numpy()).sum()
        assert torch.equal(model.decode(Z), mean)
    assert log_joint(model, Z, GREY) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("make", MODELS)
def test_log_joint_is_prior_plus_observation(make):
    model = make().double()
    with torch.no_grad():
        expected = (model.prior().log_prob(Z) + model.observation(Z).log_prob(GREY)).sum()
    assert log_joint(model, Z, GREY) == pytest.approx(expected.item(), abs=1e-10)


def test_images_are_rows():
    model = VAE(12, 2, (4,)).double()
    images = torch.rand(7, 3, 2, 2, dtype=torch.float64)
    assert log_joint(model, Z, images) == log_joint(model, Z, images.flatten(1))
