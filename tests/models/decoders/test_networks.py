"""Networks against torch's own layers: shapes, leading dimensions, translation, wrong images."""

import numpy as np
import pyro
import pytest
import torch
from torch import nn

import guidebook as gb
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.likelihoods import GaussianPerDatum, LowRankGaussian
from guidebook.models.decoders.networks import ConvDecoder, ConvEncoder, mlp

SHAPES = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (2, 1, 5), (1, 28, 28)])


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def test_mlp_is_affine_without_hidden_layers_and_activates_between_layers():
    assert len(mlp((4, 3))) == 1
    network = mlp((4, 5, 6, 3), torch.nn.ReLU)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


@SHAPES
@torch.no_grad()
def test_encoder_takes_flat_and_shaped_images_with_any_leading_dimensions(shape):
    network = ConvEncoder(shape, 6, (4, 5)).double()
    x = torch.rand(2, 3, *shape, dtype=torch.float64)
    found = network(x)
    assert found.shape == (2, 3, 6)
    torch.testing.assert_close(network(x.flatten(-3)), found)
    torch.testing.assert_close(network(x[1, 2]), found[1, 2])
    torch.testing.assert_close(network(x[1]), found[1])


@SHAPES
@torch.no_grad()
def test_decoder_gives_flat_images_for_any_leading_dimensions(shape):
    network = ConvDecoder(3, shape, (4, 5), blocks=2).double()
    z = torch.randn(2, 4, 3, dtype=torch.float64)
    found = network(z)
    assert found.shape == (2, 4, 2 * shape[0] * shape[1] * shape[2])
    torch.testing.assert_close(network(z[1, 2]), found[1, 2])


@torch.no_grad()
def test_encoder_is_torchs_convolutions():
    network = ConvEncoder((1, 8, 8), 6, (4, 5)).double()
    x = torch.rand(3, 64, dtype=torch.float64)
    first, _, second, _ = network.convolutions
    maps = x.reshape(3, 1, 8, 8)
    for layer in (first, second):
        maps = nn.functional.conv2d(maps, layer.weight, layer.bias, stride=2, padding=1).relu()
    assert maps.shape == (3, 5, 2, 2)
    expected = maps.flatten(1) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), expected)


@torch.no_grad()
def test_convolutions_move_with_the_image():
    # A shift by the total stride 4, away from the border, shifts the maps by one place.
    network = ConvEncoder((1, 32, 32), 6, (4, 5)).double()
    x = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    x[..., 10:16, 10:16] = torch.rand(6, 6, dtype=torch.float64)
    here = network.convolutions(x)
    there = network.convolutions(x.roll((4, 4), (-2, -1)))
    torch.testing.assert_close(there[..., 2:7, 2:7], here[..., 1:6, 1:6])
    assert (here[..., 1:6, 1:6] - here[..., :1, :1]).abs().max() > 1e-3  # the image is there


@torch.no_grad()
def test_blocks_of_the_decoder_are_those_of_the_likelihood():
    likelihood, shape = LowRankGaussian(3), (2, 6, 5)
    network = ConvDecoder(4, shape, (8,), blocks=5)
    q = likelihood.distribution(network(torch.randn(7, 4)))
    assert q.event_shape == (60,) and q.batch_shape == (7,)
    with pytest.raises(SettingError, match="flat"):
        VAE(60, 4, likelihood=LowRankGaussian(2), decoder=network)


@pytest.mark.parametrize("shaped", [True, False])
def test_convolutional_pair_trains_in_captured_steps_as_in_eager_ones(shaped):
    shape = (1, 8, 8)
    x = gb.datasets.digits("train")["x"][:64].double()
    data = {"x": x.reshape(-1, *shape) if shaped else x}
    decoder = ConvDecoder(3, shape, (4, 6), blocks=2)
    model = VAE(64, 3, likelihood=GaussianPerDatum(0.1), decoder=decoder).double()
    encoder = ConvEncoder(shape, encoder_width(3), (4, 6))
    guide = AmortizedNormal(encoder, 3).double()
    settings = {"steps": 20, "batch_size": 16, "progress": False}
    captured = gb.svi(model, guide, data, compile="graph", **settings)
    eager = gb.svi(model, guide, data, compile=False, **settings)
    assert captured.notes["path"] == "captured"
    np.testing.assert_allclose(captured.history, eager.history, rtol=1e-9)
    assert captured.history[-1] < captured.history[0]


def test_wrong_channels_and_sizes_say_what_is_read():
    network = ConvEncoder((3, 8, 8), 4)
    for shape in ((5, 1, 8, 8), (5, 8, 8, 3), (5, 64)):
        with pytest.raises(DataError, match="3, 8, 8"):
            network(torch.rand(*shape))
    model = VAE(192, 2, decoder=ConvDecoder(2, (3, 8, 8)))
    guide = AmortizedNormal(network, 2)
    for shape in ((5, 1, 8, 8), (5, 64)):
        with pytest.raises(DataError, match="channels"):
            gb.svi(model, guide, {"x": torch.rand(*shape)}, steps=2, progress=False)
        with pytest.raises(DataError, match="channels"):
            model(torch.rand(*shape))
    dense = AmortizedNormal(mlp((8, 4)), 2)
    with pytest.raises(GuideError, match="last layer 4 outputs"):
        dense(torch.rand(5, 3, 8, 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp((4,)),
        lambda: mlp((4, 0, 2)),
        lambda: ConvEncoder((1, 8, 0), 4),
        lambda: ConvEncoder((8, 8), 4),
        lambda: ConvEncoder((1, 8, 8), 0),
        lambda: ConvEncoder((1, 8, 8), 4, ()),
        lambda: ConvEncoder((1, 8, 8), 4, (8, 0)),
        lambda: ConvDecoder(0, (1, 8, 8)),
        lambda: ConvDecoder(2, (1, 8, 8), blocks=0),
        lambda: VAE(64, 3, decoder=ConvDecoder(2, (1, 8, 8))),
        lambda: VAE(63, 2, decoder=ConvDecoder(2, (1, 8, 8))),
        lambda: VAE(64, 2, decoder=nn.Identity()),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(SettingError):
        make()
