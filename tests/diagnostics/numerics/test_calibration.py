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
from guidebook.diagnostics.numerics.uniformity import Uniformity, band

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


@pytest.mark.parametrize("scale", [0.8, 1.5])
def test_shift_and_ratio_are_those_planted(scale: float) -> None:
    """Of 2,000 truths: standard errors of score means and deviations, four of them."""
    found = planted(0.3, scale, 2000)
    vars(found)["tests"] = dict.fromkeys(
        "ab", Uniformity(0.5, 0.5, 0.5, 0.0, 0.0)
    )  # not of interest
    row = found.table.loc["a"]
    assert row["shift"] == pytest.approx(0.3 / scale, abs=4 / scale / np.sqrt(2000) + 0.01)
    assert row["sd_ratio"] == pytest.approx(scale, abs=4 * scale / np.sqrt(4000) + 0.01)


def test_coverage_is_that_of_normal_intervals() -> None:
    """P(|z| < 0.6 * 1.96), binomial; false-alarm rate 1e-4."""
    share = 2 * norm.cdf(0.6 * norm.ppf(0.975)) - 1
    found = planted(0.0, 0.6, 1000)
    inside = round(1000 * float(found.coverage(0.95)[0]))
    assert binomtest(inside, 1000, share).pvalue > 1e-4


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


def ruled(**tests: Uniformity) -> Calibration:
    """A calibration whose tests of uniformity came out so."""
    found = Calibration("prior", "svi", list(tests), np.zeros((40, len(tests)), int), 9, 40)
    vars(found)["tests"] = tests
    return found


def test_a_quantity_is_off_below_the_level_of_a_single_test() -> None:
    """Three tests of two quantities share 1 %: 0.01 / 6 each. At the level itself nothing is rejected."""
    level = 0.01 / 6
    at, below = Uniformity(0.5, 0.5, level, 0.1, 0.1), Uniformity(0.5, 0.5, 0.99 * level, 0.1, 0.1)
    found = ruled(a=at, b=below)
    assert found.level == pytest.approx(level, rel=1e-12)
    assert found.off == ["b"] and found.finding("a") == CALIBRATED != found.finding("b")


def test_the_most_certain_error_comes_first() -> None:
    certain, less = Uniformity(1e-9, 0.5, 0.5, 0.1, 0.1), Uniformity(1e-4, 0.5, 0.5, 0.1, 0.1)
    assert ruled(a=less, b=certain).off == ["b", "a"]


def test_a_bias_is_named_where_asymmetry_is_beyond_its_level_or_clearer_than_width() -> None:
    level = 0.01 / 3
    for asymmetry, width, finding in (
        (0.9 * level, 0.5 * level, "biased low"),  # both reject: the bias is named
        (level, 0.5 * level, "too narrow"),
        (0.5, 0.5, "too narrow"),  # the band rejects, and neither is clearer
        (0.4, 0.5, "biased low"),
    ):
        assert ruled(a=Uniformity(0.0, asymmetry, width, 0.1, 0.1)).finding("a") == finding


def test_the_table_holds_the_coverage_of_three_central_intervals() -> None:
    found = planted()
    for level in (0.5, 0.8, 0.95):
        assert found.table[f"coverage_{100 * level:.0f}"].tolist() == found.coverage(level).tolist()
    assert found.table.index.name == "quantity"
    assert "(prior, svi, 0.0 s)" in repr(found)
    assert "(prior, 0.0 s)" in repr(replace(found, engine=""))


def test_the_band_is_that_of_the_level() -> None:
    found = planted(count=40)
    for ours, theirs in zip(found.band, band(40, 1 - 0.01 / 6), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_three_most_certain_errors_are_described_and_the_others_counted() -> None:
    wrong = {name: Uniformity(1e-9 * i, 0.5, 0.5, 0.1, 0.1) for i, name in enumerate("abcde")}
    for count, more in ((3, 0), (4, 1), (5, 2)):
        sentence = ruled(**dict(list(wrong.items())[:count])).sentence()
        assert sentence.count("its 95% intervals hold") == 3
        assert sentence.endswith(f"; {more} more are off." if more else "the truths).")
        assert "over data sets drawn from the prior (40 data sets)" in sentence
