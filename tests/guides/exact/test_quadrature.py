"""Quadrature against closed forms, SciPy's integrator, a finer grid and its own samples."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats

import guidebook as gb
from guidebook.errors import GuideError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.guides.exact.quadrature import QuadraturePosterior
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.decoders.networks import mlp

BOTH = pytest.mark.parametrize("d", [1, 2])


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def irises(n=20):
    return gb.datasets.iris()["x"].double()[:: 150 // n].contiguous()


def nonlinear(d, scale=0.4, prior_scale=1.0):
    model = VAE(4, d, (8,), "gaussian", scale, prior_scale=prior_scale).double()
    with torch.no_grad():
        model.decoder[0].weight.mul_(3)  # well away from linear
        model.decoder[2].weight.mul_(3)
    return model


@BOTH
def test_linear_decoder_has_the_closed_forms(d):
    x = irises()
    model = LinearVAE.maximum_likelihood(x, d)
    exact, grid = LinearGaussianPosterior(model), QuadraturePosterior(model)
    with torch.no_grad():
        torch.testing.assert_close(grid.log_evidence(x), exact.log_evidence(x), rtol=1e-12, atol=0)
        expected, found = exact.posterior(x), grid.posterior(x)
        torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.variance, expected.variance, rtol=1e-9, atol=0)
        z = torch.randn(3, len(x), d, dtype=torch.float64)
        torch.testing.assert_close(found.log_prob(z), expected.log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prior_scale", [0.5, 1.0])
def test_evidence_in_one_dimension_is_scipys(prior_scale):
    model = nonlinear(1, prior_scale=prior_scale)
    x = irises(4)
    found = QuadraturePosterior(model).log_evidence(x).detach().numpy()

    def density(z):
        with torch.no_grad():
            mean = model.decode(torch.tensor([z], dtype=torch.float64)).numpy()
        likelihood = stats.norm.pdf(x.numpy(), mean, 0.4).prod(-1)
        return stats.norm.pdf(z, 0, prior_scale) * likelihood * scale

    scale = np.exp(-found)  # every row's integral near 1: one tolerance for all
    integral, error = integrate.quad_vec(
        density, -8 * prior_scale, 8 * prior_scale, epsabs=1e-8, epsrel=0, limit=400
    )
    assert error < 1e-7
    np.testing.assert_allclose(integral, 1.0, rtol=0, atol=1e-7)


@BOTH
@torch.no_grad()
def test_doubling_the_grid_changes_nothing_and_the_error_says_so(d):
    model, x = nonlinear(d), irises()
    coarse = QuadraturePosterior(model)
    fine = QuadraturePosterior(model, points=2 * coarse.points)
    difference = (coarse.log_evidence(x) - fine.log_evidence(x)).abs()
    assert difference.max() < {1: 1e-10, 2: 1e-6}[d]
    assert (difference <= coarse.log_evidence_error(x) + 1e-12).all()
    assert coarse.log_evidence_error(x).max() < 1e-2


@torch.no_grad()
def test_a_grid_too_coarse_is_told_by_its_error():
    model, x = nonlinear(1, scale=0.01), irises()
    narrow = QuadraturePosterior(model, points=40)
    truth = QuadraturePosterior(model, points=20_000).log_evidence(x)
    off = (narrow.log_evidence(x) - truth).abs()
    assert off.max() > 1
    assert narrow.log_evidence_error(x).max() > 1


@BOTH
def test_it_is_exact_for_gb_exact_and_its_evidence_is_the_sum(d):
    model, x = nonlinear(d), irises()
    guide = QuadraturePosterior(model)
    fit = gb.exact(model, guide, {"x": x})
    expected = guide.log_evidence(x).sum().item()
    assert fit.notes["log_evidence"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_samples_follow_the_posterior_in_one_dimension(likelihood):
    # Kolmogorov-Smirnov against the cells' cumulative masses on a grid ten times finer: 3 rows, a
    # false alarm in 3e5.
    scale = 0.4 if likelihood == "gaussian" else None
    model = VAE(4, 1, (8,), likelihood, scale).double()
    x = torch.rand(3, 4, dtype=torch.float64).round()
    with torch.no_grad():
        fine = QuadraturePosterior(model, points=20_000).posterior(x)
        cdf = fine.weights.cumsum(1).numpy()
        edges = (fine.nodes[:, 0] + fine.h / 2).numpy()
        z = QuadraturePosterior(model, points=40).posterior(x).sample((5000,)).squeeze(-1).numpy()
    for row in range(3):
        levels = np.interp(z[:, row], edges, cdf[row])
        assert stats.kstest(levels, "uniform").pvalue > 1e-6


@torch.no_grad()
def test_samples_have_the_posteriors_moments_in_two_dimensions():
    # 20,000 draws of 20 rows and 2 coordinates: 6 standard errors, false alarms below 1e-7.
    q = QuadraturePosterior(nonlinear(2)).posterior(irises())
    z = q.sample((20_000,))
    sd = q.variance.sqrt()
    assert ((z.mean(0) - q.mean) / sd).abs().max() < 6 / math.sqrt(20_000)
    kurtosis = ((z - q.mean) / sd).pow(4).mean(0)
    error = ((kurtosis - 1) / 20_000).sqrt()
    assert (((z - q.mean) / sd).square().mean(0) - 1).abs().lt(6 * error).all()


def test_the_gap_of_a_trained_encoder_is_not_negative():
    # ELBO <= log evidence, row by row in the mean: an encoder's gap is known to rounding here.
    data = {"x": irises(50)}
    model = nonlinear(1)
    guide = AmortizedNormal(mlp((4, 8, encoder_width(1))), 1).double()
    fit = gb.svi(model, guide, data, steps=1500, compile="graph", progress=False)
    evidence = QuadraturePosterior(fit.model).log_evidence(data["x"]).sum().item()
    with torch.no_grad():
        q = fit.guide.posterior(data["x"])
        z = q.sample((4000,))
        p = QuadraturePosterior(fit.model).posterior(data["x"])
        log_w = p.log_prob(z) - q.log_prob(z)  # log p(x, z) - log q - log p(x)
    gap = -log_w.mean(0)
    error = log_w.std(0) / math.sqrt(4000)
    assert (gap > -6 * error - 1e-9).all()
    assert gap.sum() < 0.5 * abs(evidence)


def test_the_evidence_can_be_differentiated_and_follows_the_model():
    model, x = nonlinear(1), irises(5)
    guide = QuadraturePosterior(model)
    before = guide.log_evidence(x).sum()
    before.backward()
    name, parameter = next(iter(model.named_parameters()))
    step = 1e-6
    direction = parameter.grad / parameter.grad.norm()
    with torch.no_grad():
        parameter.add_(step * direction)
        slope = (guide.log_evidence(x).sum() - before) / step
    assert slope.item() == pytest.approx(parameter.grad.norm().item(), rel=1e-3), name
    _, twin = copy.deepcopy((model, guide))
    assert twin.log_evidence(x).sum().item() == pytest.approx(guide.log_evidence(x).sum().item())
    assert not list(guide.parameters())


def test_batches_of_one_images_and_mini_batches():
    model = VAE(4, 1, (6,), "bernoulli").double()
    guide = QuadraturePosterior(model)
    images = torch.rand(3, 1, 2, 2, dtype=torch.float64).round()
    flat = guide.log_evidence(images.flatten(1))
    torch.testing.assert_close(guide.log_evidence(images), flat)
    torch.testing.assert_close(guide.log_evidence(images[:1]), flat[:1])
    trace = pyro.poutine.trace(guide).get_trace(images, size=30)
    expected = 10 * guide.posterior(images).log_prob(trace.nodes["z"]["value"]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_models_that_a_grid_does_not_serve_are_refused():
    with pytest.raises(GuideError, match="3 latent dimensions"):
        QuadraturePosterior(VAE(4, 3))
    with pytest.raises(GuideError, match="flat prior"):
        QuadraturePosterior(VAE(4, 1, prior_scale=None))
    with pytest.raises(GuideError, match="no observation"):
        QuadraturePosterior(FactorAnalysis(4, 1))
    with pytest.raises(SettingError, match="points=11"):
        QuadraturePosterior(VAE(4, 1), points=11)
    with pytest.raises(GuideError, match="pass x=tensor"):
        QuadraturePosterior(VAE(4, 1))()
