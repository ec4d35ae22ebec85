"""Which mode is named, where it lies, and what to do about it: by the symmetry between the two."""

from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.numerics.modes import Mode
from guidebook.diagnostics.witnesses import modes as room
from tests.diagnostics.witnesses.basins_given import NONE, subject


@pytest.mark.parametrize(
    ("expected", "shares", "means", "chosen"),
    [
        ([0.5, 0.5], [1.0, 0.0], [[0.0], [9.0]], (1, 0)),
        ([0.5, 0.5], [0.4, 0.6], [[0.0], [9.0]], (0, 1)),
        ([0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [[0.0], [1.0], [9.0]], (2, 0)),  # nearer, and more off
        ([0.5, 0.3, 0.2], [0.9, 0.0, 0.1], [[0.0], [9.0], [9.0]], (1, 0)),
        ([0.4, 0.1, 0.5], [0.5, 0.4, 0.1], [[0.0], [3.0], [3.0]], (2, 0)),
        ([0.4, 0.5, 0.1], [0.5, 0.1, 0.4], [[5.0, 0], [5.0, 3.0], [9.0, 0]], (2, 0)),
        (
            [0.4, 0.05, 0.55],
            [0.5, 0.45, 0.05],
            [[-9.0], [9.0], [-8.0]],
            (1, 0),
        ),  # too many, far away
        # off by 0.36 at no distance, and by 0.09 at two standard deviations: 0.09 * (1 + 2^2) is more
        ([0.1, 0.4, 0.5], [0.55, 0.04, 0.41], [[0.0], [0.0], [9.0]], (2, 0)),
        # five hundred times the unit of the other column is less of its standard deviations
        ([0.4, 0.5, 0.1], [0.6, 0.4, 0.0], [[0.0, 0.0], [500.0, 0.0], [0.0, 9.0]], (2, 0)),
    ],
)
def test_the_most_harmful_basin_besides_that_of_most_draws(
    expected: list[float], shares: list[float], means: Any, chosen: tuple[int, int]
) -> None:
    for unit in (1.0, -1.0, 1e-3, 1e3):
        found = room._worst(np.array(expected), np.array(shares), unit * np.array(means))
        assert found == chosen


def test_a_place_is_named_by_the_three_marginals_that_are_farthest() -> None:
    names = ["a", "b", "c", "d", "e"]
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1000, 1, 5)) * np.array([1.0, 10.0, 0.1, 1.0, 1.0])
    given = subject(np.zeros(1000), NONE, names=names, values=values)
    means = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, -39.0, 1.2, 6.0, 4.0]])
    expected, shares = np.array([0.5, 0.5]), np.array([0.875, 0.125])
    said = room._described(given, expected, shares, means)
    assert said.startswith("the mode at d = 6, b = -39, e = 4 should hold")  # 5, 4, 3 and 2 sds off
    assert "about 50 % of the posterior mass and holds 12.5 % of the draws" in said
    same = np.array([[1.0] * 5, [1.0, 1.0, 1.0, 6.0, 1.0]])
    assert "the mode at d = 6 should" in room._described(given, expected, shares, same)
    near = np.array([[1.0] * 5, [1.0, 1.0, 1.35, 1.0, 1.5]])  # 3.5 and 0.5 sds off
    assert "at c = 1.35, e = 1.5 should" in room._described(given, expected, shares, near)


def two_of(one: Mode, other: Mode) -> str:
    nothing = np.zeros(0)
    found = Basins([[one], [other]], *([nothing] * 2), np.zeros((0, 2)), *([nothing] * 3))
    u = np.zeros((10, 1, 2))
    given = subject(
        np.zeros(10), found, names=["a", "b"], coordinates=["a", "b"], values=u, position=u
    )
    means = np.array([one.center, other.center])
    return room._remedy(given, found, np.array([1.0, 0.0]), np.array([0.5, 0.5]), means)


@pytest.mark.parametrize("factor", [np.array([2.0, 2.0]), np.array([[2.0, 0.0], [1.2, 1.6]])])
@pytest.mark.parametrize(
    ("off", "alike"), [(0.39, True), (0.41, False), (-0.39, True), (-0.41, False)]
)
def test_an_image_lies_within_a_fifth_of_a_standard_deviation(
    factor: np.ndarray, off: float, alike: bool
) -> None:
    """Of 2, in both coordinates."""
    one = Mode(np.array([9.0, -7.0]), factor, 0.0)
    sign = two_of(one, Mode(np.array([-9.0, 7.0 + off]), factor, 0.19))
    order = two_of(one, Mode(np.array([-7.0 + off, 9.0]), factor, -0.19))
    assert ("signs of a, b" in sign) is alike and ("another order" in order) is alike
    heavier = two_of(one, Mode(np.array([-9.0, 7.0]), factor, 0.21))
    assert "hold several modes" in heavier
    assert "hold several modes" in two_of(one, Mode(one.center + 0.1, factor, 0.0))  # nothing moved


def test_a_fifth_of_a_standard_deviation_is_too_far_and_the_smallest_decides() -> None:
    five = np.array([5.0, 5.0])
    one = Mode(np.array([50.0, -30.0]), five, 0.0)
    for other in ([-49.0, 30.0], [-30.0, 49.0]):
        assert "hold several modes" in two_of(one, Mode(np.array(other), five, 0.0))
    for sd, order in ((np.array([5.0, 10.0]), False), (np.array([10.0, 10.0]), True)):
        one, other = (Mode(np.array(c), sd, 0.0) for c in ([50.0, -30.0], [-30.0, 48.5]))
        assert ("another order" in two_of(one, other)) is order


# what to do ----------------------------------------------------------------------------------------


def remedy(one: list[float], other: list[float], log_mass: float = 0.0) -> str:
    modes = [Mode(np.array(one), np.eye(3), 0.0), Mode(np.array(other), np.eye(3), log_mass)]
    nothing = np.zeros(0)
    found = Basins([[m] for m in modes], *([nothing] * 2), np.zeros((0, 3)), *([nothing] * 3))
    u = np.zeros((10, 1, 3))
    given = subject(
        np.zeros(10), found, names=["a[0]", "a[1]", "b"], coordinates=["a[0]", "a[1]", "b"],
        values=u, position=u,
    )  # fmt: skip
    means = np.array([one, other])
    return room._remedy(given, found, np.array([1.0, 0.0]), np.array([0.5, 0.5]), means)


def test_the_remedy_follows_the_symmetry() -> None:
    assert "signs of a reversed" in remedy([5.0, -3.0, 1.0], [-5.0, 3.0, 1.0])
    assert "signs of a, b reversed" in remedy([5.0, -3.0, 2.0], [-5.0, 3.0, -2.0])
    # a standard deviation of 1 has not moved
    assert "signs of a reversed" in remedy([5.0, -3.0, 1.0], [-5.0, 3.0, 2.0])
    assert "components of a in another order" in remedy([5.0, -3.0, 1.0], [-3.0, 5.0, 1.0])
    for one, other, mass in (
        ([5.0, -3.0, 1.0], [-5.0, 3.0, 1.0], 0.3),  # not as heavy
        ([5.0, -3.0, 1.0], [-4.5, 3.0, 1.0], 0.0),  # no image
        ([5.0, 2.0, 1.0], [9.0, 2.0, 1.0], 0.0),
        ([5.0, -3.0, 1.0], [-5.0, 3.0, 1.0], 0.2),  # two tenths of a nat are too many
        ([5.0, -3.0, 1.0], [-3.0, 5.0, 1.0], -0.2),
    ):
        assert "hold several modes" in remedy(one, other, mass)
