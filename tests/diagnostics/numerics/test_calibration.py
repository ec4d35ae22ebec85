"""What planted ranks say, against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, norm

import guidebook as gb
from guidebook.diagnostics.numerics.calibration import (
    CALIBRATED,
    DENSITY,
    DISTANCE,
    FALSE_ALARM,
    Calibration,
)

DRAWS = 400


def planted(shift: float = 0.0, scale: float = 1.0, count: int = 300, seed: int = 0) -> Calibration:
    """Truths N(0, 1) among draws N(shift, scale^2), besides a calibrated quantity."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(count)
    below = norm.cdf((truth - shift) / scale)
    off = rng.binomial(DRAWS, below)
    fine = rng.integers(0, DRAWS + 1, count)
    return Calibration(
        "prior", "svi", ["a", "b"], np.column_stack([off, fine]), DRAWS, count, seed=seed
    )


@pytest.mark.parametrize(
    ("shift", "scale", "finding"),
    [
        (0.5, 1.0, "biased high"),
        (-0.5, 1.0, "biased low"),
        (0.0, 0.6, "too narrow"),
        (0.0, 1.7, "too wide"),
        (0.5, 0.7, "biased high"),
    ],
)
def test_a_planted_error_is_found_with_its_direction(
    shift: float, scale: float, finding: str
) -> None:
    found = planted(shift, scale)
    assert found.off == ["a"]
    assert found.finding("a") == finding
    assert found.finding("b") == CALIBRATED
    assert f"a is {finding}" in found.sentence()


def test_shift_and_ratio_are_those_planted() -> None:
    """Of 2,000 truths: standard errors of score means and deviations, four of them."""
    row = planted(0.3, 0.8, 2000).table.loc["a"]
    assert row["shift"] == pytest.approx(0.3 / 0.8, abs=4 * 1.25 / np.sqrt(2000) + 0.01)
    assert row["sd_ratio"] == pytest.approx(0.8, abs=4 * 0.8 / np.sqrt(4000) + 0.01)


def test_coverage_is_that_of_normal_intervals() -> None:
    """P(|z| < 0.6 * 1.96), binomial; false-alarm rate 1e-4."""
    share = 2 * norm.cdf(0.6 * norm.ppf(0.975)) - 1
    found = planted(0.0, 0.6, 1000)
    inside = round(1000 * float(found.coverage(0.95)[0]))
    assert binomtest(inside, 1000, share).pvalue > 1e-4
    assert found.table.loc["a", "coverage_95"] == found.coverage(0.95)[0]


def test_calibrated_ranks_are_called_off_as_rarely_as_the_level_says() -> None:
    """In 60 calibrations of three exact quantities about 1 % are off; false-alarm rate 1e-4."""
    rng = np.random.default_rng(7)
    names = ["a", DENSITY, DISTANCE]
    wrong = sum(
        bool(Calibration("prior", "", names, rng.integers(0, 101, (40, 3)), 100, 40, seed=i).off)
        for i in range(60)
    )
    assert binomtest(wrong, 60, FALSE_ALARM, "greater").pvalue > 1e-4


def test_p_is_uniform_within_its_rank() -> None:
    found = planted()
    assert np.array_equal(np.floor(found.p * (DRAWS + 1)), found.ranks)
    assert np.array_equal(found.p, replace(found).p)


def test_joint_quantities_have_words_of_their_own() -> None:
    low = np.random.default_rng(1).integers(0, 200, 300)
    ranks = np.column_stack([low, low])
    found = Calibration("posterior", "svi", [DENSITY, DISTANCE], ranks, DRAWS, 300)
    assert found.finding(DENSITY) == "truths less likely"
    assert "by log p(z, y) truths are less likely than draws" in found.sentence()
    high = Calibration("posterior", "svi", [DENSITY, DISTANCE], DRAWS - ranks, DRAWS, 300)
    assert high.finding(DENSITY) == "truths more likely"
    assert "given the data" in found.sentence()
    assert "all coordinates together are off" in found.sentence()


def test_what_was_left_out_is_said() -> None:
    found = replace(planted(), asked=310, ended={"still moving": 2, "no mode": 10}, unranked=10)
    assert found.caveats() == (
        "Of 310 fits 2 ended still moving, 10 ended no mode, 10 gave no draws and are left out."
    )
    assert found.caveats() in repr(found)
    assert planted().caveats() == ""


def test_it_shows_itself_as_a_table() -> None:
    shown = planted(0.5)._repr_html_()
    assert "biased high" in shown
    assert "<table" in shown
    assert gb.Calibration is Calibration
