"""Bad input on the autoencoder shelf: one table of errors, one of stated behaviours.

An error is the library's own and names cause and remedy; what has an answer is fitted, everything
finite, and judged without a crash.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import guidebook as gb
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.errors import DataError, GuidebookError, GuideError, SettingError
from guidebook.guides import AmortizedNormal
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.corruption import (
    CorruptedEncoder,
    gaussian,
    masking,
    salt_and_pepper,
)
from guidebook.guides.amortized.flow import AmortizedFlow, flow_width
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.inference.objectives.sticking import StickingTheLanding
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.likelihoods import GaussianPerDatum, LowRankGaussian
from guidebook.models.decoders.networks import ConvDecoder, ConvEncoder, mlp

N, P, D, IMAGE = 24, 16, 2, (1, 4, 4)
X = (torch.rand(N, P, generator=torch.Generator().manual_seed(0)) > 0.5).float()
BYTES = (255 * X).to(torch.uint8)


def normal(d: int = D, width: int = 2 * D, inputs: int = P) -> AmortizedNormal:
    return AmortizedNormal(mlp((inputs, 8, width)), d)


def categorical(latents: int = 1, K: int = 3, width: int = 3) -> AmortizedCategorical:
    return AmortizedCategorical(mlp((P, 8, width)), latents, K)


def layers(width: int = 4) -> AmortizedLayers:
    return AmortizedLayers((mlp((P, 8, width)), mlp((2, 8, 2))), (2, 1))


SHELF: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "autoencoder": lambda: (
        VAE(P, D, (), "gaussian", 1.0, prior_scale=None), AmortizedDelta(mlp((P, D)), D), None
    ),
    "denoising": lambda: (
        VAE(P, D, (), "gaussian", 1.0, prior_scale=None),
        AmortizedDelta(CorruptedEncoder(mlp((P, D)), gaussian(0.3)), D),
        None,
    ),
    "vae": lambda: (VAE(P, D, (8,)), normal(), None),
    "convolutional vae": lambda: (
        VAE(P, D, decoder=ConvDecoder(D, IMAGE, (4,))),
        AmortizedNormal(ConvEncoder(IMAGE, 2 * D, (4,)), D),
        None,
    ),
    "gaussian, one scale": lambda: (VAE(P, D, (8,), "gaussian"), normal(), None),
    "gaussian, each its own": lambda: (VAE(P, D, (8,), GaussianPerDatum(0.1)), normal(), None),
    "low rank": lambda: (VAE(P, D, (8,), LowRankGaussian(2, 0.1)), normal(), None),
    "full covariance of q": lambda: (
        VAE(P, D, (8,)), AmortizedNormal(mlp((P, 8, 5)), D, covariance="full"), None
    ),
    "flow": lambda: (
        VAE(P, D, (8,)), AmortizedFlow(mlp((P, 8, flow_width(D))), D), None
    ),
    "two layers": lambda: (HierarchicalVAE(P, (2, 1), (8,)), layers(), None),
    "beta": lambda: (VAE(P, D, (8,)), normal(), BetaELBO(linear(0.0, 4.0, 0.5))),
    "iwae": lambda: (VAE(P, D, (8,)), normal(), ImportanceWeightedELBO(3, "doubly")),
    "landing": lambda: (VAE(P, D, (8,)), normal(), StickingTheLanding()),
    "gumbel-softmax": lambda: (
        DiscreteVAE(P, 1, 3, (8,)), categorical(), RelaxedELBO(exponential(1.0, 0.5))
    ),
}  # fmt: skip
BERNOULLI = ("vae", "convolutional vae", "two layers", "beta", "iwae", "gumbel-softmax")
every_pair = pytest.mark.parametrize("pair", SHELF)


def fitted(pair: str, x: Any, steps: int = 30, **settings: Any) -> gb.Fit:
    model, guide, objective = seeded(SHELF[pair])
    return gb.svi(
        model, guide, {"x": x}, objective=objective, steps=steps, compile="graph", progress=False,
        **settings,
    )  # fmt: skip


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def vae(x: Any = X, model: Any = None, guide: Any = None, **settings: Any) -> gb.Fit:
    return gb.svi(
        model or VAE(P, D, (8,)), guide or normal(), {"x": x}, steps=5, compile="graph",
        progress=False, **settings,
    )  # fmt: skip


def discrete(x: Any = X, guide: Any = None, **settings: Any) -> gb.Fit:
    settings = {"objective": RelaxedELBO(0.5)} | settings
    return vae(x, DiscreteVAE(P, 1, 3, (8,)), guide or categorical(), **settings)


def with_nan() -> Tensor:
    x = X.clone()
    x[3, 7] = torch.nan
    return x


# errors -------------------------------------------------------------------------------------------

Call = Callable[[], Any]
ERRORS: dict[str, tuple[Call, type[GuidebookError], str, str]] = {
    **{
        f"{case}, {pair}": (lambda p=pair, x=x: fitted(p, x), kind, cause, remedy)
        for pair in BERNOULLI
        for case, x, kind, cause, remedy in (
            ("bytes as floats", 255 * X, DataError, r"to 255, outside", "divide by the largest"),
            ("below zero", X - 0.5, DataError, r"from -0.5 to", "Gaussian likelihood"),
        )
    },
    **{
        f"{case}, {pair}": (lambda p=pair, x=x: fitted(p, x), DataError, cause, remedy)
        for pair in SHELF
        for case, x, cause, remedy in (
            ("bytes", BYTES, r"integers \(torch.uint8\)", r"x\.float\(\) / 255"),
            ("whole numbers", X.long(), r"integers \(torch.int64\)", r"x\.float\(\)"),
            ("bytes of numpy", BYTES.numpy(), r"integers \(torch.uint8\)", r"x\.float\(\) / 255"),
            ("a NaN", with_nan(), r"NaN at index \(3, 7\)", "Remove or impute"),
            ("no rows", X[:0], "empty", "at least one row"),
        )
    },
    "wrong channels": (
        lambda: fitted("convolutional vae", X.reshape(N, *IMAGE).expand(N, 3, 4, 4)),
        DataError, r"\(24, 3, 4, 4\)", "check the channels",
    ),
    "channels last": (
        lambda: fitted("convolutional vae", X.reshape(N, 4, 4, 1)),
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
    "an encoder of another input width": (
        lambda: vae(guide=normal(inputs=P + 1)), GuideError, "shapes cannot be multiplied",
        r"Run guide\(\*\*data\)",
    ),
    "an encoder of the wrong width, normal": (
        lambda: vae(guide=normal(width=5)), GuideError, r"to \(24, 5\)", "last layer 4 outputs",
    ),
    "an encoder of the wrong width, full covariance": (
        lambda: vae(guide=AmortizedNormal(mlp((P, 4)), D, covariance="full")),
        GuideError, r"to \(24, 4\)", "last layer 5 outputs",
    ),
    "an encoder of the wrong width, flow": (
        lambda: vae(guide=AmortizedFlow(mlp((P, 4)), D)),
        GuideError, r"to \(24, 4\)", "outputs",
    ),
    "an encoder of the wrong width, code": (
        lambda: vae(guide=AmortizedDelta(mlp((P, 4)), D)),
        GuideError, r"to \(24, 4\)", "last layer 2 outputs",
    ),
    "an encoder of the wrong width, layers": (
        lambda: vae(model=HierarchicalVAE(P, (2, 1), (8,)), guide=layers(width=5)),
        GuideError, r"to \(24, 5\)", "last layer 4 outputs",
    ),
    "an encoder of the wrong width, categorical": (
        lambda: discrete(guide=categorical(width=4)), GuideError, r"to \(24, 4\)",
        "last layer 3 outputs",
    ),
    "a guide of other latents": (
        lambda: vae(guide=normal(3, 6)), GuideError, r"shape \(24, 3\), the model has \(24, 2\)",
        "same|Use",
    ),
    "a decoder of another width": (
        lambda: vae(model=VAE(P, D, decoder=mlp((D, P + 1)))), SettingError, r"\(2, 17\)",
        "last layer 16 outputs",
    ),
    "no latents, model": (lambda: vae(model=VAE(P, 0)), SettingError, "latent_dim=0", "at least 1"),
    "no latents, guide": (
        lambda: vae(guide=normal(0, 2)), GuideError, "latent_dim=0", "at least 1",
    ),
    "no latents, code": (
        lambda: vae(guide=AmortizedDelta(mlp((P, 2)), 0)), GuideError, "latent_dim=0", "at least 1",
    ),
    "no latents, flow": (
        lambda: vae(guide=AmortizedFlow(mlp((P, 2)), 0)), GuideError, "latent_dim=0", "at least 1",
    ),
    "no latents, second layer": (
        lambda: vae(model=HierarchicalVAE(P, (2, 0))), SettingError, r"\(2, 0\)", "at least 1",
    ),
    "no latents, categorical model": (
        lambda: vae(model=DiscreteVAE(P, 0, 3)), SettingError, "latents=0", "at least one",
    ),
    "no categories, model": (
        lambda: vae(model=DiscreteVAE(P, 1, 0)), SettingError, "categories=0", "two categories",
    ),
    "no categories, guide": (
        lambda: discrete(guide=categorical(1, 0)), GuideError, "categories=0", "two categories",
    ),
    "one category": (
        lambda: discrete(guide=categorical(1, 1)), GuideError, "categories=1", "two categories",
    ),
    "temperature 0": (
        lambda: discrete(objective=RelaxedELBO(0.0)), SettingError, "temperature is 0.0",
        "no gradient: give 0.5",
    ),
    "a temperature that reaches 0": (
        lambda: discrete(objective=RelaxedELBO(linear(1.0, 0.0))), SettingError,
        "along its schedule", "above 0",
    ),
    "a temperature below 0": (
        lambda: discrete(objective=RelaxedELBO(-1.0)), SettingError, "-1.0", "above 0",
    ),
    "an exponential schedule to 0": (
        lambda: discrete(objective=RelaxedELBO(exponential(1.0, 0.0))), SettingError,
        "never arrives", "positive numbers",
    ),
    "beta below 0": (
        lambda: vae(objective=BetaELBO(-1.0)), SettingError, "beta is -1.0", "at least 0",
    ),
    "beta that is no number": (
        lambda: vae(objective=BetaELBO(float("nan"))), SettingError, "beta is nan", "finite number",
    ),
    "a schedule of beta below 0": (
        lambda: vae(objective=BetaELBO(linear(-1.0, 1.0))), SettingError, "along its schedule",
        "at least 0",
    ),
    "beta below 0, relaxed": (
        lambda: discrete(objective=RelaxedELBO(0.5, beta=-2.0)), SettingError, "beta is -2.0",
        "at least 0",
    ),
    "reconstruction below 0": (
        lambda: vae(objective=BetaELBO(reconstruction=-1.0)), SettingError, "reconstruction is -1",
        "at least 0",
    ),
    "no particles": (
        lambda: vae(objective=ImportanceWeightedELBO(0)), SettingError, "particles=0", "whole number >= 1",
    ),
    "half a particle": (
        lambda: vae(objective=ImportanceWeightedELBO(0.5)), SettingError, "particles=0.5", "whole",  # type: ignore[arg-type]
    ),
    "a gradient of another name": (
        lambda: vae(objective=ImportanceWeightedELBO(5, "triply")), SettingError, "triply",  # type: ignore[arg-type]
        "'doubly'",
    ),
    "masking more than all": (
        lambda: vae(guide=AmortizedDelta(CorruptedEncoder(mlp((P, D)), masking(1.5)), D)),
        SettingError, "probability=1.5", r"\[0, 1\]",
    ),
    "salt without pepper": (lambda: salt_and_pepper(-0.1), SettingError, "-0.1", r"\[0, 1\]"),
    "noise below 0": (lambda: gaussian(-1.0), SettingError, "scale=-1.0", "from 0 on"),
    "a categorical guide and a gradient that it has not": (
        lambda: discrete(objective=BetaELBO()), GuideError, "no gradient", "use RelaxedELBO",
    ),
    "a normal guide to relax": (
        lambda: vae(objective=RelaxedELBO(0.5)), GuideError, "no one-hot|Normal", "OneHotCategorical",
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
    "a batch larger than the data": (
        lambda: vae(batch_size=N + 1), SettingError, f"batch_size={N + 1}", f"1 to {N}",
    ),
    "a batch of none": (lambda: vae(batch_size=0), SettingError, "batch_size=0", f"1 to {N}"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_names_cause_and_remedy(case: str) -> None:
    call, kind, cause, remedy = ERRORS[case]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert re.search(cause, message), message
    assert re.search(remedy, message), message
    assert len(message) < 700


# stated behaviours --------------------------------------------------------------------------------

BEHAVIOURS: dict[str, tuple[Tensor, dict[str, Any]]] = {
    "a data set of one row": (X[:1], {}),
    "a batch of one": (X, {"batch_size": 1}),
    "one image many times": (X[:1].expand(N, P), {}),
    "black images": (torch.zeros(N, P), {}),
    "white images": (torch.ones(N, P), {}),
    "grey images": (torch.full((N, P), 0.5), {}),
}


@every_pair
@pytest.mark.parametrize(
    "case",
    [name if name in ("a batch of one", "black images") else pytest.param(name, marks=pytest.mark.slow)
     for name in BEHAVIOURS],
)  # fmt: skip
def test_degenerate_images_are_fitted(pair: str, case: str) -> None:
    """Stated behaviour: a fit, everything finite."""
    x, settings = BEHAVIOURS[case]
    fit = fitted(pair, x, **settings)
    assert fit.status is not gb.Status.STOPPED_BY_NAN
    assert len(fit.history) == 30 and np.isfinite(fit.history).all()


@pytest.mark.parametrize("pair", ["autoencoder", "vae", "gaussian, one scale", "gumbel-softmax"])
@pytest.mark.parametrize("case", ["a data set of one row", "black images", "one image many times"])
def test_degenerate_images_are_never_trusted_as_they_are(pair: str, case: str) -> None:
    """Stated behaviour: a verdict; trust of a latent that says nothing is not given without the
    word that it collapsed, nor trust of a fit that still moves.
    """
    x, settings = BEHAVIOURS[case]
    x = x[:5]
    fit = fitted(pair, x, **settings)
    found = gb.compare({"q": fit})
    if found.verdicts["q"] is Verdict.TRUST:
        assert fit.status.good
        assert "ollapsed" in found.table.loc["q", "reason"]
    assert found.amortized["q"].latent_mean.shape[0] == len(x)


def test_images_and_rows_are_the_same_data() -> None:
    """Stated behaviour: (n, C, H, W) and its flattened rows give the same fit."""
    flat, shaped = (fitted("convolutional vae", x) for x in (X, X.reshape(N, *IMAGE)))
    np.testing.assert_array_equal(flat.history, shaped.history)
