"""When mass beyond all draws counts against them, and the lower bound of the evidence it is held against."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.shells import Along, Shells
from guidebook.diagnostics.witnesses import beyond as room
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.beyond import gaussian_elbo, lower_bound
from tests.diagnostics.witnesses.basins_given import Line, subject, weighted_by

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


# what counts against the draws ---------------------------------------------------------------------

HIGH = math.log(1.2)


class Placed:
    """A density whose marginals are its two coordinates and their sum, in single precision."""

    dtype = torch.float32
    device = torch.device("cpu")
    asked: Any = None

    def values(self, u: Tensor) -> np.ndarray:
        self.asked = u.dtype
        found: np.ndarray = torch.cat([u, u.sum(-1, keepdim=True)], -1).numpy()
        return found


def told_of(**changes: Any) -> Subject:
    u = np.random.default_rng(0).standard_normal((50, 1, 2))
    facts: dict[str, Any] = {
        "values": np.concatenate([u, u.sum(-1, keepdims=True)], -1),
        "names": ["a", "b", "sum"],
        "coordinates": ["log a", "b"],
        "position": u,
        "density": Placed(),
        "discrete": np.zeros(3, bool),
        "tails": np.array([[1.0, 2.0, 1.5]]),
        "seed": 3,
    }
    return subject(np.zeros(50), None, **(facts | changes))


@pytest.fixture
def on_lines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the integrals find: nothing, until a test says so; and what they were asked."""
    found: dict[str, Any] = {"shells": None, "along": [], "marginals": {}, "asked": []}

    def along(log_p: Any, u: np.ndarray, seed: int, weights: Any) -> Any:
        found["asked"].append((u, seed, weights))
        return found["along"]

    def in_marginals(
        log_p: Any, marginals: Any, u: np.ndarray, own: np.ndarray, j: int, seed: int, weights: Any
    ) -> np.ndarray:
        ones = marginals(np.ones((4, 2)))
        np.testing.assert_array_equal(ones, np.tile([1.0, 1.0, 2.0], (4, 1)))
        np.testing.assert_array_equal(own[:, 2], u.sum(1))
        found["asked"].append((j, seed, weights))
        return np.array(found["marginals"][j])

    monkeypatch.setattr(room, "lower_bound", lambda *_: 10.0)
    monkeypatch.setattr(room, "shells", lambda log_p, u, seed: found["shells"])
    monkeypatch.setattr(room, "along", along)
    monkeypatch.setattr(room, "along_in_marginals", in_marginals)
    return found


@pytest.mark.parametrize(
    ("log_mass", "log_ratio", "error", "said"),
    [
        (9.05, -1.0, 0.0, True),
        (9.0, -1.0, 0.0, True),  # a nat below what the draws bound
        (8.95, -1.0, 0.0, False),
        (20.0, -1.0, 0.0, True),
        (10.0, -HIGH, 0.0, False),  # 20 % are within bounds
        (10.0, -HIGH - 0.01, 0.0, True),
        (10.0, -HIGH - 0.41, 0.1, True),  # two errors, twice as large by the heaviest tail
        (10.0, -HIGH - 0.39, 0.1, False),
    ],
)
def test_the_integral_along_random_lines_counts_where_it_can_be_used(
    log_mass: float, log_ratio: float, error: float, said: bool, on_lines: dict[str, Any]
) -> None:
    on_lines["shells"] = Shells(log_mass, 0.034, log_ratio, error)
    raw, weighted = room.beyond(told_of(), {})
    assert bool(raw) is said and raw == weighted
    if said:
        assert "3.4 % lies beyond" in raw
        assert f"by a factor of about {math.exp(-log_ratio):.3g}." in raw


def test_the_first_coordinate_that_harms_a_marginal_is_named(on_lines: dict[str, Any]) -> None:
    """The one that lacks most comes first; here what it lacks is near on the model's scale."""
    on_lines["along"] = [Along(1, 0.05, -1.5), Along(0, 0.01, -0.3)]
    on_lines["marginals"] = {1: [0.0, -0.1, -HIGH], 0: [0.0, -0.2, -0.5]}
    raw, weighted = room.beyond(told_of(), {})
    assert raw == weighted and "of log a given the others" in raw and "1 % lies beyond" in raw
    assert "the standard deviation of sum is too small by a factor of 1.65 or more." in raw
    (_, seed, weights), *marginals = on_lines["asked"]
    assert seed == 3 and weights is None and [one[0] for one in marginals] == [1, 0]
    on_lines["marginals"] = {1: [0.0, -HIGH - 1e-6, 0.0]}
    raw, _ = room.beyond(told_of(), {})
    assert (
        "of b given the others" in raw and "deviation of b is too small by a factor of 1.2" in raw
    )
    density = Placed()
    room.beyond(told_of(density=density), {})
    assert density.asked is torch.float32


@pytest.mark.parametrize(("far", "asked"), [(-HIGH, 1), (-HIGH - 1e-6, 2)])
def test_coordinates_within_bounds_are_not_looked_at(
    far: float, asked: int, on_lines: dict[str, Any]
) -> None:
    on_lines["along"] = [Along(0, 0.0, far), Along(1, 0.0, 0.0)]
    on_lines["marginals"] = {0: [0.0, 0.0, 0.0]}
    assert room.beyond(told_of(), {}) == ("", "")
    assert len(on_lines["asked"]) == asked


def test_raw_and_weighted_draws_are_asked_apart_and_moved_ones_only_with_weights(
    on_lines: dict[str, Any],
) -> None:
    weights = np.full(50, 0.02)
    heard = {importance.NAME: Testimony(importance.NAME, detail=[weighted_by(weights)])}
    assert room.beyond(told_of(), heard) == ("", "")
    assert [one[2] is None for one in on_lines["asked"]] == [True, False]
    np.testing.assert_array_equal(on_lines["asked"][1][2], weights)
    on_lines["asked"].clear()
    on_lines["along"] = [Along(1, 0.2, -1.0), Along(0, 0.0, 0.0)]
    on_lines["marginals"] = {1: [0.0, -1.0, 0.0]}
    raw, weighted = room.beyond(told_of(moved=True), heard)
    assert raw == "" and weighted
    assert [one[2] is None for one in on_lines["asked"]] == [False, False]


def test_weights_that_cannot_be_used_are_not_looked_at_again(on_lines: dict[str, Any]) -> None:
    told = Testimony(
        importance.NAME, detail=[weighted_by(np.full(50, 0.02))], against_weighted=["k-hat 0.9."]
    )
    on_lines["along"], on_lines["marginals"] = [Along(1, 0.2, -1.0)], {1: [0.0, -1.0, 0.0]}
    raw, weighted = room.beyond(told_of(), {importance.NAME: told})
    assert raw and raw == weighted
    assert [one[2] is None for one in on_lines["asked"]] == [True, True]


def test_where_no_lines_are_looked_along(on_lines: dict[str, Any]) -> None:
    """One position at a time is too dear; other labellings lie on the lines."""
    on_lines["shells"] = Shells(10.0, 0.5, -1.0, 0.0)
    assert room.beyond(told_of(density=None), {}) == ("", "")

    class Exchangeable(Line):
        model = Story()

    assert room.beyond(told_of(potential=Exchangeable()), {}) == ("", "")
    assert room.beyond(told_of(), {})[0]
