"""Bad input to models: stories that are no model, settings, and data that a model cannot have made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import guidebook as gb
from guidebook.errors import DataError, GuidebookError, ModelError, SettingError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.likelihoods import LowRankGaussian
from guidebook.models.decoders.networks import mlp
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import Boltzmann
from guidebook.models.energy.hopfield import hebbian, pseudo_inverse, recall
from guidebook.models.mixture import GaussianMixture
from tests.bad_input.conftest import Bad
from tests.bad_input.given import (
    BERNOULLI,
    BYTES,
    ENGINES,
    IMAGE,
    POINTS,
    SHELF,
    D,
    N,
    P,
    X,
    coin,
    counts,
    discrete,
    fit,
    fixed,
    images_with_nan,
    mixture_fit,
    normal,
    points_with_nan,
    shelf_fit,
    vae,
)

W = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, -0.3], [0.0, -0.3, 0.0]])
ZERO = torch.zeros(3)
PATTERNS = torch.as_tensor(np.random.default_rng(1).choice([-1.0, 1.0], (8, 6)))


def changed(i: int, j: int, value: float) -> Tensor:
    other = W.clone()
    other[i, j] = value
    return other


def of_machines(weights: Tensor) -> dict[str, Callable[[], Any]]:
    """Everything that takes the weights of an energy."""
    return {
        "": lambda: Boltzmann(weights, ZERO, validate_args=True),
        ", machine": lambda: BoltzmannMachine(weights, ZERO),
        ", recall": lambda: recall(torch.ones(1, 3), weights),
    }


STORIES: dict[str, Bad] = {
    "no latent site": (
        lambda: fit(fixed, data={"y": torch.zeros(8)}), ModelError, r"no (continuous )?latent",
    ),
    "no latent site, nuts": (
        lambda: gb.nuts(fixed, {"y": torch.zeros(8)}), ModelError, "no latent",
    ),
    "discrete latent": (
        lambda: fit(coin, data={"y": torch.zeros(())}), ModelError, "'kind' is discrete", "[Ee]numerate",
    ),
    "observation outside its support": (
        lambda: fit(counts, data={"y": torch.tensor([1.0, -2.0])}), GuidebookError, "support|within",
    ),
}  # fmt: skip

MIXTURES: dict[str, Bad] = {
    "no component": (lambda: GaussianMixture(0, 2), SettingError, "K=0", "at least 1"),
    "a prior scatter that is singular": (
        lambda: GaussianMixture(2, 2, inverse_scale=[[1.0, 1.0], [1.0, 1.0]]), SettingError,
        "positive definite", "covariance of the columns",
    ),
    **{
        f"NaN rows, {engine}": (
            lambda engine=engine: mixture_fit(engine, points_with_nan()), DataError,
            r"'x' holds NaN at index \(7, 1\)", "impute|[Rr]emove|drop",
        )
        for engine in ENGINES
    },
    **{
        f"rows of another width, {engine}": (
            lambda engine=engine: mixture_fit(engine, POINTS[:, :1]), DataError,
            r"\(24, 1\)", r"needs \(rows, 2\)",
        )
        for engine in ENGINES
    },
}  # fmt: skip

MACHINES: dict[str, Bad] = {
    **{
        f"weights that are not symmetric{where}": (
            call, ModelError, "not symmetric", r"\(W \+ W\.mT\) / 2"
        )
        for where, call in of_machines(changed(0, 2, 1.0)).items()
    },
    **{
        f"a self-connection{where}": (
            call, ModelError, "Unit 1 is connected to itself", "set the diagonal to 0"
        )
        for where, call in of_machines(changed(1, 1, 0.7)).items()
    },
    "the place of the asymmetry": (
        lambda: Boltzmann(changed(0, 2, 1.0), ZERO, validate_args=True), ModelError, r"W\[0, 2\]",
    ),
    "a temperature of zero": (
        lambda: Boltzmann(W, ZERO, beta=float("inf"), validate_args=True), SettingError,
        "temperature of zero", "recall", "or a finite beta",
    ),
    "a temperature of zero, machine": (
        lambda: BoltzmannMachine(W, ZERO, beta=float("inf")), SettingError,
        "temperature of zero", "recall", "or a finite beta",
    ),
    "a negative temperature": (
        lambda: Boltzmann(W, ZERO, beta=-1.0, validate_args=True), SettingError,
        "inverse temperature", "give a finite number, at least 0",
    ),
    "more patterns than capacity, projection rule": (
        lambda: pseudo_inverse(PATTERNS), DataError, "8 patterns in 6 units", "at most 5", "Store fewer",
    ),
    "a pattern stored twice, projection rule": (
        lambda: pseudo_inverse(PATTERNS[[0, 1, 0]]), DataError, "linearly dependent", "Remove the repeated",
    ),
    "patterns that are not -1 and +1": (
        lambda: hebbian(torch.tensor([[0.0, 1.0, 2.0]])), DataError, r"-1 and \+1",
    ),
}  # fmt: skip

IMAGES: dict[str, Bad] = {
    **{
        f"{case}, {pair}": (lambda p=pair, x=x: shelf_fit(p, x), kind, cause, remedy)
        for pair in BERNOULLI
        for case, x, kind, cause, remedy in (
            ("bytes as floats", 255 * X, DataError, "to 255, outside", "divide by the largest"),
            ("below zero", X - 0.5, DataError, "from -0.5 to", "Gaussian likelihood"),
        )
    },
    **{
        f"{case}, {pair}": (lambda p=pair, x=x: shelf_fit(p, x), DataError, cause, remedy)
        for pair in SHELF
        for case, x, cause, remedy in (
            ("bytes", BYTES, r"integers \(torch.uint8\)", r"x\.float\(\) / 255"),
            ("whole numbers", X.long(), r"integers \(torch.int64\)", r"x\.float\(\)"),
            ("bytes of numpy", BYTES.numpy(), r"integers \(torch.uint8\)", r"x\.float\(\) / 255"),
            ("a NaN", images_with_nan(), r"NaN at index \(3, 7\)", "Remove or impute"),
            ("no rows", X[:0], "empty", "at least one row"),
        )
    },
    "wrong channels": (
        lambda: shelf_fit("convolutional vae", X.reshape(N, *IMAGE).expand(N, 3, 4, 4)),
        DataError, r"\(24, 3, 4, 4\)", "check the channels",
    ),
    "channels last": (
        lambda: shelf_fit("convolutional vae", X.reshape(N, 4, 4, 1)),
        DataError, r"\(24, 4, 4, 1\)", "channels, which come before height and width",
    ),
    "too many channels for the model alone": (
        lambda: vae(torch.rand(N, 2 * P), guide=normal(inputs=2 * P)),
        DataError, "32 numbers a row, and the model decodes rows of 16", "check the channels",
    ),
    "rows of another width, categorical": (
        lambda: discrete(
            torch.rand(N, 2 * P), AmortizedCategorical(mlp((2 * P, 8, 3)), 1, 3)
        ),
        DataError, "32 numbers a row, and the model decodes rows of 16", "check the channels",
    ),
    "one number a row": (
        lambda: vae(X[:, 0], guide=normal()), GuidebookError, r"24|shape", "check|Run|give",
    ),
}  # fmt: skip

DECODERS: dict[str, Bad] = {
    "a decoder of another width": (
        lambda: vae(model=VAE(P, D, decoder=mlp((D, P + 1)))), SettingError, r"\(2, 17\)",
        "last layer 16 outputs",
    ),
    "no latents, model": (lambda: vae(model=VAE(P, 0)), SettingError, "latent_dim=0", "at least 1"),
    "no latents, second layer": (
        lambda: vae(model=HierarchicalVAE(P, (2, 0))), SettingError, r"\(2, 0\)", "at least 1",
    ),
    "no latents, categorical model": (
        lambda: vae(model=DiscreteVAE(P, 0, 3)), SettingError, "latents=0", "at least one",
    ),
    "no categories, model": (
        lambda: vae(model=DiscreteVAE(P, 1, 0)), SettingError, "categories=0", "two categories",
    ),
    "a scale of 0": (
        lambda: vae(model=VAE(P, D, (8,), "gaussian", 0.0)), SettingError, "scale=0.0",
        "positive number",
    ),
    "a prior of scale 0": (
        lambda: vae(model=VAE(P, D, (8,), prior_scale=0.0)), SettingError, "prior_scale=0.0",
        "positive number",
    ),
    "no rank": (
        lambda: vae(model=VAE(P, D, (8,), LowRankGaussian(0))), SettingError, "rank=0", "at least 1",
    ),
}  # fmt: skip

ERRORS = STORIES | MIXTURES | MACHINES | IMAGES | DECODERS


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


def test_more_patterns_than_capacity_are_stored_by_hebb_and_not_recalled() -> None:
    """Stated behaviour: 60 random patterns in 100 units (0.6, beyond 0.138) are no fixed points."""
    rng = np.random.default_rng(2)
    patterns = torch.as_tensor(rng.choice([-1.0, 1.0], (60, 100)))
    found = recall(patterns, hebbian(patterns))
    kept = (found.states == patterns).all(-1).double().mean()
    assert float(kept) < 0.05
    few = patterns[:5]
    assert bool((recall(few, hebbian(few)).states == few).all())
