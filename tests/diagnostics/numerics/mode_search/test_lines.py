"""Bumps along the coordinates and along random lines, from which the search for modes starts too."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from guidebook.diagnostics.numerics import modes as room


class OnLines:
    """A wide normal and a narrow one, far along the second of three coordinates."""

    dtype = torch.float64
    device = torch.device("cpu")
    vectorised, cost = True, 1

    def __init__(self, place: float = 10.0, dip: float = 1e9) -> None:
        self.place, self.dip, self.asked = place, dip, 0

    def prior_positions(self, count: int, seed: int) -> np.ndarray:
        assert count == 64
        return np.random.default_rng(seed).normal(0, 100, (count, 3))

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += len(u)
        there = torch.tensor([0.0, self.place, 0.0], dtype=u.dtype)
        wide = -0.5 * u.square().sum(-1)
        narrow = -0.5 * ((u - there) / 0.3).square().sum(-1) - 2.0
        return torch.maximum(torch.logaddexp(wide, narrow), torch.tensor(-self.dip)), 0 * wide


@pytest.mark.parametrize("place", [6.0, 10.0, 50.0, -150.0])
def test_a_narrow_mode_along_a_coordinate_is_a_bump(place: float) -> None:
    """150 is beyond sixty standard deviations of the draws, and within the prior's reach."""
    u = np.random.default_rng(0).standard_normal((200, 3))
    found = room.line_starts(OnLines(place), u, 0)  # type: ignore[arg-type]
    assert len(found) >= 1
    best = found[np.abs(found[:, 1] - place).argmin()]
    assert abs(best[1] - place) < 3.0
    np.testing.assert_allclose(best[[0, 2]], u.mean(0)[[0, 2]])


def test_without_a_second_bump_there_is_no_start() -> None:
    u = np.random.default_rng(0).standard_normal((200, 3))
    alone = room.line_starts(OnLines(0.0), u, 0)  # type: ignore[arg-type]
    assert alone.shape == (0, 3)
    shallow = room.line_starts(OnLines(6.0, dip=2.3), u, 0)  # type: ignore[arg-type]
    assert shallow.shape == (0, 3)  # from -2 down to -2.3 only


def test_lines_are_left_out_where_they_are_dear() -> None:
    u = np.zeros((10, 3))
    for cost, vectorised, asked in ((20_703_933, True, 0), (20_703_934, True, 0), (1, False, 0)):
        density = OnLines()
        density.cost, density.vectorised = cost, vectorised
        found = room.line_starts(density, u, 0)  # type: ignore[arg-type]
        limit = 1e10 / cost < 3 * 161
        assert (density.asked == asked) is (limit or not vectorised)
        assert density.asked or found.shape == (0, 3)
    just: Any = OnLines()
    just.cost = 1e10 / 483  # three lines of 161 points cost exactly as much as they may
    room.line_starts(just, u, 0)
    assert just.asked == 3 * (161 + 80)


@pytest.mark.parametrize(
    ("height", "bumps"),
    [
        ([0.0, 1.0, 2.0, 1.0, 0.0], []),  # the middle itself
        ([0.0, 1.0, 0.4, 2.0, 1.0, 0.0, 0.6, 0.0], [1, 6]),
        ([0.0, 1.0, 0.51, 2.0, 1.0, 0.0, 0.49, 0.0], []),  # half a nat is no dip
        ([-np.inf, -np.inf, -np.inf, 2.0, -np.inf, 1.0, -np.inf, -np.inf], [5]),
        ([5.0, 1.0, 0.0, 2.0, 1.0, 0.0, -1.0, 3.0], []),  # ends are no maxima
    ],
)
def test_bumps_have_a_dip_before_them(height: list[float], bumps: list[int]) -> None:
    steps = np.arange(len(height)) - (2.0 if len(height) == 5 else 3.0)
    assert room._bumps(steps, np.array(height)) == bumps


class Waves(OnLines):
    """Along every coordinate many bumps, each lower than the one before; remembers what was asked."""

    points = torch.zeros(0)

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.points = u
        value = 5 * torch.cos(u).sum(-1) - 0.01 * u.square().sum(-1)
        return value, torch.zeros_like(value)


def test_along_each_coordinate_the_draws_and_the_prior_say_where_to_look() -> None:
    """To 60 standard deviations of the draws, closer near them, and over the range of 64 prior draws."""
    density = Waves()
    middle, spread = np.array([5.0, -3.0, 40.0]), np.array([2.0, 0.1, 30.0])
    u = middle + spread * np.array([[1.0], [-1.0]])
    room.line_starts(density, u, 3)  # type: ignore[arg-type]
    points = density.points.numpy().reshape(3, 241, 3)
    prior = density.prior_positions(64, 3)
    line = np.sinh(np.linspace(-np.arcsinh(60), np.arcsinh(60), 161))
    for column in range(3):
        others = [i for i in range(3) if i != column]
        assert (points[column][:, others] == middle[others]).all()
        near = middle[column] + spread[column] * line
        wide = np.linspace(prior[:, column].min(), prior[:, column].max(), 80)
        expected = np.sort(np.concatenate([near, wide]))
        np.testing.assert_allclose(points[column][:, column], expected, rtol=1e-9, atol=1e-9)


