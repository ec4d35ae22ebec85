"""Two stochastic layers against their equations, and the evidence of the linear case."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import softplus

from guidebook.errors import DataError, ModelError, SettingError
from guidebook.models.decoders.hierarchical_latent import SCALE_FLOOR, HierarchicalVAE
from guidebook.models.decoders.likelihoods import GaussianPerDatum
from guidebook.models.decoders.networks import ConvDecoder, mlp

ROWS = 12


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def model_of(likelihood="bernoulli", scale=None):
    return HierarchicalVAE(5, (3, 2), (4,), likelihood, scale).double()


def values(*leading):
    draw = torch.randn(*leading, ROWS, 5, dtype=torch.float64)
    return {"z_1": draw[..., :3], "z_2": draw[..., 3:]}


def log_joint(model, latents, **data):
    return poutine.trace(poutine.condition(model, latents)).get_trace(**data).log_prob_sum()


X = torch.rand(ROWS, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_log_joint_is_the_equation_in_the_docstring():
    model, z = model_of("gaussian", 0.3), values()
    output = model.middle(z["z_2"])
    layer = stats.norm(output[:, :3], SCALE_FLOOR + softplus(output[:, 3:]).numpy())
    expected = (
        stats.norm.logpdf(z["z_2"]).sum()
        + layer.logpdf(z["z_1"]).sum()
        + stats.norm(model.decode(z["z_1"]), 0.3).logpdf(X).sum()
    )
    assert log_joint(model, z, x=X).item() == pytest.approx(expected, abs=1e-10)
    found = model.layer(z["z_2"]).log_prob(z["z_1"]).sum().item()
    assert found == pytest.approx(layer.logpdf(z["z_1"]).sum(), abs=1e-10)


@pytest.mark.parametrize("batch", [1, 3, 4])
@torch.no_grad()
def test_average_over_a_partition_of_mini_batches_is_the_full_log_joint(batch):
    model, z = model_of(), values()
    whole = log_joint(model, z, x=X)
    parts = [
        log_joint(model, {k: v[rows] for k, v in z.items()}, x=X[rows], size=ROWS)
        for rows in torch.arange(ROWS).split(batch)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_vmap_recording_and_particles_equal_one_at_a_time():
    model, z = model_of(GaussianPerDatum()), values(4)
    expected = torch.stack(
        [log_joint(model, {k: v[i] for k, v in z.items()}, x=X) for i in range(4)]
    )
    one = {k: v[1] for k, v in z.items()}
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda latents: log_joint(model, latents, x=X))(z)
        graph = make_fx(lambda latents: log_joint(model, latents, x=X))(one)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(graph({k: v[3] for k, v in z.items()}), expected[3])

    def particles():
        with pyro.plate("particle", 4, dim=-2):
            model(x=X)

    trace = poutine.trace(poutine.condition(particles, z)).get_trace()
    trace.compute_log_prob()
    terms = [trace.nodes[name]["log_prob"].sum(-1) for name in ("z_1", "z_2", "x")]
    torch.testing.assert_close(sum(terms), expected)


def test_every_parameter_gets_a_finite_gradient():
    model = model_of("gaussian")
    log_joint(model, values(), x=X).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_it_simulates_the_rows_that_are_asked_for():
    model = model_of()
    assert model().shape == (1, 5)
    trace = poutine.trace(model).get_trace(size=9)
    shapes = [trace.nodes[name]["value"].shape for name in ("z_2", "z_1", "x")]
    assert shapes == [(9, 2), (9, 3), (9, 5)]
    with pytest.raises(ModelError, match="size=0"):
        model(size=0)


@torch.no_grad()
def test_simulated_rows_have_the_moments_of_the_linear_case():
    # Cov x = W (A A' + diag s^2) W' + sigma^2 I; 20,000 rows, 6 standard errors of each entry.
    model = HierarchicalVAE(4, (2, 1), (), "gaussian", 0.5).double()
    model.middle[0].weight[2:] = 0  # the layer's scale does not depend on z_2
    model.middle[0].weight[:2] = 1.5
    scale = SCALE_FLOOR + softplus(model.middle[0].bias[2:])
    A, W = model.middle[0].weight[:2], model.decoder[0].weight
    expected = W @ (A @ A.T + scale.square().diag()) @ W.T + 0.25 * torch.eye(4).double()
    found = torch.cov(model(size=20_000).T)
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected.square()) / 20_000).sqrt()
    assert ((found - expected).abs() < 6 * error).all()


def test_images_and_other_decoders():
    decoder = ConvDecoder(3, (1, 8, 8), (4,))
    model = HierarchicalVAE(64, (3, 2), (4,), decoder=decoder)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 64)
    with pytest.raises(DataError, match="channels"):
        model(torch.rand(2, 3, 8, 8))
    with pytest.raises(DataError, match="integers"):
        model(torch.ones(2, 64, dtype=torch.uint8))
    assert np.isfinite(model(torch.full((1, 64), 0.5)).numpy()).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: HierarchicalVAE(0, (3, 2)),
        lambda: HierarchicalVAE(5, (3, 0)),
        lambda: HierarchicalVAE(5, (3,)),
        lambda: HierarchicalVAE(5, (3, 2), likelihood="poisson"),
        lambda: HierarchicalVAE(5, (3, 2), scale=0.3),
        lambda: HierarchicalVAE(5, (3, 2), decoder=mlp((2, 5))),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(SettingError):
        make()
