"""What is stated of given importance weights, at every limit, of one posterior and of several.

Where the limit of k-hat is reached exactly there are 100 draws: 1 - 1 / log10 100 = 1 / 2.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.importance import hear
from tests.diagnostics.witnesses.importance.subjects import subject_of

LIMIT = 0.5
"""Of k-hat for 100 draws."""


def estimate(shift: float, posteriors: int) -> Estimate:
    one = np.ones((posteriors, 1))
    return Estimate(shift * one, 0 * one, 0 * one, 0 * one, one > 0)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Testimony]:
    """The testimony on 100 draws a posterior, of these k-hats and of means that are off by `shift`."""

    def of(
        *khat: float,
        khat_se: float = 0.1,
        ess: float = 80.0,
        moments: float = math.nan,
        shift: float = 0.0,
        discrete: bool = False,
    ) -> Testimony:
        found = iter([Importance(np.full(100, 0.01), k, khat_se, ess) for k in khat])
        monkeypatch.setattr(importance, "psis", lambda _: next(found))
        monkeypatch.setattr(importance, "khat_of_moment", lambda *_: moments)
        monkeypatch.setattr(importance, "_estimate", lambda *_: estimate(shift, len(khat)))
        subject = subject_of(np.zeros((100, len(khat))), discrete=np.array([discrete]))
        return hear(subject, {})

    return of


def test_weights_confirm_alone_below_a_half_with_their_error(
    given: Callable[..., Testimony],
) -> None:
    for khat, moments, alone in (
        (0.25, math.nan, False),
        (0.2499, math.nan, True),
        (0.1, 0.25, False),
        (0.1, 0.2499, True),
        (0.25, 0.1, False),
    ):
        assert given(khat, moments=moments, khat_se=0.25).alone == [alone]
    assert given(-math.inf, khat_se=0.0).alone == [True]
    assert given(0.1, shift=0.0999).alone == [True]
    assert given(0.1, shift=0.1).alone == [False]


def test_doubt_grows_by_four_times_khat_beyond_a_half(given: Callable[..., Testimony]) -> None:
    """To the limit, of 4,000 draws 0.7; beyond it, and of equal weights, nothing is pooled."""
    found = importance._doubt(np.array([-1.0, 0.5, 0.6, 0.7, 0.8, math.inf, -math.inf]), 0.7)
    np.testing.assert_allclose(found, [1, 1, 1.4, *[math.inf] * 4])
    assert given(0.4).doubt == [1.0] and given(LIMIT).doubt == [math.inf]


def test_only_weights_below_the_limit_speak_against_the_draws(
    given: Callable[..., Testimony],
) -> None:
    found = given(0.4999, LIMIT, math.inf, -math.inf, shift=0.3)
    assert ["0.3" in words for words in found.against] == [True, False, False, True]
    assert given(0.4, shift=0.1).against == [""]


def test_dependence_of_discrete_variables_needs_weights_below_the_limit(
    given: Callable[..., Testimony],
) -> None:
    right = given(0.4, LIMIT, discrete=True).against
    assert right[0] == "" and "dependence" in right[1] and "0.50" in right[1]
    off = given(0.4, LIMIT, discrete=True, shift=0.3).against
    assert "0.3" in off[0] and "dependence" in off[1]


def test_weighted_draws_need_a_khat_below_the_limit_and_a_tenth_of_the_draws(
    given: Callable[..., Testimony],
) -> None:
    """Of one posterior; a quarter of the draws of each of many rows."""
    found = given(0.4999, LIMIT, ess=25.0).against_weighted
    assert found[0] == "" and "unreliable" in found[1] and "0.50" in found[1]
    (few,) = given(0.4, ess=9.99).against_weighted
    assert "10 of 100" in few
    assert given(0.4, ess=10.0).against_weighted == [""]
    assert all("25 of 100" in words for words in given(0.4, 0.4, ess=24.99).against_weighted)
    assert "unreliable" in given(LIMIT, khat_se=0.0, ess=9.0).against_weighted[0]


def test_within_its_error_of_the_limit_khat_of_one_posterior_does_not_decide(
    given: Callable[..., Testimony],
) -> None:
    """Its reason then stands only where the HMC check does not confirm; of rows each is as it is."""
    for khat in (LIMIT - 0.0999, LIMIT, LIMIT + 0.0999):
        found = given(khat)
        assert found.against_weighted == [""] and "HMC check decides" in found.words[-1]
        (weak,) = found.weak_weighted
        assert f"{khat:.2f} +- 0.10" in weak and "0.50" in weak
        assert given(khat, moments=0.9).weak_weighted == [weak]
    for khat in (LIMIT - 0.1001, LIMIT + 0.1001, -math.inf, math.inf):
        found = given(khat)
        assert found.weak_weighted == [""] and "decides" not in " ".join(found.words)
        assert bool(found.against_weighted[0]) is (khat > LIMIT)
    rows = given(LIMIT - 0.05, LIMIT + 0.05)
    assert rows.weak_weighted == ["", ""]
    assert [bool(words) for words in rows.against_weighted] == [False, True]


def test_second_moments_at_the_limit_are_no_reason(given: Callable[..., Testimony]) -> None:
    assert given(0.3, moments=LIMIT).weak_weighted == [""]
    assert "0.51" in given(0.3, moments=0.51).weak_weighted[0]
    assert given(0.3).weak_weighted == [""]


def test_what_a_trust_may_cite(given: Callable[..., Testimony]) -> None:
    assert "equal" in given(-math.inf, -math.inf).agreement
    for khats in ((-math.inf, 0.4), (0.4, 0.1), (0.4999,)):
        assert "within bounds" in given(*khats).agreement
    for khats in ((0.4, 0.9), (0.9, 0.9), (LIMIT,), (LIMIT, -math.inf), (math.inf,)):
        assert given(*khats).agreement == ""


def test_numbers_of_one_posterior(given: Callable[..., Testimony]) -> None:
    first, second = given(0.4321, khat_se=0.0678, ess=76.4, shift=0.3).words
    assert all(n in first for n in ("0.43", "0.07", "100", "0.50", "76"))
    assert "0.3 sd too high" in second
    for khat in (LIMIT, 0.9):  # weights that say nothing of the errors
        assert len(given(khat, khat_se=0.0, shift=0.3).words) == 1


def test_numbers_of_rows(given: Callable[..., Testimony]) -> None:
    """Of k-hats 0.1, 0.3 and 0.5: median 0.3, 95 % quantile 0.48, and two of three below 0.5."""
    (words,) = given(0.3, 0.5, 0.1, khat_se=0.123).words
    assert all(n in words for n in ("median 0.30", "0.48", "0.12", " 67%", "0.50"))
    (words,) = given(-math.inf, 0.25).words
    assert "median 0.25" in words and "100%" in words


def test_equal_weights_are_said_to_be(given: Callable[..., Testimony]) -> None:
    for khats in ((-math.inf,), (-math.inf, -math.inf)):
        assert "equal" in given(*khats).words[0].lower()
    for khats in ((math.inf, -math.inf), (math.inf, math.inf)):
        assert given(*khats).words == ()
