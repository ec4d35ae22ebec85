"""Autoencoders: deterministic, denoising, variational, with one layer of latents and with two."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import pyro
from torch import nn

from guidebook.datasets.small import digits, digits_labels, iris, iris_labels
from guidebook.datasets.sprites import sprites
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.corruption import (
    CorruptedEncoder,
    Corruption,
    gaussian,
    masking,
    salt_and_pepper,
)
from guidebook.guides.amortized.flow import AmortizedFlow, flow_width
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.guides.exact.quadrature import QuadraturePosterior
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.likelihoods import GaussianPerDatum, LowRankGaussian
from guidebook.models.decoders.networks import ConvEncoder, mlp
from guidebook.shelf.pair import Guide, Model, Pair, seeded
from guidebook.shelf.training import by_evidence

PIXELS, IMAGE, SPRITE = 64, (1, 8, 8), 256
CODES, DENOISING_CODES, LATENTS, LAYERS = 10, 16, 8, (8, 4)


def _code(
    make: Callable[[int], nn.Module], latent_dim: int, corrupt: Corruption | None, model: Model
) -> Guide:
    encoder = seeded(partial(make, latent_dim))
    return AmortizedDelta(
        encoder if corrupt is None else CorruptedEncoder(encoder, corrupt), latent_dim
    )


def _normal(
    make: Callable[[int], nn.Module], d: int, covariance: Literal["diagonal", "full"], model: Model
) -> Guide:
    encoder = seeded(partial(make, encoder_width(d, covariance)))
    return AmortizedNormal(encoder, d, covariance=covariance)


def _flow(make: Callable[[int], nn.Module], d: int, model: Model) -> Guide:
    return seeded(lambda: AmortizedFlow(make(flow_width(d)), d))


def _layers(
    make: Callable[[int], nn.Module], covariance: Literal["diagonal", "full"], model: Model
) -> Guide:
    lower, upper = LAYERS
    return seeded(
        lambda: AmortizedLayers(
            (
                make(encoder_width(lower, covariance)),
                mlp((lower, 32, encoder_width(upper, covariance))),
            ),
            LAYERS,
            covariance=covariance,
        )
    )


def _categorical(make: Callable[[int], nn.Module], model: Model) -> Guide:
    return AmortizedCategorical(seeded(partial(make, 20)), 2, 10)


def _sprite_linear(width: int) -> nn.Module:
    return mlp((SPRITE, width))


def _sprite_dense(width: int) -> nn.Module:
    return mlp((SPRITE, 256, 128, width))


def _linear(width: int) -> nn.Module:
    return mlp((PIXELS, width))


def _dense(width: int) -> nn.Module:
    return mlp((PIXELS, 128, width))


def _conv(width: int) -> nn.Module:
    return ConvEncoder(IMAGE, width)


def _irises(width: int) -> nn.Module:
    return mlp((4, 32, width))


DIGITS: dict[str, Any] = {
    "data": partial(digits, "train"),
    "held_out": partial(digits, "test"),
    "labels": partial(digits_labels, "train"),
    "held_out_labels": partial(digits_labels, "test"),
    "image_shape": (8, 8),
}
BINARY = DIGITS | {
    "data": partial(digits, "train", binary=True),
    "held_out": partial(digits, "test", binary=True),
}
VAE_GUIDES = {
    "linear-diagonal": partial(_normal, _linear, LATENTS, "diagonal"),
    "mlp-diagonal": partial(_normal, _dense, LATENTS, "diagonal"),
    "mlp-full": partial(_normal, _dense, LATENTS, "full"),
    "conv-diagonal": partial(_normal, _conv, LATENTS, "diagonal"),
    "mlp-flow": partial(_flow, _dense, LATENTS),
}
FEW_GUIDES = {name: VAE_GUIDES[name] for name in ("linear-diagonal", "mlp-diagonal", "mlp-full")}
MINI_BATCH = MappingProxyType({"batch_size": 128})

PAIRS = (
    Pair(
        name="autoencoder",
        summary="Linear autoencoder of digits by squared error: it spans the principal components.",
        model=lambda: seeded(lambda: VAE(PIXELS, CODES, (), "gaussian", 1.0, prior_scale=None)),
        guides={
            "linear-code": partial(_code, _linear, CODES, None),
            "mlp-code": partial(_code, _dense, CODES, None),
            "conv-code": partial(_code, _conv, CODES, None),
        },
        truth="no posterior",
        source="Baldi & Hornik (1989), Neural networks and principal component analysis; "
        "Hinton & Salakhutdinov (2006), Reducing the dimensionality of data with neural networks",
        settings=MappingProxyType({"optim": pyro.optim.Adam({"lr": 0.01, "eps": 6.0})}),
        **DIGITS,
    ),
    Pair(
        name="denoising-autoencoder",
        summary="Denoising autoencoder: clean digits reconstructed from codes of corrupted ones.",
        model=lambda: seeded(
            lambda: VAE(PIXELS, DENOISING_CODES, (128,), "gaussian", 0.2, prior_scale=None)
        ),
        guides={
            "plain": partial(_code, _dense, DENOISING_CODES, None),
            "gaussian": partial(_code, _dense, DENOISING_CODES, gaussian(0.4)),
            "masking": partial(_code, _dense, DENOISING_CODES, masking(0.4)),
            "salt-and-pepper": partial(_code, _dense, DENOISING_CODES, salt_and_pepper(0.3)),
        },
        truth="no posterior",
        source="Vincent, Larochelle, Lajoie, Bengio & Manzagol (2010), Stacked denoising autoencoders",
        settings=MINI_BATCH,
        **DIGITS,
    ),
    Pair(
        name="vae",
        summary="Neural decoder of binary digits, Bernoulli likelihood: a variational autoencoder.",
        model=lambda: seeded(partial(VAE, PIXELS, LATENTS, (128,))),
        guides=VAE_GUIDES,
        truth="importance-weighted bound",
        source="Kingma & Welling (2014), Auto-encoding variational Bayes; "
        "Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders",
        settings=MINI_BATCH,
        **BINARY,
    ),
    Pair(
        name="gaussian-vae",
        summary="Grey digits, Gaussian likelihood: a mean and a scale for each pixel of each digit.",
        model=lambda: seeded(lambda: VAE(PIXELS, LATENTS, (128,), GaussianPerDatum(0.05))),
        guides=FEW_GUIDES,
        truth="importance-weighted bound",
        source="Kingma & Welling (2014), Auto-encoding variational Bayes; "
        "Mattei & Frellsen (2018), Leveraging the exact likelihood of deep latent variable models",
        settings=MINI_BATCH,
        **DIGITS,
    ),
    Pair(
        name="full-covariance-vae",
        summary="Grey digits with correlated pixel noise: covariance of low rank plus diagonal.",
        model=lambda: seeded(lambda: VAE(PIXELS, LATENTS, (128,), LowRankGaussian(4, 0.05))),
        guides=FEW_GUIDES,
        truth="importance-weighted bound",
        source="Dorta, Vicente, Agapito, Campbell & Simpson (2018), Structured uncertainty "
        "prediction networks",
        settings=MINI_BATCH,
        **DIGITS,
    ),
    Pair(
        name="nonlinear-latent",
        summary="Nonlinear decoder of irises: evidence, posterior and gaps known by quadrature.",
        model=lambda: seeded(lambda: VAE(4, 2, (16,), "gaussian")),
        guides={
            "mlp-diagonal": partial(_normal, _irises, 2, "diagonal"),
            "mlp-full": partial(_normal, _irises, 2, "full"),
            "mlp-flow": partial(_flow, _irises, 2),
        },
        data=iris,
        truth="exact",
        source="Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders; "
        "MacKay (1995), Bayesian neural networks and density networks",
        exact=QuadraturePosterior,
        trained=by_evidence,
        labels=iris_labels,
    ),
    Pair(
        name="hierarchical-vae",
        summary="Binary digits by a variational autoencoder with two layers of latent variables.",
        model=lambda: seeded(lambda: HierarchicalVAE(PIXELS, LAYERS, (128,), middle_hidden=(32,))),
        guides={
            "mlp-diagonal": partial(_layers, _dense, "diagonal"),
            "conv-diagonal": partial(_layers, _conv, "diagonal"),
            "mlp-full": partial(_layers, _dense, "full"),
        },
        truth="importance-weighted bound",
        source="Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders; "
        "Sonderby, Raiko, Maaloe, Sonderby & Winther (2016), Ladder variational autoencoders",
        settings=MINI_BATCH,
        **BINARY,
    ),
    Pair(
        name="beta-vae",
        summary="Beta-VAE of sprites with known factors: a weight on the KL for disentanglement.",
        model=lambda: seeded(lambda: VAE(SPRITE, 6, (128, 256))),
        guides={
            "linear-diagonal": partial(_normal, _sprite_linear, 6, "diagonal"),
            "mlp-diagonal": partial(_normal, _sprite_dense, 6, "diagonal"),
            "mlp-full": partial(_normal, _sprite_dense, 6, "full"),
        },
        data=sprites,
        truth="importance-weighted bound",
        source="Higgins et al. (2017), beta-VAE: learning basic visual concepts with a constrained "
        "variational framework",
        settings=MappingProxyType(
            {"objective": BetaELBO(linear(0.0, 4.0, 0.2)), "batch_size": 128}
        ),
        image_shape=(16, 16),
    ),
    Pair(
        name="iwae",
        summary="Importance weighted autoencoder: the binary digits, bound of 50 draws per digit.",
        model=lambda: seeded(partial(VAE, PIXELS, LATENTS, (128,))),
        guides=FEW_GUIDES,
        truth="importance-weighted bound",
        source="Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders; Tucker, "
        "Lawson, Gu & Maddison (2019), Doubly reparameterized gradient estimators",
        settings=MappingProxyType(
            {
                "objective": ImportanceWeightedELBO(50, "doubly"),
                "batch_size": 128,
            }
        ),
        **BINARY,
    ),
    Pair(
        name="gumbel-softmax-vae",
        summary="Binary digits with two categorical latents of ten states, by Gumbel-softmax.",
        model=lambda: seeded(lambda: DiscreteVAE(PIXELS, 2, 10, (128,))),
        guides={
            "linear": partial(_categorical, _linear),
            "mlp": partial(_categorical, _dense),
            "conv": partial(_categorical, _conv),
        },
        truth="importance-weighted bound",
        source="Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax; "
        "Maddison, Mnih & Teh (2017), The concrete distribution",
        settings=MappingProxyType(
            {
                "objective": RelaxedELBO(exponential(1.0, 0.5, 0.5)),
                "batch_size": 128,
            }
        ),
        **BINARY,
    ),
)
