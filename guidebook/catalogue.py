"""The shelf: every pair of a model and its guides, with data and how the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from guidebook.datasets.small import (
    breast_cancer,
    diabetes,
    digits,
    digits_labels,
    iris,
    wine,
    wine_labels,
)
from guidebook.datasets.small import eight_schools as eight_schools_data
from guidebook.errors import NameNotFound, nearest
from guidebook.guides.amortized import AmortizedNormal, encoder_width
from guidebook.guides.conjugate import ConjugateRegression, LinearGaussianPosterior
from guidebook.guides.enumerated_mixture import EnumeratedMixture
from guidebook.guides.factor import FactorPosterior
from guidebook.guides.families import flow, full_rank, low_rank, mean_field
from guidebook.guides.gaussian_mean import GaussianMeanField, NormalGammaPosterior
from guidebook.guides.mixture import MixtureMeanField
from guidebook.guides.mixture_mode import MixtureMode
from guidebook.guides.sites import LogisticSites
from guidebook.models.factor import FactorAnalysis
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.hierarchical import eight_schools, eight_schools_centered
from guidebook.models.latent import VAE, LinearVAE
from guidebook.models.mixture import GaussianMixture
from guidebook.models.networks import mlp
from guidebook.models.regression import linear_regression, logistic_regression

T = TypeVar("T")
Model = Callable[..., Any]
Guide = Callable[..., Any]
Truth = Literal["exact", "NUTS", "Gibbs", "importance-weighted bound"]
Road = tuple[str, Callable[[Model], Guide]]


@dataclass(frozen=True)
class Pair:
    """One line of the shelf.

    - `name`, `summary` (one sentence), `source` (author, year, title).
    - `model()` gives the model; networks start from the same weights at every call.
    - `guides`: from cheap to rich, name to a function of the model that gives the guide.
    - `roads`: other engines than `svi` for the same posterior: name to the engine's name and a
      function of the model that gives the guide with the structure that the engine asks for.
    - `data()` gives the model's keyword arguments; `held_out()` the same for rows kept apart.
    - `truth`: how the right answer is known; `exact(model)` gives the guide that is the posterior.
    - `settings`: keyword arguments for `svi`.
    - `labels()` and `held_out_labels()`: a class of each row, for pictures only; `image_shape`: the
      shape of one row as a picture.
    """

    name: str
    summary: str
    model: Callable[[], Model]
    guides: Mapping[str, Callable[[Model], Guide]]
    data: Callable[[], dict[str, Tensor]]
    truth: Truth
    source: str
    exact: Callable[[Model], Guide] | None = None
    roads: Mapping[str, Road] = field(default_factory=lambda: MappingProxyType({}))
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    held_out: Callable[[], dict[str, Tensor]] | None = None
    labels: Callable[[], Tensor] | None = None
    held_out_labels: Callable[[], Tensor] | None = None
    image_shape: tuple[int, int] | None = None


def pair(name: str) -> Pair:
    """The pair of this name; NameNotFound, with the near names, if there is none."""
    if name not in PAIRS:
        raise NameNotFound(f"There is no pair {name!r} on the shelf. {nearest(name, PAIRS)}")
    return PAIRS[name]


def _seeded(make: Callable[[], T]) -> T:
    """Networks with the same first weights at every call; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


PIXELS = 64
CHEMICALS = 13
FACTORS = 2
LINEAR_LATENTS = 5
VAE_LATENTS = 8

GLOBAL_GUIDES: Mapping[str, Callable[[Model], Guide]] = MappingProxyType(
    {"mean-field": mean_field, "full-rank": full_rank, "low-rank": low_rank, "flow": flow}
)
"""For models whose latents are all global."""
FEW_LATENTS: Mapping[str, Callable[[Model], Guide]] = MappingProxyType(
    {"mean-field": mean_field, "full-rank": full_rank, "flow": flow}
)
"""For a handful of them, where a low-rank covariance is no economy."""


def _amortized(
    width: int,
    latent_dim: int,
    hidden: tuple[int, ...],
    covariance: Literal["diagonal", "full"],
    model: Model,
) -> Guide:
    widths = (width, *hidden, encoder_width(latent_dim, covariance))
    encoder = _seeded(partial(mlp, widths))
    return AmortizedNormal(encoder, latent_dim, covariance=covariance)


FACTOR_GUIDES: Mapping[str, Callable[[Model], Guide]] = MappingProxyType(
    {
        "linear-diagonal": partial(_amortized, CHEMICALS, FACTORS, (), "diagonal"),
        "linear-full": partial(_amortized, CHEMICALS, FACTORS, (), "full"),
        "mlp-full": partial(_amortized, CHEMICALS, FACTORS, (32,), "full"),
    }
)
FACTOR_SETTINGS: Mapping[str, Any] = MappingProxyType({"steps": 8000})


def _sepal_width() -> dict[str, Tensor]:
    return {"x": iris()["x"][:, 1].contiguous()}


def _few_irises() -> dict[str, Tensor]:
    """Petal length and width of every thirtieth iris, in units in which a cluster has variance 1."""
    return {"x": 2.5 * iris()["x"][::30, 2:].contiguous()}


