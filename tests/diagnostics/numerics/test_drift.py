"""Draws of several basins before and after a run: errors within each, and of their shares, together."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.numerics.drift import compared, within_basins

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
