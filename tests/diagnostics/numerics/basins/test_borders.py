"""Which modes are one basin, where its border lies, and what was visited."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from guidebook.diagnostics.numerics import basins as room
from guidebook.diagnostics.numerics.basins import Basins, basins_of, nearest
from guidebook.diagnostics.numerics.modes import Mode
from tests.diagnostics.numerics.basins.bumps import Bumps, found, two


def test_bumps_without_a_valley_are_one_basin() -> None:
    assert len(found(two(2, 1.5, 0.5))) == 1  # equal normals within two standard deviations: no dip
    assert len(found(two(2, 8.0, 0.5))) == 2
    near = Bumps([[0.0], [2.9], [30.0]], [1, 1, 1], [0.4, 0.3, 0.3])  # a dip of less than a nat
    basins = found(near)
    assert sorted(len(group) for group in basins.modes) == [1, 2]
    assert basins.log_mass.max() == pytest.approx(math.log(0.7), abs=0.1)
    pair = next(group for group in basins.modes if len(group) == 2)
    assert pair[0].log_mass > pair[1].log_mass


@pytest.mark.parametrize(("distance", "count"), [(3.66, 1), (3.70, 2)])
def test_a_valley_is_one_nat_deep(distance: float, count: int) -> None:
    """Half way between two equal bumps log p lies d^2 / 8 - log 2 below their tops: 1 at d = 3.68."""
    one, other = two(1, distance, 0.5).modes
    assert room._valley_between(two(1, distance, 0.5), one, other) is (count == 2)  # type: ignore[arg-type]


def test_positions_belong_to_the_basin_of_highest_density() -> None:
    """Between a narrow and a wide normal the border is where their densities are equal."""
    narrow, wide = Mode(np.zeros(1), np.eye(1), 5.0), Mode(np.full(1, 10.0), 3 * np.eye(1), -5.0)
    u = np.linspace(-20, 30, 501)[:, None]
    heights = [stats.norm(0, 1).logpdf(u[:, 0]), stats.norm(10, 3).logpdf(u[:, 0])]
    np.testing.assert_array_equal(nearest([narrow, wide], u), np.argmax(heights, axis=0))
    other = Mode(np.full(1, 1.0), np.eye(1), 0.0)
    nothing = np.zeros(0)
    basins = Basins([[narrow, other], [wide]], *([nothing] * 2), u, *([nothing] * 3))
    assert basins.of(np.array([[0.0], [1.1], [11.0]])).tolist() == [0, 0, 1]


def test_a_model_that_cannot_be_vectorised_is_asked_for_fewer() -> None:
    density = two(1, 8.0, 0.5)
    density.vectorised = False
    assert len(found(density).u) == 400
    assert len(found(two(1, 8.0, 0.5)).u) == 2000


@pytest.mark.parametrize(("inside", "several"), [(50, True), (49, False)])
def test_a_basin_with_a_twentieth_of_the_draws_is_visited(inside: int, several: bool) -> None:
    one, other = two(1, 20.0, 0.5).modes
    nothing = np.zeros(0)
    basins = Basins([[one], [other]], *([nothing] * 2), np.zeros((0, 1)), *([nothing] * 3))
    u = np.concatenate([np.zeros(1000 - inside), np.full(inside, 20.0)])[:, None]
    place = room.visited(basins, u)
    assert (place is not None) is several
    if place is not None:
        assert place.tolist() == [0] * 950 + [1] * 50
    three = Basins([[one], [Mode(np.full(1, -20.0), np.eye(1), 0.0)], [other]],
                   *([nothing] * 2), np.zeros((0, 1)), *([nothing] * 3))  # fmt: skip
    place = room.visited(three, u)  # none in the second
    assert (place is not None) is several and (place is None or set(place) == {0, 2})
    assert room.visited(None, u) is None
    assert room.visited(Basins([[one]], *([nothing] * 6)), u) is None


# every number by itself --------------------------------------------------------------------------


def test_the_border_is_where_two_normals_are_equal() -> None:
    narrow, wide = Mode(np.zeros(1), np.eye(1), 0.0), Mode(np.full(1, 10.0), 3 * np.eye(1), 0.0)
    u = np.linspace(2, 3, 10_001)[:, None]
    heights = [stats.norm(0, 1).logpdf(u[:, 0]), stats.norm(10, 3).logpdf(u[:, 0])]
    np.testing.assert_array_equal(nearest([narrow, wide], u), np.argmax(heights, axis=0))


@pytest.mark.parametrize(
    ("far", "log_mass", "first"),
    [
        # draws around (100, 0) with standard deviations 3 and 0.5: log(1 + 3^2 + 2^2) = 2.639
        ([109.0, 1.0], -2.62, True),
        ([109.0, 1.0], -2.66, False),
        ([91.0, -1.0], -2.62, True),
        ([91.0, -1.0], -2.66, False),
    ],
)
def test_which_mode_can_do_most_harm(
    far: list[float], log_mass: float, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_MODES", 1)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((50, 2))
    u = np.array([100.0, 0.0]) + np.array([3.0, 0.5]) * (u - u.mean(0)) / u.std(0)
    home, other = (
        Mode(np.array([100.0, 0.0]), np.eye(2), 0.0),
        Mode(np.array(far), np.eye(2), log_mass),
    )
    density = two(2, 8.0, 0.5)
    basins = basins_of(density, [home, other], u)  # type: ignore[arg-type]
    assert (basins.modes[0][0] is other) is first and len(basins.modes) == 1


def test_a_chain_of_bumps_is_one_basin_in_any_order() -> None:
    """The ends of three in a row have a valley between them, and the middle one has to neither."""
    for masses in ([0.4, 0.35, 0.25], [0.4, 0.25, 0.35], [0.25, 0.4, 0.35]):
        basins = found(Bumps([[0.0], [3.0], [6.0]], [1, 1, 1], masses))
        assert [len(group) for group in basins.modes] == [3]
        assert basins.log_mass[0] == pytest.approx(0.0, abs=0.1)


def test_bumps_around_a_corner_are_one_basin_in_any_order() -> None:
    """The straight path between the ends of an L dips by 1.1 nats, those to the corner by 0.4."""
    density: Any = Bumps([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]], [1, 1, 1], [0.35, 0.33, 0.32])
    one, corner, other = density.modes
    assert room._valley_between(density, other, one)
    for order in itertools.permutations((one, corner, other)):
        (group,) = room._joined(density, order)
        assert group == [one, corner, other]  # the heaviest first


def test_a_mode_that_joins_one_of_several_basins_leaves_the_others() -> None:
    """In the plane, in every order of the masses."""
    places = [[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [0.0, 1.5]]
    for masses in ([0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]):
        basins = found(Bumps(places, [1] * 4, masses))
        assert sorted(len(group) for group in basins.modes) == [1, 1, 2]
        pair = next(group for group in basins.modes if len(group) == 2)
        assert pair[0].log_mass > pair[1].log_mass
        assert {tuple(mode.center) for mode in pair} == {(0.0, 0.0), (0.0, 1.5)}


class Table:
    """A density on the line from 0 to 40, of whole numbers."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, **heights: float) -> None:
        self.table = torch.zeros(41, dtype=torch.float64)
        for place, height in heights.items():
            self.table[int(place[1:])] = height
        self.asked = torch.zeros(0)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked = u[:, 0]
        return self.table[u[:, 0].round().long()], torch.zeros(len(u), dtype=torch.float64)


@pytest.mark.parametrize(
    ("heights", "valley"),
    [
        ({"_20": -1.0}, False),
        ({"_20": -1.0001}, True),
        ({"_20": -0.5, "_0": 3.0}, False),  # below the lower of the two ends
        ({"_20": -0.5, "_40": 3.0}, False),
        ({"_20": -1.5, "_0": -0.6}, False),
        ({"_20": -1.5, "_40": -0.6}, False),
        ({"_20": -1.5, "_0": -0.4}, True),
        ({"_20": -1.5, "_40": -0.4}, True),
        ({"_0": 3.0, "_40": 2.0}, True),
        ({"_20": -math.inf}, True),
        ({"_20": 5.0}, False),
    ],
)
def test_a_valley_lies_a_nat_below_both_modes(heights: dict[str, float], valley: bool) -> None:
    table: Any = Table(**heights)
    ends = Mode(np.zeros(1), np.eye(1), 0.0), Mode(np.full(1, 40.0), np.eye(1), 0.0)
    assert room._valley_between(table, *ends) is valley
    np.testing.assert_allclose(table.asked.numpy(), np.arange(41.0), atol=1e-9)
