"""Tests of uniformity against enumeration, simulation and arviz_stats."""

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from arviz_stats.ecdf_utils import get_pointwise_confidence_band, simulate_confidence_bands
from scipy.stats import binom, binomtest

from guidebook.diagnostics.numerics.uniformity import (
    Uniformity,
    _inside,
    asymmetry_test,
    band,
    band_test,
    counts,
    grid,
    reaching,
    uniformity,
)


def simulated(count: int, samples: int, seed: int) -> np.ndarray:
    """Counts of uniform samples at the grid, (samples, K - 1), by a multinomial of the intervals."""
    cells = len(grid(count)) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(cells, 1 / cells), samples)
    return drawn.cumsum(1)[:, :-1]


@pytest.mark.parametrize("count", [20, 100])
def test_the_band_holds_the_share_of_curves_that_it_says(count: int) -> None:
    """False-alarm rate 1e-4 each; the level is reached from above, as counts are whole numbers."""
    low, high = band(count, 0.9)
    seen = simulated(count, 20_000, 1) / count
    inside = ((seen >= low - 1e-9) & (seen <= high + 1e-9)).all(1)
    assert binomtest(int(inside.sum()), 20_000, 0.9, "less").pvalue > 1e-4
    assert inside.mean() < 0.92  # a band wider by one count at every point holds 93 % and more


def test_the_band_is_that_of_arviz_within_a_count() -> None:
    """arviz_stats simulates the level, so a bound may lie one count off."""
    low, high = band(80, 0.95)
    rng = np.random.default_rng(0)
    level = simulate_confidence_bands(80, 1, grid(80), 0.95, 800, rng)
    theirs = get_pointwise_confidence_band(level, 80, grid(80))
    assert np.abs(low - theirs[0]).max() * 80 < 1.01
    assert np.abs(high - theirs[1]).max() * 80 < 1.01


@pytest.mark.parametrize("power", [1.0, 1.3, 1.6])
def test_the_p_value_of_the_band_is_the_share_of_samples_as_extreme(power: float) -> None:
    """Against a simulation of the statistic by scipy's binomial; false-alarm rate 1e-4."""
    p = np.random.default_rng(3).uniform(size=60) ** power
    every = np.arange(61)[:, None]
    tails = np.minimum(binom.cdf(every, 60, grid(60)), binom.sf(every - 1, 60, grid(60)))

    def smallest_tail(seen: np.ndarray) -> np.ndarray:
        return tails[seen, np.arange(59)].min(-1)

    as_extreme = smallest_tail(simulated(60, 20_000, 5)) <= smallest_tail(counts(p)) * (1 + 1e-9)
    assert binomtest(int(as_extreme.sum()), 20_000, band_test(p)).pvalue > 1e-4


def every_sample(count: int) -> Iterator[tuple[np.ndarray, float]]:
    """All ways to lay N uniform numbers into the cells of the grid, at mid-cells, and how likely each is."""
    cells = len(grid(count)) + 1
    for places in combinations_with_replacement(range(cells), count):
        ways = math.factorial(count)
        for cell in set(places):
            ways //= math.factorial(places.count(cell))
        yield (np.array(places) + 0.5) / cells, ways / cells**count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_p_value_of_the_band_is_that_of_all_samples(count: int) -> None:
    every = np.arange(count + 1)[:, None]
    tails = np.minimum(
        binom.cdf(every, count, grid(count)), binom.sf(every - 1, count, grid(count))
    )
    samples = list(every_sample(count))
    least = np.array([tails[counts(p), np.arange(len(grid(count)))].min() for p, _ in samples])
    chance = np.array([one for _, one in samples])
    assert chance.sum() == pytest.approx(1.0, abs=1e-12)
    for (p, _), worst in zip(samples, least, strict=True):
        expected = chance[least <= worst * (1 + 1e-6)].sum()
        assert band_test(p) == pytest.approx(expected, abs=1e-9)
    assert _inside(count, 0.0) == pytest.approx(1.0, abs=1e-12)  # bounds that hold every path


