"""An estimate against its limits, just inside and just outside, in both directions; testimonies
on some of the rows as one on all, and on blocks of rows joined.
"""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import (
    SD_HIGH,
    SD_LOW,
    Estimate,
    Testimony,
    among,
    joined,
    where,
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


# of many rows -------------------------------------------------------------------------------------

ARRAYS = ("doubt", "vouches", "alone", "supports", "checks", "far")
SENTENCES = ("against", "against_weighted", "weak_weighted")
ESTIMATES = ("estimate", "weighted")
MARGINALS = 2


def numbered(rows: np.ndarray, plus: float = 0.0) -> Estimate:
    """Every number says which row and which field it belongs to."""
    whole = (10 * rows[:, None] + np.arange(MARGINALS) + plus).astype(float)
    return Estimate(whole, whole + 100, whole + 200, whole + 300, whole >= 0)


def stated(rows: np.ndarray, **more: Any) -> Testimony:
    return Testimony(
        "Run",
        words=("said",),
        role="confirms",
        estimate=numbered(rows),
        weighted=numbered(rows, 0.5),
        doubt=rows + 1.0,
        against=[f"a{i}" for i in rows],
        against_weighted=[f"w{i}" for i in rows],
        weak_weighted=[f"k{i}" for i in rows],
        vouches=rows >= 0,
        alone=rows >= 0,
        supports=rows >= 0,
        checks=rows >= 0,
        far=rows >= 0,
        agreement="agrees",
        numbers={"stein": rows + 0.25},
        detail=list(rows),
        **more,
    )


def same(one: Any, other: Any) -> None:
    """Every field of two testimonies."""
    for name in (f.name for f in fields(Testimony)):
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, Estimate):
            for part in (f.name for f in fields(Estimate)):
                np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=name)
        elif name == "numbers":
            np.testing.assert_equal(a, b)
        else:
            assert a == b, name


def test_testimonies_on_blocks_are_one_on_all_rows() -> None:
    parts = [stated(rows) for rows in (np.arange(2), np.arange(2, 3), np.arange(3, 5))]
    found = joined(parts)
    assert found.detail == [[0, 1], [2], [3, 4]]
    whole = stated(np.arange(5))
    for name in (*ESTIMATES, *ARRAYS, *SENTENCES):
        assert getattr(found, name) is not None
    same(Testimony(**{**vars(found), "detail": whole.detail}), whole)
    assert joined(parts[:1]) is parts[0]
    assert joined(parts[:2]).detail == [[0, 1], [2]]


def test_what_blocks_lack_is_lacking_in_all() -> None:
    found = joined([Testimony("Run", words=("a",)), Testimony("Run", words=("b",))])
    assert found.words == ("a",)
    assert all(getattr(found, name) is None for name in (*ESTIMATES, *ARRAYS))
    absent = Testimony("Run", absent="no model")
    assert joined([absent, stated(np.arange(2))]) is absent


def test_of_rows_that_were_not_looked_at_nothing_is_stated() -> None:
    chosen = np.array([1, 3])
    found = among(stated(chosen), chosen, 5)
    others = [0, 2, 4]
    whole = stated(np.arange(5))
    for name in ESTIMATES:
        own, expected = getattr(found, name), getattr(whole, name)
        for part in (f.name for f in fields(Estimate)):
            values = getattr(own, part)
            assert values.shape == (5, MARGINALS) and values.dtype == getattr(expected, part).dtype
            np.testing.assert_array_equal(values[chosen], getattr(expected, part)[chosen])
            silent = ~values[others] if part == "able" else np.isnan(values[others])
            assert silent.all(), part
    for name in SENTENCES:
        words = getattr(found, name)
        assert [words[i] for i in chosen] == [getattr(whole, name)[i] for i in chosen]
        assert len(words) == 5 and not any(words[i] for i in others)
    for name in ("vouches", "alone", "supports", "checks", "far"):
        assert getattr(found, name).tolist() == [False, True, False, True, False]
    assert found.doubt is not None
    assert found.doubt.tolist() == [np.inf, 2.0, np.inf, 4.0, np.inf]
    np.testing.assert_array_equal(found.numbers["stein"], [np.nan, 1.25, np.nan, 3.25, np.nan])
    assert (found.words, found.role, found.detail) == (("said",), "confirms", [1, 3])


def test_among_of_what_is_lacking_and_of_all_rows() -> None:
    bare = Testimony("Run", words=("said",))
    found = among(bare, np.array([1]), 3)
    assert all(getattr(found, name) is None for name in (*ESTIMATES, *ARRAYS))
    assert all(list(getattr(found, name)) == [] for name in SENTENCES)
    everyone = np.arange(4)
    same(among(stated(everyone), everyone, 4), stated(everyone))


def test_a_condition_in_words() -> None:
    assert where(np.array([True, False]), lambda i: f"row {i}") == ["row 0", ""]
    assert where(np.array(True), lambda i: f"row {i}") == ["row 0"]


def test_tails_widen_the_errors_of_standard_deviations_alone() -> None:
    one = numbered(np.arange(2))
    wide = one.widened(np.array([[2.0, 1.0], [1.0, 3.0]]))
    np.testing.assert_array_equal(wide.log_ratio_se, one.log_ratio_se * [[2, 1], [1, 3]])
    for part in ("shift", "shift_se", "log_ratio", "able"):
        np.testing.assert_array_equal(getattr(wide, part), getattr(one, part))


@pytest.mark.parametrize(("posterior", "words"), [(0, "0.1 sd"), (1, "0.3 sd"), (None, "0.3 sd")])
def test_the_worst_marginal_of_one_row_or_of_all(posterior: int | None, words: str) -> None:
    zero = np.zeros((2, 1))
    found = Estimate(np.array([[0.1], [0.3]]), zero, zero, zero, zero == 0)
    assert words in found.worst(["x"], posterior)
