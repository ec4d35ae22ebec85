"""Pairs of linear factor models, whose posterior of every row is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

from guidebook.datasets.small import digits, digits_labels, wine, wine_labels
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.em import em
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.shelf.pair import Guide, Model, Pair, seeded
from guidebook.shelf.training import by_em

PIXELS = 64
CHEMICALS = 13
FACTORS = 2
LINEAR_LATENTS = 5


def _amortized(
    width: int,
    latent_dim: int,
    hidden: tuple[int, ...],
    covariance: Literal["diagonal", "full"],
    model: Model,
) -> Guide:
    widths = (width, *hidden, encoder_width(latent_dim, covariance))
    encoder = seeded(partial(mlp, widths))
    return AmortizedNormal(encoder, latent_dim, covariance=covariance)


FACTOR_GUIDES: Mapping[str, Callable[[Model], Guide]] = MappingProxyType(
    {
        "linear-diagonal": partial(_amortized, CHEMICALS, FACTORS, (), "diagonal"),
        "linear-full": partial(_amortized, CHEMICALS, FACTORS, (), "full"),
        "mlp-full": partial(_amortized, CHEMICALS, FACTORS, (32,), "full"),
    }
)

PAIRS = (
    Pair(
        name="linear-vae",
        summary="Linear Gaussian decoder (probabilistic PCA): each row's posterior is known.",
        model=lambda: seeded(partial(LinearVAE, PIXELS, LINEAR_LATENTS)),
        guides={
            "linear-diagonal": partial(_amortized, PIXELS, LINEAR_LATENTS, (), "diagonal"),
            "linear-full": partial(_amortized, PIXELS, LINEAR_LATENTS, (), "full"),
            "mlp-full": partial(_amortized, PIXELS, LINEAR_LATENTS, (64,), "full"),
        },
        data=partial(digits, "train"),
        truth="exact",
        source="Tipping & Bishop (1999), Probabilistic principal component analysis; "
        "Lucas, Tucker, Grosse & Norouzi (2019), Don't blame the ELBO!",
        exact=LinearGaussianPosterior,
        settings=MappingProxyType({"batch_size": 128}),
        held_out=partial(digits, "test"),
        labels=partial(digits_labels, "train"),
        held_out_labels=partial(digits_labels, "test"),
        image_shape=(8, 8),
    ),
    Pair(
        name="probabilistic-pca",
        summary="Probabilistic PCA of wines in two dimensions, by expectation maximisation.",
        model=lambda: seeded(partial(LinearVAE, CHEMICALS, FACTORS)),
        guides=FACTOR_GUIDES,
        engines={"em": (em, FactorPosterior)},
        trained=by_em,
        data=wine,
        truth="exact",
        source="Tipping & Bishop (1999), Probabilistic principal component analysis",
        exact=FactorPosterior,
        labels=wine_labels,
    ),
    Pair(
        name="factor-analysis",
        summary="Factor analysis of the wines: a noise variance per column, invariant to units.",
        model=lambda: seeded(partial(FactorAnalysis, CHEMICALS, FACTORS)),
        guides=FACTOR_GUIDES,
        engines={"em": (em, FactorPosterior)},
        trained=by_em,
        data=wine,
        truth="exact",
        source="Rubin & Thayer (1982), EM algorithms for ML factor analysis",
        exact=FactorPosterior,
        labels=wine_labels,
    ),
)
