"""An estimate against its limits, just inside and just outside, in both directions."""

import math

import numpy as np
import pytest

from guidebook.diagnostics.witnesses.testimony import (
    SD_HIGH,
    SD_LOW,
    Estimate,
)

JUST = 1e-6


def estimate(
    shift: float = 0.0,
    log_ratio: float = 0.0,
    shift_se: float = 0.0,
    log_ratio_se: float = 0.0,
    able: bool = True,
) -> Estimate:
    """Of two marginals, the first of which is right."""
    return Estimate(
        np.array([0.0, shift]),
        np.array([0.0, shift_se]),
        np.array([0.0, log_ratio]),
        np.array([0.0, log_ratio_se]),
        np.array([True, able]),
    )


LIMITS = {"shift": 0.1, "log_ratio": math.log(1.2)}
"""A tenth of a standard deviation, and 20 % either way: what trust promises."""


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("error", LIMITS)
def test_an_error_is_held_against_its_limit(error: str, sign: int) -> None:
    inside = estimate(**{error: sign * LIMITS[error] * (1 - JUST)})
    outside = estimate(**{error: sign * LIMITS[error] * (1 + JUST)})
    assert inside.within(0.0) and inside.good() and not inside.bad()
    assert not outside.within(0.0) and not outside.good() and outside.bad()


def test_the_limits_of_a_ratio_are_one_on_the_scale_of_the_logarithm() -> None:
    assert pytest.approx(1 / SD_LOW) == SD_HIGH == 1.2


@pytest.mark.parametrize("error", LIMITS)
def test_at_its_limit_an_error_is_neither_good_nor_bad(error: str) -> None:
    at = estimate(**{error: LIMITS[error]})
    assert not at.within(0.0) and not at.bad()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("error", LIMITS)
def test_two_standard_errors_are_added_for_good(error: str, sign: int) -> None:
    """With an error of half its limit there is room for two standard errors of a quarter."""
    half, quarter = LIMITS[error] / 2, LIMITS[error] / 4
    for share, good in ((1 - JUST, True), (1 + JUST, False)):
        found = estimate(**{error: sign * half, f"{error}_se": quarter * share})
        assert found.good().item() is good and found.within(2.0).item() is good
        assert found.within(1.0) and not found.bad()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("error", LIMITS)
def test_two_standard_errors_are_taken_off_for_bad(error: str, sign: int) -> None:
    double, half = LIMITS[error] * 2, LIMITS[error] / 2
    for share, bad in ((1 - JUST, True), (1 + JUST, False)):
        found = estimate(**{error: sign * double, f"{error}_se": half * share})
        assert found.bad().item() is bad and found.within(-2.0).item() is not bad
        assert not found.within(-1.0) and not found.good()


@pytest.mark.parametrize("error", LIMITS)
def test_what_cannot_be_seen_is_neither_good_nor_bad(error: str) -> None:
    right = estimate(able=False)
    assert right.within(0.0) and not right.good() and not right.bad()
    wrong = estimate(**{error: 2 * LIMITS[error]}, able=False)
    assert not wrong.bad() and not wrong.good()
    # the first marginal is the wrong one, and it is seen
    turned = Estimate(
        wrong.shift[::-1], wrong.shift_se, wrong.log_ratio[::-1], wrong.log_ratio_se, wrong.able
    )
    assert turned.bad()


@pytest.mark.parametrize(
    ("error", "value", "way", "other", "number"),
    [
        ("shift", 0.31, "high", "low", "0.31"),
        ("shift", -0.31, "low", "high", "0.31"),
        ("log_ratio", math.log(0.6), "narrow", "wide", "0.6"),
        ("log_ratio", math.log(1.7), "wide", "narrow", "1.7"),
    ],
)
def test_the_worst_marginal_in_words(
    error: str, value: float, way: str, other: str, number: str
) -> None:
    words = estimate(**{error: value}).worst(["alpha", "beta"])
    assert "beta" in words and "alpha" not in words
    assert way in words and other not in words and number in words
    assert ("mean" in words) is (error == "shift") and "-" not in words


def test_the_worst_is_that_relative_to_its_limit() -> None:
    """0.25 sd is 2.5 limits of a mean; a ratio of 1.5 is 2.2 limits, one of 1.7 is 2.9."""
    assert "mean" in estimate(0.25, math.log(1.5)).worst(["a", "b"])
    assert "wide" in estimate(0.25, math.log(1.7)).worst(["a", "b"])
    assert "mean" in estimate(-0.25, -math.log(1.5)).worst(["a", "b"])
    assert "narrow" in estimate(-0.25, -math.log(1.7)).worst(["a", "b"])
    assert "mean" in estimate(0.1, math.log(1.2)).worst(["a", "b"])
