"""Corruptions by their moments, and a denoising autoencoder against the plain one."""

import copy
import math

import numpy as np
import pyro
import pytest
import torch
from torch import nn

import guidebook as gb
from guidebook.errors import DataError, SettingError
from guidebook.guides.amortized.corruption import (
    CorruptedEncoder,
    gaussian,
    masking,
    salt_and_pepper,
)
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

N = 40_000
SE = 6  # standard errors allowed: a false alarm in 1e9 for each of the dozen comparisons below


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def share(hits, probability):
    """Whether the share of hits is the probability within the stated false alarm rate."""
    error = math.sqrt(probability * (1 - probability) / hits.numel())
    return abs(hits.double().mean().item() - probability) <= SE * error


def test_gaussian_has_its_moments_and_leaves_x_alone():
    x = torch.full((N,), 0.3, dtype=torch.float64)
    noise = gaussian(0.5)(x) - x
    assert abs(noise.mean().item()) < SE * 0.5 / math.sqrt(N)
    assert abs(noise.square().mean().item() - 0.25) < SE * 0.25 * math.sqrt(2 / N)
    assert torch.equal(x, torch.full_like(x, 0.3))
    assert torch.equal(gaussian(0.0)(x), x)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_masking_zeroes_its_share_independently(probability):
    x = torch.rand(2, N // 2, dtype=torch.float64) + 0.1
    found = masking(probability)(x)
    hit = found == 0
    assert share(hit, probability)
    assert torch.equal(found[~hit], x[~hit])
    assert share(hit[0] & hit[1], probability**2)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_salt_and_pepper_are_equally_frequent(probability):
    x = 0.1 + 0.8 * torch.rand(N, dtype=torch.float64)
    found = salt_and_pepper(probability)(x)
    salt, pepper = found == 1, found == 0
    assert share(salt, probability / 2) and share(pepper, probability / 2)
    clean = ~(salt | pepper)
    assert torch.equal(found[clean], x[clean])
    other = salt_and_pepper(1.0, low=-2.0, high=3.0)(x)
    assert set(other.unique().tolist()) == {-2.0, 3.0}


def test_the_encoder_reads_corrupted_rows_in_training_only():
    encoder = CorruptedEncoder(nn.Identity(), gaussian(1.0))
    x = torch.rand(5, 4)
    assert not torch.equal(encoder(x), x)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), x)
    assert torch.equal(copy.deepcopy(encoder)(x), x)


def test_captured_steps_equal_pyros_own_and_restarts_are_vectorised():
    x = gb.datasets.digits("test")["x"].double()
    model = VAE(64, 3, (8,), "gaussian", 0.3, prior_scale=None).double()
    for corrupt in (gaussian(0.3), masking(0.3), salt_and_pepper(0.3)):
        guide = AmortizedDelta(CorruptedEncoder(mlp((64, 3)), corrupt), 3).double()
        settings = {"steps": 10, "batch_size": 32, "progress": False}
        captured = gb.svi(model, guide, {"x": x}, compile="graph", **settings)
        eager = gb.svi(model, guide, {"x": x}, compile=False, **settings)
        np.testing.assert_allclose(captured.history, eager.history, rtol=1e-9)
        assert captured.notes["path"] == "captured"
    fit = gb.svi(model, guide, {"x": x}, compile="graph", restarts=2, **settings)
    assert np.isfinite(fit.history).all()


def test_denoising_reconstructs_corrupted_digits_better_than_the_plain_autoencoder():
    # Measured mean squared errors of held-out digits from their corrupted copies, plain against
    # denoising: Gaussian 0.108, 0.029; masking 0.078, 0.029; salt and pepper 0.103, 0.035. At least
    # 10 % is asked for; first weights, data and steps are the same.
    train, test = gb.datasets.digits("train"), gb.datasets.digits("test")["x"]
    corruptions = {
        "gaussian": gaussian(0.4), "masking": masking(0.4), "salt": salt_and_pepper(0.3),
    }  # fmt: skip

    def fitted(corrupt):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = VAE(64, 16, (64,), "gaussian", 0.2, prior_scale=None)
            encoder = mlp((64, 64, 16))
        encoder = encoder if corrupt is None else CorruptedEncoder(encoder, corrupt)
        guide = AmortizedDelta(encoder, 16)
        fit = gb.svi(
            model, guide, train, steps=400, batch_size=128, compile="graph", progress=False,
            optim=pyro.optim.Adam({"lr": 3e-3}),
        )  # fmt: skip
        return fit.model, fit.guide.eval()

    def error(pair, x):
        model, guide = pair
        with torch.no_grad():
            return (model.decode(guide.posterior(x).mean) - test).square().mean().item()

    plain = fitted(None)
    for name, corrupt in corruptions.items():
        corrupted = corrupt(test)
        trained = fitted(corrupt)
        assert error(trained, corrupted) < 0.9 * error(plain, corrupted), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian(-0.1),
        lambda: gaussian(math.nan),
        lambda: masking(1.2),
        lambda: masking(-0.1),
        lambda: salt_and_pepper(2.0),
        lambda: salt_and_pepper(0.1, low=1.0, high=0.0),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(SettingError):
        make()


def test_integer_images_are_refused():
    encoder = CorruptedEncoder(nn.Identity(), masking(0.1))
    with pytest.raises(DataError, match="integers"):
        encoder(torch.ones(2, 3, dtype=torch.uint8))