def test_numbers_all_at_one_place_have_no_chance() -> None:
    """The smallest tail is 500 log 500 below one, beyond what the Poisson increments reach."""
    for place in (1e-4, 0.5001, 1 - 1e-4):
        assert band_test(np.full(500, place)) == pytest.approx(0.0, abs=1e-12)


def test_the_walk_is_that_of_all_sequences_of_signs() -> None:
    walks = np.cumsum(np.array(list(product((-1, 1), repeat=10))), axis=1)
    for far in range(1, 12):
        share = (np.abs(walks).max(1) >= far).mean()
        assert reaching(10, far) == pytest.approx(share, abs=1e-12)


def test_asymmetry_is_the_largest_difference_between_p_and_its_mirror() -> None:
    p = np.random.default_rng(2).beta(2, 1, size=50)
    at = np.linspace(0, 0.5, 200_001)
    least = (p[:, None] <= at).sum(0) - (p[:, None] >= 1 - at).sum(0)
    assert asymmetry_test(p) == reaching(50, int(np.abs(least).max()))


def test_asymmetry_of_few_numbers_close_to_the_middle() -> None:
    """The difference is largest where one of p or of 1 - p lies; farthest from 1/2 first."""
    assert asymmetry_test(np.array([0.97, 0.98, 0.4, 0.99])) == reaching(4, 3) == 0.25
    rng = np.random.default_rng(3)
    for _ in range(40):
        p = rng.uniform(0.3, 0.7, size=9)
        at = np.r_[p, 1 - p] + 1e-12
        at = at[at <= 0.5]
        least = (p[:, None] <= at).sum(0) - (p[:, None] >= 1 - at).sum(0)
        assert asymmetry_test(p) == reaching(9, int(np.abs(least).max()))


def test_each_test_keeps_its_level() -> None:
    """300 uniform samples of 30: rejections at 10 % are binomial; false-alarm rate 3 x 1e-4."""
    rng = np.random.default_rng(4)
    found = np.array([uniformity(rng.uniform(size=30))[:3] for _ in range(300)])
    for rejected in (found < 0.1).sum(0):
        assert binomtest(int(rejected), 300, 0.1, "greater").pvalue > 1e-4


def test_the_direction_of_what_was_planted() -> None:
    rng = np.random.default_rng(6)
    low, ends, middle = rng.beta(1, 2, 200), rng.beta(0.5, 0.5, 200), rng.beta(3, 3, 200)
    shifted = uniformity(low)
    assert shifted.asymmetry < 1e-6
    assert shifted.tilt < 0
    for p, sign in ((ends, 1), (middle, -1)):
        found = uniformity(p)
        assert found.width < 1e-4 < found.asymmetry
        assert np.sign(found.ends) == sign


def test_evenly_spaced_numbers_have_no_direction() -> None:
    even = uniformity((np.arange(40) + 0.5) / 40)
    assert even.tilt == pytest.approx(0.0, abs=1e-12) == even.ends
    found = uniformity(np.array([0.7, 0.8]))
    assert found.tilt == pytest.approx(0.25) and found.ends == pytest.approx(0.0, abs=1e-12)
    for order in ((0.1, 0.2, 0.3), (0.2, 0.1, 0.3), (0.3, 0.2, 0.1)):
        assert Uniformity(*order, 0.0, 0.0).least == 0.1


def test_the_grid_is_coarse_for_many_numbers() -> None:
    assert len(grid(100)) == 99
    assert len(grid(4000)) == 499
    assert len(grid(2000)) == 499
    assert len(grid(20_000)) == 99
    np.testing.assert_allclose(grid(30_000), np.arange(1, 66) / 66)
    assert counts(np.array([0.5, 0.2])).tolist() == [2]  # at a point is at most the point
    assert counts(np.full(3, 0.5)).tolist() == [0, 3]
