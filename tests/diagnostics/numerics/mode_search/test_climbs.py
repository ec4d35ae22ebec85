"""Where the search for modes starts, how often a mode is reached, and which are kept."""

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from guidebook.diagnostics.numerics import modes as room
from guidebook.diagnostics.numerics.modes import Mode
from guidebook.programs.start.gaussian import Start

AWAY = np.array([8.0, 0.0])


def test_distances_are_in_the_modes_own_standard_deviations() -> None:
    full = Mode(AWAY, np.array([[2.0, 0.0], [1.0, 3.0]]), 0.0)
    u = AWAY + np.array([[2.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(full.distance(u), [1.0, 1.0, 0.0])
    diagonal = Mode(AWAY, np.array([2.0, 3.0]), 0.0)
    np.testing.assert_allclose(diagonal.distance(AWAY + np.array([[2.0, 3.0]])), [math.sqrt(2)])


class Searched:
    """What the search asks of a potential but its density."""

    model = None
    vectorised = False

    def __init__(self, cost: int, dimension: int = 20_000) -> None:
        self.cost, self.dimension = cost, dimension
        self.asked: list[tuple[int, int]] = []

    def prior_positions(self, count: int, seed: int) -> np.ndarray:
        self.asked.append((count, seed))
        return np.arange(count)[:, None] * np.ones(self.dimension)


@pytest.mark.parametrize(
    ("cost", "starts"), [(1, 36), (10**9, 4), (333_333, 15), (277_777, 18), (499_999, 10)]
)
def test_where_the_search_starts(cost: int, starts: int) -> None:
    """4e8 numbers, 80 gradients a start: from 4 to 36 starts. A third of them at 3, 6, 12 and 25
    standard deviations from the mean of the draws (root mean square over coordinates), a third around
    the origin at 2 and 5 (20,000 coordinates: within 3 % is four standard errors and more), a third
    from the prior.
    """
    potential, third = Searched(cost), starts // 3
    middle, spread = np.linspace(-3, 3, 20_000), np.linspace(0.1, 2, 20_000)
    u = np.stack([middle + spread, middle - spread] * 3)
    found = room._starts(potential, u, np.random.default_rng(0))  # type: ignore[arg-type]
    assert found.shape == (4 + 3 * third, 20_000)
    np.testing.assert_array_equal(found[:4], u[:4])
    around, origin, prior = found[4:].reshape(third, 3, -1).swapaxes(0, 1)  # in turn
    distance = np.sqrt(np.square((around - middle) / spread).mean(1))
    np.testing.assert_allclose(distance, np.tile([3.0, 6.0, 12.0, 25.0], 3)[:third])
    scale = np.sqrt(np.square(origin).mean(1))
    np.testing.assert_allclose(scale, np.tile([2.0, 5.0], 6)[:third], rtol=0.03)
    np.testing.assert_array_equal(prior[:, 0], np.arange(third))
    ((count, seed),) = potential.asked
    assert count == starts and 0 <= seed < 2**31

    # after a search, at another scale: what does not depend on the draws is left out
    again = room._starts(potential, u, np.random.default_rng(0), everywhere=False)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again, np.concatenate([u[:4], around]))
    assert len(potential.asked) == 1


class Climbing:
    """A climb ends one to the right of its start; `tops` are the modes' log masses, by their place."""

    tops: ClassVar[dict[float, float]] = {}
    iterations: ClassVar[set[int]] = set()
    climbed: ClassVar[list[float]] = []

    def __init__(self, potential: object) -> None:
        self.potential = potential

    def from_point(
        self, point: np.ndarray, iterations: int, metric: np.ndarray, until: Any
    ) -> list[np.ndarray]:
        self.iterations.add(iterations)
        self.climbed.append(float(metric[0]))
        return [point, point + 5.0, point + 1.0]

    def mode_at(self, point: np.ndarray) -> Start | None:
        place = float(point[0])
        if place not in self.tops:
            return None
        center = torch.tensor([place], dtype=torch.float64)
        return Start(center, torch.full((1,), 2.0), self.tops[place], mode=True)


def test_how_many_climbs_reach_a_known_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one of its standard deviations, here 2; a climb that finds no mode reaches none."""
    monkeypatch.setattr(room, "Climb", Climbing)
    monkeypatch.setattr(Climbing, "tops", {1.0: -1.0, 5.9: -1.0, 6.1: -1.0})
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: u)
    known = [
        Mode(np.array([4.0]), np.array([2.0]), 0.0),
        Mode(np.array([-3.0]), np.array([2.0]), 0.0),
    ]
    u = np.array([[0.0], [4.9], [5.1], [9.0]])
    assert room.reached(Searched(1), known, u) == 0.25  # type: ignore[arg-type]
    known[1] = Mode(np.array([0.0]), np.array([2.0]), 0.0)
    assert room.reached(Searched(1), known, u) == 0.5  # type: ignore[arg-type]


class Story:
    """Three components that can change places."""

    K = 3

    def canonical_order(self) -> None: ...


def test_modes_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one counts from a distance of 1 standard deviation, here 2, of every other on; no
    mode, and one without a finite mass, are passed by. Masses are those of all K! labellings.
    """
    tops = {0.0: -4.0, 50.0: math.inf, 1.9: -4.0, 2.0: -5.0, 9.0: -6.0, 3.5: -4.0}
    starts = np.array([70.0, *tops])[:, None] - 1.0
    monkeypatch.setattr(room, "Climb", Climbing)
    monkeypatch.setattr(Climbing, "climbed", [])
    monkeypatch.setattr(Climbing, "tops", tops)
    monkeypatch.setattr(room, "_starts", lambda *_: starts[:3])
    monkeypatch.setattr(room, "line_starts", lambda *_: starts[3:5])
    monkeypatch.setattr(room, "random_line_starts", lambda *_: starts[5:])
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: u)
    potential = Searched(1)
    potential.model = Story()  # type: ignore[assignment]
    u = np.array([[0.0], [1.0]])
    found = room.find_modes(potential, u)  # type: ignore[arg-type]
    assert [float(mode.center[0]) for mode in found] == [0.0, 2.0, 9.0]
    constant = 0.5 * math.log(2 * math.pi) + math.log(2.0) + math.log(6)
    np.testing.assert_allclose([m.log_mass - constant for m in found], [-4.0, -5.0, -6.0])
    assert all(mode.factor.tolist() == [2.0] for mode in found)
    assert Climbing.iterations == {60}
    # a tenth of the sd of the draws, 0.5, until there is a mode, whose sd is 2; 1.9 and 3.5 need no climb
    np.testing.assert_allclose(Climbing.climbed, [0.05, 0.05, 0.2, 0.2, 0.2])


def test_a_density_without_a_maximum_is_left_after_ten_climbs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "Climb", Climbing)
    monkeypatch.setattr(Climbing, "climbed", [])
    monkeypatch.setattr(Climbing, "tops", {13.0: 0.0})
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: u)
    for lines in ("line_starts", "random_line_starts"):
        monkeypatch.setattr(room, lines, lambda *_: np.zeros((0, 1)))
    for place, found, climbs in ((9, 1, 10), (10, 0, 10)):
        starts = np.zeros((12, 1))
        starts[place] = 12.0
        monkeypatch.setattr(room, "_starts", lambda *_, starts=starts: starts.copy())
        Climbing.climbed.clear()
        u = np.array([[0.0], [10.0]])
        assert len(room.find_modes(Searched(1), u)) == found  # type: ignore[arg-type]
        assert len(Climbing.climbed) == climbs + 2 * found


