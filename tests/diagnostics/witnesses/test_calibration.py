"""A calibration contradicts where it rejects by more than matters, and never confirms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import MEAN_LIMIT, SD_HIGH, Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Verdict
from guidebook.diagnostics.judging.verdict import judge
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.witnesses.calibration import (
    MATTERS,
    NAME,
    distance,
    hear,
    of_calibration,
)

NAMES = ["a", "b"]


def calibration(shift: float, count: int = 200, names: list[str] = NAMES) -> Calibration:
    """Draws N(shift, 1) of truths N(0, 1) in the first quantity; the second is calibrated."""
    rng = np.random.default_rng(0)
    below = norm.cdf(rng.standard_normal(count) - shift)
    ranks = np.column_stack([rng.binomial(400, below), rng.integers(0, 401, count)])
    return Calibration("prior", "svi", names, ranks, 400, count)


def judged(told: Testimony) -> Verdict:
    """With a witness that confirms everything beside it."""
    zero, small = np.zeros((1, 2)), np.full((1, 2), 0.001)
    sure = Estimate(zero, small, zero, small, np.ones((1, 2), bool))
    other = Testimony(
        "Other", role="confirms", estimate=sure, far=np.ones(1, bool), agreement="fine"
    )
    return judge(Findings(NAMES, testimonies={"Other": other, NAME: told})).verdict


def test_an_error_that_was_found_overrules_what_confirms() -> None:
    told = of_calibration(calibration(0.6), NAMES, 1)
    assert told.against[0].startswith("Not calibrated over data sets drawn from the prior (200")
    assert judged(told) is Verdict.REJECT


def test_none_found_confirms_nothing() -> None:
    told = of_calibration(calibration(0.0), NAMES, 1)
    assert judged(told) is Verdict.TRUST
    assert not told.against
    assert told.vouches is None
    assert told.estimate is None
    assert told.agreement == ""
    assert judge(Findings(NAMES, testimonies={NAME: told})).verdict is Verdict.REJECT


def test_it_does_not_speak_of_weighted_draws() -> None:
    told = of_calibration(calibration(0.6), NAMES, 1)
    assert not told.against_weighted
    assert not told.weak_weighted
    assert told.rules_out == ""


def test_an_error_too_small_to_matter_does_not_contradict() -> None:
    """A shift of 0.07 sd is certain with 8,000 truths, and allowed."""
    certain = calibration(0.07, 8000)
    assert certain.off == ["a"]
    assert distance(certain, "a") < MATTERS
    assert not of_calibration(certain, NAMES, 1).against
    assert of_calibration(calibration(0.13, 8000), NAMES, 1).against


def test_the_distance_that_matters_is_that_of_the_limits() -> None:
    t = np.linspace(-4, 4, 20_001)
    shifted = np.abs(norm.cdf(t + MEAN_LIMIT) - norm.cdf(t)).max()
    wider = np.abs(norm.cdf(SD_HIGH * t) - norm.cdf(t)).max()
    assert pytest.approx(0.040, abs=5e-4) == shifted
    assert pytest.approx(0.044, abs=5e-4) == wider
    assert pytest.approx(min(shifted, wider), abs=5e-4) == MATTERS


def test_a_distance_is_one_in_either_direction() -> None:
    """Draws moved by 0.6: the distribution function of p is off by 2 Phi(0.3) - 1 = 0.24 at its most."""
    for shift in (0.6, -0.6):
        assert distance(calibration(shift, 400), "a") == pytest.approx(0.236, abs=4 * 0.5 / 20)


def test_what_was_found_is_stated_and_kept() -> None:
    found = replace(calibration(0.6), ended={"still moving": 3})
    told = of_calibration(found, NAMES, 1)
    assert told.words == (found.sentence(), found.caveats()) and told.detail is found
    assert of_calibration(calibration(0.6), NAMES, 1).words == (found.sentence(),)


def test_it_speaks_on_every_row_alike() -> None:
    assert len(of_calibration(calibration(0.6), NAMES, 5).against) == 5


def test_of_other_parameters_it_says_so() -> None:
    told = of_calibration(calibration(0.6, names=["c", "d"]), NAMES, 1)
    assert told.absent == "the calibration given is of other parameters"


def test_without_one_the_witness_is_silent() -> None:
    subject = Subject("density", NAMES, np.zeros((10, 1, 2)), np.zeros(2, bool))
    assert hear(subject, {}) == Testimony(NAME)
    assert hear(replace(subject, calibration=calibration(0.6)), {}).against
