"""Bad input to guides: sites, shapes, supports, the widths of encoders, settings."""

from collections.abc import Callable

import guidebook as gb
from guidebook.errors import GuideError, SettingError
from guidebook.guides import AmortizedNormal
from guidebook.guides.amortized.corruption import (
    CorruptedEncoder,
    gaussian,
    masking,
    salt_and_pepper,
)
from guidebook.guides.amortized.flow import AmortizedFlow
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.networks import mlp
from guidebook.models.mixture import GaussianMixture
from tests.bad_input.conftest import Bad
from tests.bad_input.given import (
    SCHOOLS,
    D,
    P,
    by_hand,
    categorical,
    discrete,
    fit,
    layers,
    normal,
    one_too_many,
    schools,
    vae,
    without_tau,
    wrong_shape,
    wrong_support,
)

ERRORS: dict[str, Bad] = {
    "without a site": (
        lambda: fit(guide=without_tau), GuideError, "no site for 'tau'", "same name",
    ),
    "with one too many": (
        lambda: fit(guide=one_too_many), GuideError, "'omega'", "not a latent site", "Remove",
    ),
    "of another shape": (
        lambda: fit(guide=wrong_shape), GuideError, r"'mu'.*\(3,\).*\(\)", "plates",
    ),
    "outside the support": (
        lambda: fit(guide=wrong_support), GuideError, "'tau'", "support", "LogNormal",
    ),
    "not the posterior": (
        lambda: gb.exact(schools, by_hand, SCHOOLS), GuideError, "not the posterior", "svi",
    ),
    "rank 0": (
        lambda: gb.guides.low_rank(schools, rank=0), GuideError, "rank must be at least 1",
    ),
    "a concentration without a mode, em": (
        lambda: MixtureMode(GaussianMixture(2, 2, concentration=0.5)), SettingError,
        "below 1", "give at least 1, or prior=False",
    ),
    "an encoder of another input width": (
        lambda: vae(guide=normal(inputs=P + 1)), GuideError, "shapes cannot be multiplied",
        r"run guide\(\*\*data\)",
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
    "other latents": (
        lambda: vae(guide=normal(3, 6)), GuideError, r"shape \(24, 3\), the model has \(24, 2\)",
        "same|Use",
    ),
    "no latents, normal": (
        lambda: vae(guide=normal(0, 2)), GuideError, "latent_dim=0", "at least 1",
    ),
    "no latents, code": (
        lambda: vae(guide=AmortizedDelta(mlp((P, 2)), 0)), GuideError, "latent_dim=0", "at least 1",
    ),
    "no latents, flow": (
        lambda: vae(guide=AmortizedFlow(mlp((P, 2)), 0)), GuideError, "latent_dim=0", "at least 1",
    ),
    "no categories": (
        lambda: discrete(guide=categorical(1, 0)), GuideError, "categories=0", "two categories",
    ),
    "one category": (
        lambda: discrete(guide=categorical(1, 1)), GuideError, "categories=1", "two categories",
    ),
    "masking more than all": (
        lambda: vae(guide=AmortizedDelta(CorruptedEncoder(mlp((P, D)), masking(1.5)), D)),
        SettingError, "probability=1.5", r"\[0, 1\]",
    ),
    "salt without pepper": (lambda: salt_and_pepper(-0.1), SettingError, "-0.1", r"\[0, 1\]"),
    "noise below 0": (lambda: gaussian(-1.0), SettingError, "scale=-1.0", "0 or a positive number"),
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)