def test_the_twelve_highest_bumps_are_starts_the_highest_first() -> None:
    density = Waves()
    u = 0.2 * np.random.default_rng(0).standard_normal((200, 3))
    found = room.line_starts(density, u, 0)  # type: ignore[arg-type]
    height = density(torch.as_tensor(found))[0].numpy()
    assert found.shape == (12, 3) and (np.diff(height) <= 0).all()
    # the maxima of the six half lines that are nearest, one wave away, and the next ones
    away = np.abs(found - u.mean(0)).max(1)
    assert (away[:6] < 2.5 * np.pi).all() and (away < 4.5 * np.pi).all()


def test_bumps_of_equal_height_are_both_starts() -> None:
    """The same line along every coordinate: each bump has its like on the others."""

    class Alike(Waves):
        def prior_positions(self, count: int, seed: int) -> np.ndarray:
            return np.linspace(-1, 1, count)[:, None] * np.ones(3)

    u = np.array([[0.2] * 3, [-0.2] * 3])
    found = room.line_starts(Alike(), u, 0)  # type: ignore[arg-type]
    along = np.abs(found).argmax(1)
    assert len(along) >= 6 and (np.bincount(along) == len(along) / 3).all()


def test_a_plateau_is_one_bump_and_half_a_nat_is_no_dip() -> None:
    steps = np.arange(8) - 3.0
    flat = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 1.5, 1.5, 0.0])
    assert room._bumps(steps, flat) == [1, 5]
    just = np.array([0.0, 1.0, 0.5, 2.0, 1.0, 1.0, 1.0, 0.0])
    assert room._bumps(steps, just) == []
    deeper = np.array([0.0, 1.0, 0.49, 2.0, 1.0, 1.0, 1.0, 0.0])
    assert room._bumps(steps, deeper) == [1]


def test_heights_are_of_the_unconstrained_scale_in_double_precision() -> None:
    class Single:
        dtype = torch.float32
        device = torch.device("cpu")
        asked: Any = None

        def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.asked = u.dtype
            return u[:, 0], torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])

    density: Any = Single()
    found = room.log_density(density, np.full((4, 1), 2.0))
    assert density.asked is torch.float32 and found.dtype == np.float64
    assert found.tolist() == [3.0, -math.inf, -math.inf, -math.inf]


# lines of random directions ------------------------------------------------------------------------


class Narrow(OnLines):
    """N(0, C) and a tenth of the mass in a normal of half its width, away from it."""

    def __init__(self, away: np.ndarray, root: np.ndarray) -> None:
        super().__init__()
        self.away = torch.from_numpy(away)
        self.inverse = torch.from_numpy(np.linalg.inv(root))

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += len(u)
        white = u @ self.inverse.T
        narrow = math.log(1 / 9) + len(self.away) * math.log(2)
        narrow = narrow - 2.0 * (white - self.away).square().sum(-1)
        wide = -0.5 * white.square().sum(-1)
        return torch.logaddexp(wide, narrow), 0 * wide


@pytest.mark.parametrize("root", [np.eye(5), np.diag([1.0, 1e-3, 30.0, 1.0, 5.0]), "correlated"])
def test_a_narrow_mode_in_any_direction_is_a_bump_on_a_random_line(root: Any) -> None:
    """The density rises towards a mode of half the width, 20 sds away, within a ball of 13 sds around a
    point 27 sds away: within 30 degrees. Of directions in five dimensions these are

        I(1/4; 2, 1/2) / 2 = 1.3 %,

    so 256 rays all miss the ball in 4 % of cases, and in more than 5 of 20 in one case of 4,000.
    """
    if isinstance(root, str):
        root = np.linalg.cholesky(0.01 * np.eye(5) + 0.99)
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        away = rng.standard_normal(5)
        away *= 20 / np.linalg.norm(away)
        density: Any = Narrow(away, root)
        u = rng.standard_normal((4000, 5)) @ root.T
        starts = room.random_line_starts(density, u, seed) @ np.linalg.inv(root).T
        assert density.asked == 128 * 161
        # on the side of the narrow mode: the log odds of the two are above zero there
        found += bool((np.linalg.norm(starts - away, axis=1) < 14).any())
    assert found >= 15


def test_random_lines_are_as_many_as_may_be_paid_for() -> None:
    u = np.random.default_rng(0).standard_normal((200, 3))
    for cost, lines in ((1, 128), (1e10 / (161 * 7), 7), (1e10 / (161 * 6.9), 6), (1e11, 0)):
        density: Any = OnLines()
        density.cost = cost
        room.random_line_starts(density, u, 0)
        assert density.asked == lines * 161
    density = OnLines()
    density.vectorised = False
    assert room.random_line_starts(density, u, 0).shape == (0, 3) and not density.asked


def test_draws_without_a_volume_have_lines_in_their_own_widths() -> None:
    class Kept(OnLines):
        places: Any = None

        def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.places = u.numpy()
            return super().__call__(u)

    density: Any = Kept()
    u = np.random.default_rng(0).standard_normal((2, 3)) * np.array([1.0, 10.0, 100.0])
    room.random_line_starts(density, u, 0)
    reach = np.abs(density.places - u.mean(0)) / u.std(0)
    assert np.linalg.norm(reach, axis=1).max() == pytest.approx(60.0)
