"""Pairs in conjugate families: means, mixtures and clutter, that many engines reach."""

from __future__ import annotations

import torch
from torch import Tensor

from guidebook.datasets.small import iris
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.guides.conjugate.sites import ClutterSites
from guidebook.guides.exact.enumerated_clutter import EnumeratedClutter
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.inference.cavi import cavi
from guidebook.inference.em import em
from guidebook.inference.ep import ep
from guidebook.inference.gibbs import gibbs
from guidebook.inference.natural_svi import natural_svi
from guidebook.models.clutter import clutter
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.mixture import GaussianMixture
from guidebook.shelf.families import FEW_LATENTS
from guidebook.shelf.pair import Pair


def _sepal_width() -> dict[str, Tensor]:
    return {"x": iris()["x"][:, 1].contiguous()}


def _petals() -> dict[str, Tensor]:
    return {"x": iris()["x"][:, 2:].contiguous()}


def _cluttered() -> dict[str, Tensor]:
    """Twelve numbers simulated with theta = 2: four of them from it, eight clutter."""
    x = (2.9, 1.8, 0.8, 1.3, -1.4, 0.7, -3.2, -0.7, -0.5, 1.7, 0.7, 2.4)
    return {"x": torch.tensor(x).unsqueeze(-1)}


def _few_irises() -> dict[str, Tensor]:
    """Petal length and width of every thirtieth iris, in units in which a cluster has variance 1."""
    return {"x": 2.5 * iris()["x"][::30, 2:].contiguous()}


PAIRS = (
    Pair(
        name="gaussian-mean",
        summary="Mean and precision of normal data under a conjugate prior, for every engine.",
        model=lambda: gaussian_mean,
        guides=FEW_LATENTS,
        engines={
            "cavi": (cavi, lambda model: GaussianMeanField()),
            "gibbs": (gibbs, lambda model: GaussianMeanField()),
        },
        data=_sepal_width,
        truth="exact",
        source="Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.3",
        exact=lambda model: NormalGammaPosterior(),
    ),
    Pair(
        name="clutter",
        summary="Mean of points of which half are clutter: expectation propagation's test problem.",
        model=lambda: clutter,
        guides=FEW_LATENTS,
        engines={"ep": (ep, lambda model: ClutterSites())},
        data=_cluttered,
        truth="exact",
        source="Minka (2001), A family of algorithms for approximate Bayesian inference, "
        "section 3.2.1",
        exact=lambda model: EnumeratedClutter(),
    ),
    Pair(
        name="gaussian-mixture",
        summary="Gaussian mixture of three clusters with known variance and equal weights.",
        model=lambda: GaussianMixture(
            3, 2, "unit", concentration=None, loc=0.0, mean_precision=0.1
        ),
        guides=FEW_LATENTS,
        engines={
            "cavi": (cavi, MixtureMeanField),
            "natural-svi": (natural_svi, MixtureMeanField),
            "em": (em, MixtureMode),
            "gibbs": (gibbs, MixtureMeanField),
        },
        data=_few_irises,
        truth="exact",
        source="Blei, Kucukelbir & McAuliffe (2017), Variational inference: a review for "
        "statisticians, section 2.1",
        exact=EnumeratedMixture,
    ),
    Pair(
        name="gaussian-mixture-full",
        summary="Gaussian mixture of iris petals: unknown weights, means and covariances.",
        model=lambda: GaussianMixture(
            2, 2, "full", concentration=2.0, mean_precision=0.1, df=5.0, inverse_scale=0.5
        ),
        guides=FEW_LATENTS,
        engines={
            "cavi": (cavi, MixtureMeanField),
            "natural-svi": (natural_svi, MixtureMeanField),
            "em": (em, MixtureMode),
            "gibbs": (gibbs, MixtureMeanField),
        },
        data=_petals,
        truth="Gibbs",
        source="Bishop (2006), Pattern Recognition and Machine Learning, section 10.2",
    ),
)
