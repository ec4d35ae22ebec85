"""Draws of several basins before and after a run: errors within each, and of their shares, together."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from arviz_stats import rhat_nested

from guidebook.diagnostics.numerics.drift import compared, nested_rhat, within_basins

RATE = np.array([0.8])
NONE: Any = SimpleNamespace(**dict.fromkeys(("shift", "log_ratio"), np.zeros((1, 1))),
                            **dict.fromkeys(("shift_se", "log_ratio_se"), np.zeros((1, 1))))  # fmt: skip


def runs(
    shift: float = 0.0, ratio: float = 1.0, distance: float = 20.0, size: int = 40_000
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Draws of two even basins of unit normals, shifted and stretched; independent ones after the run."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 2, size)
    old = distance * place + shift + ratio * rng.standard_normal(size)
    new = distance * place + rng.standard_normal(size)
    return old[:, None, None], new[:, None, None], [place, place]


def test_the_errors_are_those_of_the_whole_in_its_own_standard_deviations() -> None:
    """A shift of 0.5 within basins whose means are 20 apart is 0.5 / sqrt 101 of the whole."""
    old, new, places = runs(shift=0.5)
    found = within_basins(old, new, RATE, places, NONE)
    assert found.able.all()
    np.testing.assert_allclose(found.shift, 0.5 / np.sqrt(101), atol=0.005)
    np.testing.assert_allclose(found.sd_ratio, 1.0, atol=0.01)
    np.testing.assert_allclose(found.mean, 10.0, atol=0.2)
    np.testing.assert_allclose(found.sd, np.sqrt(101), rtol=0.01)
    assert not compared(old, new, RATE).able.any()  # as a whole the run moves nothing


@pytest.mark.parametrize("ratio", [0.6, 1.5])
def test_a_width_counts_by_its_part_of_the_whole(ratio: float) -> None:
    old, new, places = runs(ratio=ratio, distance=4.0)
    found = within_basins(old, new, RATE, places, NONE)
    truth = np.sqrt((ratio**2 + 4) / (1 + 4))  # half the distance, squared, is 4
    np.testing.assert_allclose(found.sd_ratio, truth, rtol=0.06)
    np.testing.assert_allclose(found.sd, np.sqrt(5), rtol=0.06)


def test_errors_of_shares_are_added_with_their_own_errors() -> None:
    old, new, places = runs(shift=0.5)
    shares: Any = SimpleNamespace(
        shift=np.full((1, 1), 0.3), shift_se=np.full((1, 1), 0.04),
        log_ratio=np.full((1, 1), -0.2), log_ratio_se=np.full((1, 1), 0.03),
    )  # fmt: skip
    alone = within_basins(old, new, RATE, places, NONE)
    found = within_basins(old, new, RATE, places, shares)
    np.testing.assert_allclose(found.shift, alone.shift + 0.3)
    np.testing.assert_allclose(found.sd_ratio, alone.sd_ratio * np.exp(-0.2))
    np.testing.assert_allclose(found.shift_se, np.hypot(alone.shift_se, 0.04))
    np.testing.assert_allclose(found.sd_ratio_se, np.hypot(alone.sd_ratio_se, 0.03))
    np.testing.assert_allclose(found.mean, old.mean(0) - found.shift * found.sd)


def test_a_basin_first_reached_in_the_run_is_measured_from_the_fullest() -> None:
    old, new, places = runs()
    away = places[1].copy()
    away[:5] = 2
    found = within_basins(old, new, RATE, [places[0], away], NONE)
    assert np.isfinite(found.shift).all() and found.able.all()


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize(("ratio", "distance"), [(1.0, 4.0), (1.0, 0.5), (0.5, 0.5), (0.9, 3.0)])
def test_every_error_by_its_formula(ratio: float, distance: float, scale: float) -> None:
    """Draws that change their basin are measured from the mean of the one where they are."""
    old, new, (place, _) = runs(shift=0.2, ratio=ratio, distance=distance, size=5000)
    moved = place.copy()
    moved[::10] = 1 - moved[::10]
    new = new + (distance * (moved - place))[:, None, None]
    old, new = scale * old, scale * new
    shares: Any = SimpleNamespace(
        shift=np.full((1, 1), 0.03), shift_se=np.full((1, 1), 0.002),
        log_ratio=np.full((1, 1), 0.02), log_ratio_se=np.full((1, 1), 0.003),
    )  # fmt: skip
    means = np.array([old[place == k].mean() for k in (0, 1)])
    inner = compared(old - means[place][:, None, None], new - means[moved][:, None, None], RATE)
    sd = old.std()
    part = min(float(inner.sd[0, 0]) / sd, 1.0)
    found = within_basins(old, new, RATE, [place, moved], shares)
    np.testing.assert_allclose(found.shift, inner.shift * part + 0.03)
    np.testing.assert_allclose(found.shift_se, np.hypot(inner.shift_se * part, 0.002))
    log_ratio = np.log(inner.sd_ratio) * part**2 + 0.02
    np.testing.assert_allclose(np.log(found.sd_ratio), log_ratio)
    np.testing.assert_allclose(found.sd_ratio_se, np.hypot(inner.sd_ratio_se * part**2, 0.003))
    np.testing.assert_allclose(found.sd, sd / np.exp(log_ratio))
    np.testing.assert_allclose(found.mean, old.mean() - found.shift * found.sd)
    assert (found.able == inner.able).all() and (found.acceptance == RATE).all()


def test_a_basin_without_a_mean_of_its_own_takes_that_of_the_fullest() -> None:
    """Before the run most draws are in the second basin, after it in the first."""
    place = np.repeat([0, 1], [100, 300])
    after = np.repeat([0, 2], [350, 50])
    rng = np.random.default_rng(1)
    old = (10.0 * place + rng.standard_normal(400))[:, None, None]
    new = (10.0 * place + rng.standard_normal(400))[:, None, None]
    means = [old[place == k].mean() for k in (0, 1)]
    expected = new[:, 0, 0] - np.where(after == 2, means[1], means[0])
    inner = compared(old - np.array(means)[place][:, None, None], expected[:, None, None], RATE)
    found = within_basins(old, new, RATE, [place, after], NONE)
    part = min(float(inner.sd[0, 0] / old.std()), 1.0)
    np.testing.assert_allclose(found.shift, inner.shift * part)


@pytest.mark.parametrize("r", [0.0, 0.3, 0.6, 0.9])
def test_nested_rhat_is_that_of_many_chains_from_each_start(r: float) -> None:
    """200 starts of N(0, 1), 100 chains from each, an autoregression to their ends: ArviZ's estimate, whose
    own error is 1 / sqrt(2 * 200) of the variance between the starts; the chains stand still after that.
    """
    rng = np.random.default_rng(0)
    starts, together = 200, 100
    start = np.repeat(rng.standard_normal(starts), together)
    end = r * start + np.sqrt(1 - r**2) * rng.standard_normal(start.size)
    still = end[:, None] + 1e-6 * rng.standard_normal((start.size, 4))
    ids = np.repeat(np.arange(starts), together)
    arviz = float(rhat_nested(still, superchain_ids=ids, method="identity"))
    own = float(nested_rhat(np.array([r]))[0])
    # (R^2 - 1) (1 - r^2) = r^2, up to 1 / 100 of noise within superchains
    assert (arviz**2 - 1) * (1 - r**2) == pytest.approx(r**2 + (1 - r**2) / together, rel=0.3)
    assert own**2 - 1 == pytest.approx(r**2 / (1 - r**2))
    found = compared(start[:, None, None], end[:, None, None], np.array([0.8]))
    ranks = nested_rhat(6 / np.pi * np.arcsin(np.array([r]) / 2))[0]  # Spearman's of two normals
    assert found.nested_rhat[0, 0] == pytest.approx(ranks, rel=0.01)


def test_a_run_that_moves_nothing_within_its_basins_has_not_mixed() -> None:
    old, _, places = runs()
    assert within_basins(old, old, RATE, places, NONE).nested_rhat.min() > 100
