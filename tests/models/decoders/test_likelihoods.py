"""Likelihoods against SciPy and torch's distributions, and what they refuse."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats
from torch.nn.functional import softplus

import guidebook as gb
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.likelihoods import (
    Bernoulli,
    Gaussian,
    GaussianPerDatum,
    LowRankGaussian,
    as_rows,
)
from guidebook.models.decoders.networks import mlp

P, LATENTS = 5, 2
KINDS = {
    "bernoulli": Bernoulli,
    "fixed": lambda: Gaussian(0.4),
    "learned": Gaussian,
    "per-column": lambda: Gaussian(columns=P),
    "per-datum": lambda: GaussianPerDatum(0.1),
    "low-rank": lambda: LowRankGaussian(2, 0.1),
}
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def outputs(likelihood, *leading):
    return torch.randn(*leading, likelihood.width(P), dtype=torch.float64)


def pair(kind, covariance="diagonal"):
    model = VAE(P, LATENTS, (6,), KINDS[kind]()).double()
    encoder = mlp((P, 6, encoder_width(LATENTS, covariance)))
    return model, AmortizedNormal(encoder, LATENTS, covariance=covariance).double()


def rows_of_data(n=12):
    return torch.rand(n, P, dtype=torch.float64)


@EVERY
def test_shapes_widths_and_the_mean(kind):
    likelihood = KINDS[kind]().double()
    blocks = {"per-datum": 2, "low-rank": 4}.get(kind, 1)
    assert likelihood.width(P) == blocks * P
    h = outputs(likelihood, 3, 4)
    found = likelihood.distribution(h)
    assert found.batch_shape == (3, 4) and found.event_shape == (P,)
    expected = h[..., :P].sigmoid() if kind == "bernoulli" else h[..., :P]
    torch.testing.assert_close(found.mean, expected)
    x = rows_of_data(4)
    torch.testing.assert_close(
        found.log_prob(x)[1, 2], likelihood.distribution(h[1, 2]).log_prob(x[2])
    )


def test_gaussians_are_scipys():
    x = rows_of_data(1)[0].numpy()
    columns = Gaussian(columns=P).double()
    with torch.no_grad():
        columns.log_scale.normal_()
        scales = columns.log_scale.exp().numpy()
    per_datum = GaussianPerDatum(0.1)
    for likelihood, scale in (
        (Gaussian(0.4), lambda h: 0.4),
        (columns, lambda h: scales),
        (per_datum, lambda h: 0.1 + softplus(h[P:]).numpy()),
    ):
        h = outputs(likelihood)
        with torch.no_grad():
            found = likelihood.distribution(h).log_prob(torch.from_numpy(x)).item()
        expected = stats.norm(h[:P].numpy(), scale(h)).logpdf(x).sum()
        assert found == pytest.approx(expected, abs=1e-12)


def test_low_rank_is_scipys_normal_with_the_covariance_of_the_docstring():
    likelihood = LowRankGaussian(rank=2, floor=0.1)
    h = outputs(likelihood)
    x = rows_of_data(1)[0]
    F = h[2 * P :].reshape(2, P).T.numpy() / math.sqrt(2)
    covariance = F @ F.T + np.diag((0.1 + softplus(h[P : 2 * P]).numpy()) ** 2)
    expected = stats.multivariate_normal(h[:P].numpy(), covariance).logpdf(x.numpy())
    assert likelihood.distribution(h).log_prob(x).item() == pytest.approx(expected, abs=1e-10)


def test_samples_of_low_rank_have_its_covariance():
    # 20,000 draws: sd of a sample covariance is below sqrt(2 / S) max var = 0.01 max var; at 6 sd
    # the false alarm rate over the 15 entries is below 1e-7.
    likelihood = LowRankGaussian(rank=2, floor=0.1)
    q = likelihood.distribution(outputs(likelihood))
    found = torch.cov(q.sample((20_000,)).T)
    bound = 6 * math.sqrt(2 / 20_000) * q.variance.max()
    assert (found - q.covariance_matrix).abs().max() < bound


@EVERY
def test_captured_steps_equal_pyros_own(kind):
    model, guide = pair(kind)
    data = {"x": rows_of_data()}
    captured = gb.svi(model, guide, data, steps=20, compile="graph", progress=False)
    eager = gb.svi(model, guide, data, steps=20, compile=False, progress=False)
    assert captured.notes["path"] == "captured"
    np.testing.assert_allclose(captured.history, eager.history, rtol=1e-9)


@EVERY
def test_every_parameter_gets_a_finite_gradient(kind):
    model, guide = pair(kind, "full")
    Trace_ELBO().differentiable_loss(model, guide, x=rows_of_data()).backward()
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_low_rank_can_be_vectorised_over_restarts():
    model, guide = pair("low-rank")
    data = {"x": rows_of_data()}
    fit = gb.svi(model, guide, data, steps=5, compile="graph", restarts=2, progress=False)
    assert np.isfinite(fit.history).all()


def test_fixed_scale_is_the_knob_between_precision_and_use_of_the_prior():
    # The smaller the scale, the better a digit's reconstruction and the more nats its code costs.
    data = gb.datasets.digits("train")
    errors, costs = [], []
    for scale in (0.1, 0.2, 0.5):
        pyro.set_rng_seed(0)
        model = VAE(64, 4, (32,), "gaussian", scale)
        guide = AmortizedNormal(mlp((64, 32, 8)), 4)
        fit = gb.svi(model, guide, data, steps=800, batch_size=128, compile="graph", progress=False,
                     optim=pyro.optim.Adam({"lr": 5e-3}))  # fmt: skip
        with torch.no_grad():
            q = fit.guide.posterior(data["x"])
            kl = torch.distributions.kl_divergence(q.base_dist, torch.distributions.Normal(0, 1))
            costs.append(kl.sum(1).mean().item())
            errors.append((fit.model.decode(q.mean) - data["x"]).square().mean().item())
    assert errors[0] < errors[1] < errors[2]
    assert costs[0] > costs[1] > costs[2]


def test_learned_scale_finds_the_mean_squared_error():
    # x = N(0, 0.3^2) around a decoder that cannot do better: at the optimum s^2 is the mean square.
    x = 0.3 * torch.randn(200, P, dtype=torch.float64)
    likelihood = Gaussian().double()
    optimiser = torch.optim.LBFGS(
        likelihood.parameters(), max_iter=50, line_search_fn="strong_wolfe"
    )

    def loss():
        optimiser.zero_grad()
        value = -likelihood.distribution(torch.zeros_like(x)).log_prob(x).sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert likelihood.log_scale.exp().item() == pytest.approx(x.square().mean().sqrt().item())


@pytest.mark.parametrize("kind", ["per-datum", "low-rank"])
def test_the_floor_bounds_the_density_of_a_datum_that_is_met_exactly(kind):
    floor = 0.1
    likelihood = GaussianPerDatum(floor) if kind == "per-datum" else LowRankGaussian(2, floor)
    x = rows_of_data(3)
    h = torch.full((3, likelihood.width(P)), -1e4, dtype=torch.float64)
    h[:, :P] = x
    h[:, 2 * P :] = 0  # no common factor either
    bound = -P * (math.log(floor) + 0.5 * math.log(2 * math.pi))
    found = likelihood.distribution(h).log_prob(x)
    torch.testing.assert_close(found, torch.full((3,), bound, dtype=torch.float64))
    extreme = likelihood.distribution(torch.full_like(h, 1e4)).log_prob(x)
    assert torch.isfinite(extreme).all()


def test_without_a_floor_it_would_have_no_bound():
    x = rows_of_data(1)
    densities = []
    for scale in (1e-2, 1e-4, 1e-8):
        densities.append(Gaussian(scale).distribution(x).log_prob(x).item())
    steps = np.diff(densities)
    np.testing.assert_allclose(steps, [P * math.log(1e2), P * math.log(1e4)])


def test_images_outside_the_unit_interval_are_refused_before_the_first_step():
    model, guide = pair("bernoulli")
    for bad in (rows_of_data() * 255, rows_of_data() - 0.5):
        with pytest.raises(DataError, match=r"outside the support \[0, 1\].*255"):
            gb.svi(model, guide, {"x": bad}, steps=2, progress=False)


def test_integer_images_are_refused_with_the_remedy():
    model, guide = pair("bernoulli")
    bytes_ = torch.randint(0, 256, (12, P), dtype=torch.uint8)
    with pytest.raises(DataError, match="float"):
        gb.svi(model, guide, {"x": bytes_}, steps=2, progress=False)
    with pytest.raises(DataError, match=r"x\.float\(\) / 255"):
        model(bytes_)


def test_rows_of_any_shape_that_hold_the_numbers():
    images = torch.rand(3, 2, 4, 5)
    assert torch.equal(as_rows(images, 40), images.flatten(1))
    with pytest.raises(DataError, match="channels"):
        as_rows(images, 20)
    with pytest.raises(DataError, match="rows of 5"):
        as_rows(images[0, 0, 0], 5)  # one row by itself: give it as (1, 5)


@EVERY
def test_a_batch_of_one_and_a_constant_image_are_data_like_others(kind):
    model, guide = pair(kind)
    for x in (rows_of_data(1), torch.zeros(4, P).double(), torch.ones(4, P).double()):
        fit = gb.svi(model, guide, {"x": x}, steps=5, compile="graph", progress=False)
        assert np.isfinite(fit.history).all()
    with pytest.raises(GuideError):
        gb.svi(model, AmortizedNormal(mlp((P, 7)), 2).double(), {"x": x}, steps=2, progress=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gaussian(0.0),
        lambda: Gaussian(math.inf),
        lambda: Gaussian(0.1, columns=3),
        lambda: Gaussian(columns=0),
        lambda: Gaussian(columns=3).width(P),
        lambda: GaussianPerDatum(0.0),
        lambda: LowRankGaussian(0),
        lambda: LowRankGaussian(2, -1.0),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(SettingError):
        make()
