"""The bound of a row against its exact evidence: limits, noise, and when it says nothing."""

import math

import numpy as np
import pytest

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.witnesses import enumeration, importance


def heard(
    bound: float,
    error: float = 0.0,
    *,
    discrete: bool = True,
    known: bool = True,
    off: bool = False,
) -> Testimony:
    """On one row whose evidence is -7 nats."""
    zero = np.zeros((1, 1))
    weights = Testimony(
        importance.NAME,
        role="sharpens",
        estimate=Estimate(zero + 0.3 * off, zero + 0.001, zero, zero + 0.001, zero == 0),
        numbers={"log_evidence": np.array([bound]), "log_evidence_se": np.array([error])},
    )
    subject = Subject(
        "density", ["z"], np.zeros((100, 1, 1)), np.array([discrete]),
        evidence=np.array([-7.0]) if known else None, lacks={"evidence": "too many states"},
    )  # fmt: skip
    return enumeration.hear(subject, {importance.NAME: weights})


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("error", "limit"), [(0.0, 0.05), (0.01, 0.07), (0.025, 0.1), (3.0, 0.1), (math.nan, 0.1)]
)
def test_a_twentieth_of_a_nat_and_two_errors_up_to_a_fortieth(
    error: float, limit: float, sign: int
) -> None:
    inside = heard(-7 + sign * (limit - 1e-4), error)
    assert inside.vouches is not None and inside.vouches.tolist() == [True]
    assert inside.checks is not None and inside.checks.tolist() == [True]
    assert list(inside.against) == list(inside.against_weighted) == [""]
    outside = heard(-7 + sign * (limit + 1e-4), error)
    assert outside.vouches is not None and outside.vouches.tolist() == [False]
    assert outside.checks is not None and outside.checks.tolist() == [False]
    assert "-7" in outside.against[0] and outside.against_weighted[0] == outside.against[0]


def test_it_vouches_only_where_the_weights_find_no_error() -> None:
    found = heard(-7.0, off=True)
    assert found.vouches is not None and found.checks is not None
    assert not found.vouches[0] and found.checks[0] and found.against[0] == ""


def test_it_says_nothing_of_continuous_rows_and_says_why_of_others() -> None:
    assert heard(-9.0, discrete=False) == Testimony(enumeration.NAME)
    assert heard(-9.0, known=False) == Testimony(enumeration.NAME, absent="too many states")


def test_rows_are_judged_one_by_one_and_counted() -> None:
    """Of four rows at 0 nats, the first at the limit itself, the second within its two errors, three
    agree.
    """
    zero = np.zeros((4, 1))
    bounds = np.array([0.05, -0.06, -0.0601, 0.0])
    errors = np.array([0.0, 0.005, 0.005, 0.0])
    weights = Testimony(
        importance.NAME,
        estimate=Estimate(zero, zero, zero, zero, zero == 0),
        numbers={"log_evidence": bounds, "log_evidence_se": errors},
    )
    subject = Subject(
        "density", ["z"], np.zeros((100, 4, 1)), np.array([True]), evidence=np.zeros(4)
    )
    found = enumeration.hear(subject, {importance.NAME: weights})
    agrees = [True, True, False, True]
    assert found.checks is not None and found.vouches is not None
    assert found.checks.tolist() == found.vouches.tolist() == agrees
    assert [not words for words in found.against] == agrees
    assert "-0.0601" in found.against[2] and "75%" in found.words[0]
    assert "evidence" in found.agreement


def test_without_an_estimate_of_the_weights_nothing_is_said() -> None:
    subject = Subject("density", ["z"], np.zeros((9, 1, 1)), np.array([True]), evidence=np.zeros(1))
    heard = {importance.NAME: Testimony(importance.NAME, absent="no log q")}
    assert enumeration.hear(subject, heard) == Testimony(enumeration.NAME)
    bare = Subject("density", ["z"], np.zeros((9, 1, 1)), np.array([True]))
    zero = np.zeros((1, 1))
    known = Testimony(importance.NAME, estimate=Estimate(zero, zero, zero, zero, zero == 0))
    assert enumeration.hear(bare, {importance.NAME: known}) == Testimony(enumeration.NAME)