_ALL = (
    Pair(
        name="eight-schools",
        summary="Effects of coaching in eight schools, non-centred: a well-behaved hierarchy.",
        model=lambda: eight_schools,
        guides=GLOBAL_GUIDES,
        data=eight_schools_data,
        truth="NUTS",
        source="Rubin (1981), Estimation in parallel randomized experiments; posteriordb's priors",
    ),
    Pair(
        name="eight-schools-centered",
        summary="The same eight schools, centred: a funnel that no Gaussian guide can follow.",
        model=lambda: eight_schools_centered,
        guides=GLOBAL_GUIDES,
        data=eight_schools_data,
        truth="NUTS",
        source="Rubin (1981), Estimation in parallel randomized experiments; posteriordb's priors",
    ),
    Pair(
        name="linear-regression",
        summary="Gaussian regression with its conjugate prior: posterior and evidence are known.",
        model=lambda: linear_regression,
        guides=GLOBAL_GUIDES,
        data=diabetes,
        truth="exact",
        source="Murphy (2012), Machine Learning: a Probabilistic Perspective, section 7.6.3",
        exact=lambda model: ConjugateRegression(),
    ),
    Pair(
        name="logistic-regression",
        summary="Bernoulli regression on 30 correlated columns, with a weakly informative prior.",
        model=lambda: logistic_regression,
        guides=GLOBAL_GUIDES,
        roads={"ep": ("ep", lambda model: LogisticSites())},
        data=breast_cancer,
        truth="NUTS",
        source="Gelman, Jakulin, Pittau & Su (2008), A weakly informative default prior "
        "distribution for logistic and other regression models",
    ),
    Pair(
        name="linear-vae",
        summary="Linear Gaussian decoder (probabilistic PCA): each row's posterior is known.",
        model=lambda: _seeded(partial(LinearVAE, PIXELS, LINEAR_LATENTS)),
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
        settings=MappingProxyType({"steps": 12000, "batch_size": 128}),
        held_out=partial(digits, "test"),
        labels=partial(digits_labels, "train"),
        held_out_labels=partial(digits_labels, "test"),
        image_shape=(8, 8),
    ),
    Pair(
        name="vae",
        summary="Neural decoder of binary digits, Bernoulli likelihood: a variational autoencoder.",
        model=lambda: _seeded(partial(VAE, PIXELS, VAE_LATENTS, (128,))),
        guides={
            "linear-diagonal": partial(_amortized, PIXELS, VAE_LATENTS, (), "diagonal"),
            "mlp-diagonal": partial(_amortized, PIXELS, VAE_LATENTS, (128,), "diagonal"),
            "mlp-full": partial(_amortized, PIXELS, VAE_LATENTS, (128,), "full"),
        },
        data=partial(digits, "train", binary=True),
        truth="importance-weighted bound",
        source="Kingma & Welling (2014), Auto-encoding variational Bayes; "
        "Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders",
        settings=MappingProxyType({"steps": 12000, "batch_size": 128}),
        held_out=partial(digits, "test", binary=True),
        labels=partial(digits_labels, "train"),
        held_out_labels=partial(digits_labels, "test"),
        image_shape=(8, 8),
    ),
    Pair(
        name="gaussian-mean",
        summary="Mean and precision of normal data: the one posterior that every engine can reach.",
        model=lambda: gaussian_mean,
        guides=FEW_LATENTS,
        roads={
            "cavi": ("cavi", lambda model: GaussianMeanField()),
            "gibbs": ("gibbs", lambda model: GaussianMeanField()),
        },
        data=_sepal_width,
        truth="exact",
        source="Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.3",
        exact=lambda model: NormalGammaPosterior(),
    ),
    Pair(
        name="gaussian-mixture",
        summary="Three clusters of known variance and equal weights: the reading group's mixture.",
        model=lambda: GaussianMixture(
            3, 2, "unit", concentration=None, loc=0.0, mean_precision=0.1
        ),
        guides=FEW_LATENTS,
        roads={
            "cavi": ("cavi", MixtureMeanField),
            "natural-svi": ("natural_svi", MixtureMeanField),
            "em": ("em", MixtureMode),
            "gibbs": ("gibbs", MixtureMeanField),
        },
        data=_few_irises,
        truth="exact",
        source="Blei, Kucukelbir & McAuliffe (2017), Variational inference: a review for "
        "statisticians, section 2.1",
        exact=EnumeratedMixture,
    ),
    Pair(
        name="probabilistic-pca",
        summary="Wines in two dimensions: one linear Gaussian factor model, trained by EM.",
        model=lambda: _seeded(partial(LinearVAE, CHEMICALS, FACTORS)),
        guides=FACTOR_GUIDES,
        roads={"em": ("em", FactorPosterior)},
        data=wine,
        truth="exact",
        source="Tipping & Bishop (1999), Probabilistic principal component analysis",
        exact=FactorPosterior,
        settings=FACTOR_SETTINGS,
        labels=wine_labels,
    ),
    Pair(
        name="factor-analysis",
        summary="The same with a noise variance of its own for every column: units do not matter.",
        model=lambda: _seeded(partial(FactorAnalysis, CHEMICALS, FACTORS)),
        guides=FACTOR_GUIDES,
        roads={"em": ("em", FactorPosterior)},
        data=wine,
        truth="exact",
        source="Rubin & Thayer (1982), EM algorithms for ML factor analysis",
        exact=FactorPosterior,
        settings=FACTOR_SETTINGS,
        labels=wine_labels,
    ),
)

PAIRS: dict[str, Pair] = {entry.name: entry for entry in _ALL}
"""The shelf, in the order in which it is listed."""