class Surface:
    """N(0, I) and, 8 away along the first axis, a narrow one, sd 0.05, of the same height."""

    vectorised, dtype, device = True, torch.float64, torch.device("cpu")

    def value_and_grad(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        away = u - torch.tensor([8.0, 0.0], dtype=u.dtype)
        logs = torch.stack([-0.5 * u.square().sum(1), -200.0 * away.square().sum(1)])
        share = logs.softmax(0)[..., None]
        slope = -share[0] * u - 400.0 * share[1] * away
        return torch.where(u[:, 1] < 50, logs.logsumexp(0), torch.nan), slope


def test_starts_ascend_together_to_the_mode_above_them() -> None:
    """From 25 sds away in steps of 3 a coordinate; in the narrow basin to the narrow mode."""
    starts = np.array([[-25.0, 25.0], [8.02, 0.03], [3.0, -1.0], [0.0, 60.0]])
    surface: Any = Surface()
    moved = room._ascended(surface, starts, np.eye(2))
    np.testing.assert_allclose(moved[:3], [[0, 0], [8, 0], [0, 0]], atol=0.03)
    np.testing.assert_array_equal(moved[3], starts[3])  # no density there: it stays
    np.testing.assert_allclose(room._ascended(surface, starts[:1], np.ones(2)), 0, atol=0.03)


def test_starts_stay_where_they_cannot_be_moved_together() -> None:
    class Failing(Surface):
        def value_and_grad(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            raise RuntimeError("linalg.cholesky: not positive definite")

    starts = np.ones((3, 2))
    for surface in (Failing(), SimpleNamespace(vectorised=False)):
        given: Any = surface
        np.testing.assert_array_equal(room._ascended(given, starts, np.eye(2)), starts)


def test_a_mode_is_that_of_the_ordered_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The climb is asked for its copy; where it has none the mode stays as it is."""
    monkeypatch.setattr(Climbing, "tops", {3.0: -1.0, -3.0: -2.0, 4.0: -3.0})
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: -u)
    climb = Climbing(None)
    for place, kept in ((3.0, -3.0), (4.0, 4.0)):
        top = climb.mode_at(np.array([place]))
        assert top is not None
        assert float(room._labelled(climb, top).center) == kept  # type: ignore[arg-type]


def test_modes_are_held_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model may compute in single precision."""
    one = torch.ones(1, dtype=torch.float32)
    mode = room._as_mode(Start(3 * one, 2 * one, -1.0, mode=True), 0.0)
    assert mode.center.dtype == mode.factor.dtype == np.float64
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: -u)
    asked: list[Any] = []
    climb: Any = SimpleNamespace(potential=None, mode_at=asked.append)
    room._labelled(climb, Start(3 * one, 2 * one, -1.0, mode=True))
    assert asked[0].dtype == np.float64


def test_the_volume_of_a_mode_is_that_of_its_factor() -> None:
    full = Mode(AWAY, np.array([[2.0, 0.0], [1.0, 3.0]]), 0.0)
    diagonal = Mode(AWAY, np.array([2.0, 3.0]), 0.0)
    assert full.log_volume == diagonal.log_volume == pytest.approx(math.log(6))


def test_a_mode_a_whole_standard_deviation_away_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "Climb", Climbing)
    monkeypatch.setattr(Climbing, "tops", {6.0: -1.0})
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: u)
    known = [Mode(np.array([4.0]), np.array([2.0]), 0.0)]
    assert room.reached(Searched(1), known, np.array([[5.0]])) == 0.0  # type: ignore[arg-type]


def test_a_mode_within_a_standard_deviation_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A climb that ends at 2.1 has come to the mode at 4 of standard deviation 2; a start at 4.95, within
    half of it, needs no climb.
    """
    monkeypatch.setattr(room, "Climb", Climbing)
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: u)
    known = [Mode(np.array([4.0]), np.array([2.0]), 0.0)]
    monkeypatch.setattr(Climbing, "tops", {2.1: -1.0})
    assert room.reached(Searched(1), known, np.array([[1.1]])) == 1.0  # type: ignore[arg-type]
    monkeypatch.setattr(room, "_starts", lambda *_: np.array([[1.1]]))
    for lines in ("line_starts", "random_line_starts"):
        monkeypatch.setattr(room, lines, lambda *_: np.zeros((0, 1)))
    monkeypatch.setattr(room, "_ascended", lambda potential, starts, factor: starts)
    u = np.array([[0.0], [1.0]])
    assert room.find_modes(Searched(1), u, known=known) == known  # type: ignore[arg-type]
    monkeypatch.setattr(Climbing, "tops", {})
    assert room.reached(Searched(1), known, np.array([[4.95]])) == 1.0  # type: ignore[arg-type]
