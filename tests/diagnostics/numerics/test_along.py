"""Mass beyond all draws along the coordinates: Gibbs steps against quadrature and closed forms."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.numerics import shells as room
from guidebook.diagnostics.numerics.shells import Along, along_in_marginals, shells
from tests.diagnostics.numerics.normals import draws, normal

STEPS = np.r_[-np.geomspace(1e-3, 1e4, 64)[::-1], 0.0, np.geomspace(1e-3, 1e4, 64)]
"""Of the grid along a coordinate, in standard deviations of the draws."""


def along(*given: Any) -> Along | None:
    """What is found along all coordinates, in their order; None where there are no lines."""
    every = sorted(room.along(*given))
    return Along(*map(np.array, zip(*every, strict=True))) if every else None


def test_a_shelf_along_one_of_many_directions_is_not_seen() -> None:
    """No random line in twenty dimensions runs along it; a Gibbs step of its coordinate does."""

    def long(u: np.ndarray) -> np.ndarray:
        wide = u.copy()
        wide[:, 0] /= 300
        found: np.ndarray = np.logaddexp(normal(u), normal(wide) - math.log(300))
        return found

    found = shells(long, draws(20))
    assert found is not None and abs(found.log_ratio) < 1e-3
    steps = along(long, draws(20))
    assert steps is not None and steps.log_ratio.argmin() == 0 and steps.log_ratio[0] < -1
    assert (steps.log_ratio[1:] > -0.01).all()


@pytest.mark.parametrize(
    ("share", "wide", "center"), [(0.03, 50.0, 0.0), (0.2, 8.0, 0.0), (0.05, 20.0, 60.0)]
)
def test_a_gibbs_step_has_the_moments_of_the_conditional(
    share: float, wide: float, center: float
) -> None:
    """Coordinate 1 of five is (1 - a) N(0, 1) + a N(c, s^2), independent of the others."""

    def density(u: np.ndarray) -> np.ndarray:
        own = u[:, 1]
        parts = (
            math.log1p(-share) + stats.norm.logpdf(own),
            math.log(share) + stats.norm.logpdf(own, center, wide),
        )
        rest = np.delete(u, 1, axis=1)
        found: np.ndarray = np.logaddexp(*parts) + normal(rest)
        return found

    u = draws(5)
    found = along(density, u)
    assert found is not None
    line = np.linspace(-600, 600, 2_000_001)
    p = np.exp(density(np.stack([line * 0, line, *[line * 0] * 3], 1)))
    edge = 0.025 * np.ptp(u[:, 1])
    p[(line > u[:, 1].min() - edge) & (line < u[:, 1].max() + edge)] *= 0
    whole = math.exp(normal(np.zeros((1, 4)))[0]) / (line[1] - line[0])
    assert found.beyond[1] == pytest.approx(p.sum() / whole, rel=0.1)
    added = p @ np.square(line - u[:, 1].mean()) / whole
    expected = -0.5 * math.log1p(added / u[:, 1].var())
    assert found.log_ratio[1] == pytest.approx(expected, abs=0.1)
    assert (np.delete(found.log_ratio, 1) > -0.01).all()


def test_a_gibbs_step_of_right_draws_goes_nowhere() -> None:
    root = np.linalg.cholesky(np.array([[1.0, 0.99], [0.99, 1.0]]))
    inverse = np.linalg.inv(root)
    found = along(lambda v: normal(v @ inverse.T), draws(2) @ root.T)
    assert found is not None and (found.log_ratio > -0.01).all()
    t = stats.t(4)
    found = along(lambda v: t.logpdf(v).sum(1), t.rvs((20_000, 3), random_state=0))
    assert found is not None and (found.log_ratio > -0.05).all()


def test_weighted_draws_are_held_against_their_own_moments() -> None:
    """Draws of N(0, 1.2^2) for 0.97 N(0, 1) + 0.03 N(0, 30^2) that weights bring to the peak."""
    u = 1.2 * draws(1)
    peak = stats.norm.pdf(u[:, 0]) / stats.norm.pdf(u[:, 0], 0, 1.2)

    def both(v: np.ndarray) -> np.ndarray:
        parts = math.log(0.97) + normal(v), math.log(0.03) + normal(v, 30.0)
        found: np.ndarray = np.logaddexp(*parts)
        return found

    raw, weighted = along(both, u), along(both, u, 0, peak / peak.sum())
    assert raw is not None and weighted is not None
    # the same mass is added, to a variance of 1.44 and to one of 1
    ratio = math.expm1(-2 * weighted.log_ratio[0]) / math.expm1(-2 * raw.log_ratio[0])
    assert ratio == pytest.approx(1.44, rel=0.1)


def test_what_is_far_on_the_unconstrained_scale_may_be_near_on_the_models() -> None:
    """tau = exp(u) half-normal, draws of N(-0.5, 0.5^2) for u: beyond them to the left lies tau near 0.

    The exact factors: with E[.; u beyond] from the half-normal's own distribution of tau.
    """
    u = -0.5 + 0.5 * draws(1, 20_000)

    def density(v: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            found: np.ndarray = v[:, 0] - 0.5 * np.exp(2 * v[:, 0])
        return found

    edge = 0.025 * np.ptp(u)
    line = np.linspace(-40, 3, 4_000_001)
    p = 2 * stats.norm.pdf(np.exp(line)) * np.exp(line) * (line[1] - line[0])
    p[(line > u.min() - edge) & (line < u.max() + edge)] = 0

    def exact(t: np.ndarray, own: np.ndarray) -> float:
        return -0.5 * math.log1p(p @ np.square(t - own.mean()) / own.var())

    far = along(density, u)
    assert far is not None and far.log_ratio[0] < -math.log(1.2)
    assert far.log_ratio[0] == pytest.approx(exact(line, u), abs=0.05)
    for of in (np.exp, np.negative):  # the second is the same scale, with another sign
        near = along_in_marginals(density, of, u, of(u), 0)
        assert near.shape == (1,)
        assert near[0] == pytest.approx(exact(of(line), of(u)), abs=0.05)
    assert -along_in_marginals(density, np.exp, u, np.exp(u), 0)[0] < math.log(1.2)


@pytest.mark.parametrize(("added", "more"), [(0.045, False), (0.055, True)])
def test_more_lines_only_where_the_first_add_a_twentieth_of_the_variance(
    added: float, more: bool
) -> None:
    """A spike of known mass at 50 standard deviations, beside N(0, 1): a * 50^2 is what it adds."""
    asked: list[int] = []
    share, u = added / 50.0**2, draws(3)
    sd = u[:, 2].std(ddof=0)

    def spiked(v: np.ndarray) -> np.ndarray:
        asked.append(len(v))
        parts = (
            math.log1p(-share) + stats.norm.logpdf(v[:, 2]),
            math.log(share) + stats.norm.logpdf(v[:, 2], 50 * sd, 8 * sd),
        )
        found: np.ndarray = np.logaddexp(*parts) + normal(v[:, :2])
        return found

    found = along(spiked, u)
    assert found is not None
    grid = 2 * 64 + 1
    # a normal of sd 8 about 50 adds 50^2 + 8^2, and all of it lies beyond the draws
    whole = added * (1 + (8 / 50) ** 2)
    assert (whole > 0.05) is more
    assert asked == [16 * grid] * 3 + ([240 * grid] if more else [])


def test_the_coordinate_that_lacks_most_comes_first_and_lines_are_drawn_as_they_are_asked_for() -> (
    None
):
    """Of three the second has a shelf, and all its lines are needed; those of the others are not."""
    asked: list[int] = []

    def shelf(u: np.ndarray) -> np.ndarray:
        asked.append(len(u) // 129)
        wide = np.logaddexp(normal(u[:, 1:2]), normal(u[:, 1:2], 50.0))
        found: np.ndarray = normal(u[:, ::2]) + wide
        return found

    steps = room.along(shelf, draws(3))
    first = next(steps)
    assert first.coordinate == 1 and first.log_ratio < -1 and asked == [16, 16, 16, 240]
    assert sorted(one.coordinate for one in steps) == [0, 2] and len(asked) == 4


def test_lines_that_would_be_too_many_are_not_drawn() -> None:
    assert along(normal, draws(257, 300)) is None and along(normal, draws(256, 300)) is not None
    assert along(normal, draws(2, 7)) is None


def test_a_gibbs_step_is_taken_on_a_grid_from_a_thousandth_to_ten_thousand() -> None:
    """From sixteen draws, and from all 256 where something lies out there."""
    asked: list[np.ndarray] = []

    def shelf(u: np.ndarray) -> np.ndarray:
        asked.append(u)
        found: np.ndarray = np.logaddexp(normal(u), normal(u, 50.0))
        return found

    u = draws(2) * np.array([1.0, 5.0])
    along(shelf, u)
    assert [len(places) for places in asked] == [16 * 129] * 2 + [240 * 129] * 2
    for j in range(2):
        rest = next(a for a in asked[2:] if len(np.unique(a[:129, 1 - j])) == 1)
        lines = np.concatenate([asked[j], rest]).reshape(256, 129, 2)
        start = lines[:, 64]
        assert len(np.unique(start[:, 0])) == 256 and np.isin(start, u).all()
        np.testing.assert_array_equal(lines[:, :, 1 - j], np.repeat(start[:, [1 - j]], 129, 1))
        steps = (lines[:, :, j] - start[:, [j]]) / u[:, j].std()
        np.testing.assert_allclose(steps, np.tile(STEPS, (256, 1)), rtol=1e-6, atol=1e-12)
    asked.clear()
    along(shelf, u, 0, np.r_[np.full(100, 0.01), np.zeros(3900)])
    assert np.isin(asked[0].reshape(16, 129, 2)[:, 64], u[:100]).all()


def test_two_standard_errors_over_the_draws_are_taken_off_the_added_second_moment() -> None:
    """Of ten draws around (5, -3), each with a share of its own of a shelf N(5, 200^2)."""
    u = np.random.default_rng(2).standard_normal((10, 2)) + np.array([5.0, -3.0])

    def share(y: np.ndarray) -> np.ndarray:
        found: np.ndarray = 0.2 + 0.15 * np.tanh(y + 3)
        return found

    def density(v: np.ndarray) -> np.ndarray:
        parts = (
            np.log1p(-share(v[:, 1])) + stats.norm.logpdf(v[:, 0], 5),
            np.log(share(v[:, 1])) + stats.norm.logpdf(v[:, 0], 5, 200),
        )
        found: np.ndarray = np.logaddexp(*parts) + stats.norm.logpdf(v[:, 1], -3)
        return found

    found = along(density, u)
    line = np.linspace(-2500, 2500, 1_000_001)
    edge = 0.025 * np.ptp(u[:, 0])
    outside = (line < u[:, 0].min() - edge) | (line > u[:, 0].max() + edge)
    square = outside * np.square(line - u[:, 0].mean()) * (line[1] - line[0])
    peak, shelf = (float(stats.norm.pdf(line, 5, sd) @ square) for sd in (1, 200))
    added = (1 - share(u[:, 1])) * peak + share(u[:, 1]) * shelf
    least = added.mean() - 2 * math.sqrt(np.square(added - added.mean()).sum() / 9 / 10)
    assert 0.3 < least / added.mean() < 0.9
    assert found is not None
    assert found.log_ratio[0] == pytest.approx(-0.5 * math.log1p(least / u[:, 0].var()), abs=0.005)
    own = along_in_marginals(density, lambda v: v, u, u, 0)  # marginals that are the coordinates
    assert own[0] == pytest.approx(found.log_ratio[0], rel=1e-9)


def test_the_cell_of_the_draw_itself_is_a_thousandth_on_either_side() -> None:
    """A spike at each of ten draws that no other place of the grid sees, as heavy as a shelf N(0, 100^2)."""
    u = np.random.default_rng(2).standard_normal((10, 1))
    height = math.log(1 / (2e-3 * u.std()))

    def density(v: np.ndarray) -> np.ndarray:
        at = (np.abs(v - u.T) < 1e-6).any(1)
        return np.where(at, height, stats.norm.logpdf(v[:, 0], 0, 100))

    found = along(density, u)
    edge = 0.025 * np.ptp(u)
    near = np.ptp(stats.norm.cdf([u.min() - edge, u.max() + edge], 0, 100))
    assert found is not None and found.beyond[0] == pytest.approx(0.5 * (1 - near), rel=0.01)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize(("start", "seen"), [(0.0226, False), (0.0251, True)])
def test_beyond_begins_a_fortieth_of_the_range_behind_the_farthest_draw(
    side: int, start: float, seen: bool
) -> None:
    """All the weight in a band a tenth of that wide, in front of it or behind, of draws that see it."""

    def within(v: np.ndarray, u: np.ndarray) -> np.ndarray:
        away = side * (v - side * (side * u).max()) / np.ptp(u)
        found: np.ndarray = (away > start) & (away < start + 0.0023)
        return found

    for seed in range(100):
        u = np.random.default_rng(seed).standard_normal((16, 1))
        seeing = within(u + u.std() * STEPS, u).any(1)
        if seeing.any():
            break
    found = along(lambda v: normal(v, 0.2) + 100.0 * within(v[:, 0], u), u)
    assert found is not None
    assert found.beyond[0] == pytest.approx(seeing.mean() if seen else 0.0, abs=1e-4)


def test_places_where_the_density_is_no_number_hold_nothing() -> None:
    found = along(lambda v: np.where(v[:, 0] > 8, np.nan, normal(v)), draws(1))
    assert found is not None and found.beyond[0] < 1e-3 and found.log_ratio[0] > -0.01


@pytest.mark.parametrize(("share", "lines"), [(0.93, [16]), (1.07, [16, 240])])
def test_the_other_lines_are_left_out_where_a_twentieth_of_the_variance_is_not_added(
    share: float, lines: list[int]
) -> None:
    """Draws of N(0, 3^2), and a shelf N(0, 150^2) that adds so much of a twentieth."""
    u = 3.0 * draws(1)
    line = np.linspace(-1500, 1500, 300_001)
    edge = 0.025 * np.ptp(u)
    outside = (line < u.min() - edge) | (line > u.max() + edge)
    square = outside * np.square(line - u.mean()) * (line[1] - line[0])
    peak, shelf = (float(stats.norm.pdf(line, 0, sd) @ square) for sd in (3, 150))
    weight = (share * 0.05 * u.var() - peak) / shelf
    asked: list[int] = []

    def density(v: np.ndarray) -> np.ndarray:
        asked.append(len(v) // 129)
        parts = normal(v, 3.0), math.log(weight) + normal(v, 150.0)
        found: np.ndarray = np.logaddexp(*parts)
        return found

    along(density, u)
    assert asked == lines
