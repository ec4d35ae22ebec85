"""The lower bound of the evidence that mass beyond the draws is held against."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.witnesses import beyond as room
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.beyond import gaussian_elbo, lower_bound
from tests.diagnostics.witnesses.basins_given import subject

# the evidence --------------------------------------------------------------------------------------


class Story:
    """Three components that can change places."""

    K = 3

    def canonical_order(self) -> None: ...


class StandardNormal:
    """N(0, I), normalised."""

    dtype = torch.float64
    device = torch.device("cpu")
    vectorised = True
    model: object = None

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1), -u


def test_the_bound_of_the_gaussian_with_the_moments_of_the_draws() -> None:
    """0 where they are those of the density (variances with S - 1), plus log K!; none without a spread."""
    density: Any = StandardNormal()
    half = math.sqrt(0.5)
    assert gaussian_elbo(density, np.array([[half], [-half]])) == pytest.approx(0.0, abs=1e-12)
    square = math.sqrt(0.75) * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert gaussian_elbo(density, square) == pytest.approx(0.0, abs=1e-12)
    assert gaussian_elbo(density, square + np.array([0.5, 0.0])) == pytest.approx(-0.125, abs=0.02)
    density.model = Story()
    assert gaussian_elbo(density, square) == pytest.approx(math.log(6), abs=1e-12)
    assert gaussian_elbo(density, np.ones((5, 2))) == -math.inf


@pytest.mark.parametrize(
    ("numbers", "bound"),
    [
        (None, -8.0),
        ({}, -8.0),
        ({"elbo": -5.0, "log_evidence": -3.0, "khat": 0.49}, -3.0),
        ({"elbo": -5.0, "log_evidence": -3.0, "khat": 0.5}, -5.0),  # 1 - 1 / log10 100
        ({"elbo": -5.0, "log_evidence": -3.0, "khat": 0.51}, -5.0),
        ({"elbo": -5.0, "log_evidence": -3.0}, -5.0),
        ({"elbo": -9.0, "log_evidence": -9.0, "khat": 0.1}, -8.0),
        ({"elbo": math.nan, "log_evidence": -3.0, "khat": 0.1}, -8.0),
        ({"elbo": -math.inf, "log_evidence": -3.0, "khat": 0.1}, -8.0),
        ({"log_evidence": -3.0, "khat": 0.1}, -8.0),
    ],
)
def test_the_lower_bound_of_the_evidence(
    numbers: dict[str, float] | None, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger of the Gaussian's, -8 here, and of the evidence where the weights are usable, else of
    the ELBO.
    """
    monkeypatch.setattr(room, "gaussian_elbo", lambda potential, u: -8.0 if u.ndim == 2 else 0.0)
    heard = {}
    if numbers is not None:
        given = {name: np.array([value]) for name, value in numbers.items()}
        heard = {importance.NAME: Testimony(importance.NAME, numbers=given)}
    given = subject(np.arange(100.0), None)
    assert lower_bound(given, heard) == bound


def test_the_bound_is_computed_in_the_precision_of_the_model() -> None:
    class Single(StandardNormal):
        dtype = torch.float32
        asked: Any = None

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            self.asked = u.dtype
            return super().value_and_grad(u)

    density: Any = Single()
    half = math.sqrt(0.5)
    assert gaussian_elbo(density, np.array([[half], [-half]])) == pytest.approx(0.0, abs=1e-6)
    assert density.asked is torch.float32
