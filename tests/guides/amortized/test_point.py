"""Deterministic codes: squared error, principal subspace, compression, retrieval."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import guidebook as gb
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.amortized.point import AmortizedDelta, encode, nearest
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

LATENTS = 10


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


@pytest.fixture(scope="module")
def linear():
    """The linear autoencoder of the digits, trained as the pair on the shelf is."""
    pyro.set_rng_seed(0)
    model = VAE(64, LATENTS, (), "gaussian", 1.0, prior_scale=None)
    guide = AmortizedDelta(mlp((64, LATENTS)), LATENTS)
    return gb.svi(
        model, guide, gb.datasets.digits("train"), steps=6000, compile="graph", progress=False,
        # eps in units of the gradient, a sum over 1,437 rows: near the optimum Adam becomes plain
        # gradient descent, and rounding is not scaled up to whole steps.
        optim=pyro.optim.Adam({"lr": 0.01, "eps": 6.0}),
    )  # fmt: skip


@pytest.mark.parametrize("size", [None, 60])
def test_elbo_is_minus_squared_error_up_to_the_constant_of_the_docstring(size):
    n, P, s = 6, 5, 0.3
    model = VAE(P, 2, (4,), "gaussian", s, prior_scale=None).double()
    guide = AmortizedDelta(mlp((P, 4, 2)), 2).double()
    x = torch.randn(n, P, dtype=torch.float64)
    with torch.no_grad():
        error = (x - model.decode(guide.encoder(x))).square().sum().item()
    expected = -error / (2 * s**2) - n * P / 2 * math.log(2 * math.pi * s**2)
    found = -Trace_ELBO().loss(model, guide, x, size=size)
    assert found == pytest.approx(expected * (1 if size is None else 10), rel=1e-12)


def test_linear_autoencoder_spans_the_principal_subspace(linear):
    x = gb.datasets.digits("train")["x"].numpy()
    pca = PCA(LATENTS).fit(x)
    weight = linear.model.decoder[0].weight.detach().numpy()
    assert subspace_angles(weight, pca.components_.T).max() < 1e-3
    assert linear.status.good


def test_compression_is_as_good_as_principal_components(linear):
    train, test = gb.datasets.digits("train")["x"], gb.datasets.digits("test")["x"]
    pca = PCA(LATENTS).fit(train.numpy())
    with torch.no_grad():
        codes = encode(linear.guide, test)
        found = (linear.model.decode(codes) - test).square().mean().item()
    assert codes.shape == (360, LATENTS)
    best = np.square(pca.inverse_transform(pca.transform(test.numpy())) - test.numpy()).mean()
    assert found == pytest.approx(best, rel=1e-3)


def test_retrieval_by_code_finds_digits_of_the_same_class(linear):
    # Measured: 0.91 of the five nearest by 10 numbers are of the query's class, 0.94 by all 64
    # pixels; by chance 0.1. No randomness but the fit's seed.
    train, test = gb.datasets.digits("train")["x"], gb.datasets.digits("test")["x"]
    labels, wanted = gb.datasets.digits_labels("train"), gb.datasets.digits_labels("test")
    _, by_code = nearest(encode(linear.guide, train), encode(linear.guide, test), 5)
    _, by_pixel = nearest(train, test, 5)
    precision = (labels[by_code] == wanted[:, None]).double().mean().item()
    raw = (labels[by_pixel] == wanted[:, None]).double().mean().item()
    assert precision > 0.85
    assert precision > raw - 0.05


def test_nearest_is_scikit_learns_in_blocks_of_any_size(monkeypatch):
    codes, queries = torch.randn(50, 3).double(), torch.randn(20, 3).double()
    distance, index = NearestNeighbors(n_neighbors=4).fit(codes).kneighbors(queries)
    for at_once in (1, 170, 10**6):
        monkeypatch.setattr("guidebook.guides.amortized.point.NUMBERS_AT_ONCE", at_once)
        found, where = nearest(codes, queries, 4)
        np.testing.assert_array_equal(where, index)
        np.testing.assert_allclose(found, distance, rtol=1e-6)
    assert nearest(codes, codes)[1][:, 0].tolist() == list(range(50))


def test_captured_steps_equal_pyros_own():
    model = VAE(64, 3, (8,), "gaussian", 0.3, prior_scale=None).double()
    guide = AmortizedDelta(mlp((64, 8, 3)), 3).double()
    data = gb.datasets.digits("test")
    settings = {"steps": 20, "batch_size": 32, "progress": False}
    captured = gb.svi(model, guide, data, compile="graph", **settings)
    eager = gb.svi(model, guide, data, compile=False, **settings)
    np.testing.assert_allclose(captured.history, eager.history, rtol=1e-9)
    assert captured.notes["path"] == "captured"


def test_every_parameter_gets_a_finite_gradient():
    guide = AmortizedDelta(mlp((5, 4, 2)), 2).double()
    model = VAE(5, 2, (4,), "gaussian").double()
    x = torch.randn(6, 5, dtype=torch.float64)
    Trace_ELBO().differentiable_loss(model, guide, x).backward()
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_what_does_not_fit_is_refused():
    codes = torch.randn(5, 2)
    with pytest.raises(SettingError, match="among 5"):
        nearest(codes, codes, 6)
    with pytest.raises(DataError, match="same number of columns"):
        nearest(codes, torch.randn(5, 3))
    with pytest.raises(GuideError, match="at least 1"):
        AmortizedDelta(mlp((5, 2)), 0)
    with pytest.raises(GuideError, match="last layer 3 outputs"):
        AmortizedDelta(mlp((5, 2)), 3)(torch.randn(4, 5))
    with pytest.raises(DataError, match="integers"):
        AmortizedDelta(mlp((5, 2)), 2)(torch.ones(4, 5, dtype=torch.long))
