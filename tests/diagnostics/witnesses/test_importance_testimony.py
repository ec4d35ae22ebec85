"""What is stated of given importance weights, at every limit, of one posterior and of several.

Where the limit of k-hat is reached exactly there are 100 draws: 1 - 1 / log10 100 = 1 / 2.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.importance import EVIDENCE, NAME, hear, weights_of
from guidebook.diagnostics.witnesses.psis import Importance, khat_of_moment, psis
from guidebook.diagnostics.witnesses.subject import Subject
from guidebook.diagnostics.witnesses.testimony import Estimate, Testimony

LIMIT = 0.5
"""Of k-hat for 100 draws."""


def subject_of(log_ratio: np.ndarray | None, marginals: int = 1, **facts: Any) -> Subject:
    """Standard normal draws of as many posteriors as there are columns of log ratios."""
    size, n = (100, 1) if log_ratio is None else log_ratio.shape
    values = np.random.default_rng(9).standard_normal((size, n, marginals))
    names = [f"z[{j}]" for j in range(marginals)]
    given: dict[str, Any] = {"kind": "density", "discrete": np.zeros(marginals, bool)}
    return Subject(**given | {"names": names, "values": values, "log_ratio": log_ratio} | facts)


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


def test_without_weights_the_reason_is_that_of_the_subject() -> None:
    lacks = {"log_ratio": "the guide has no density"}
    assert hear(subject_of(None, lacks=lacks), {}).absent == "the guide has no density"
    assert hear(subject_of(None), {}).absent
    for kind in ("chains", "point"):  # which have none by what they are
        assert hear(subject_of(None, kind=kind, lacks=lacks), {}) == Testimony(NAME)


def test_one_posterior_of_too_few_draws_has_its_evidence_and_no_more() -> None:
    log_ratio = np.random.default_rng(0).normal(size=(20, 1))
    found = hear(subject_of(log_ratio), {})
    assert found.absent and found.estimate is None and found.alone is None
    assert set(found.numbers) == set(EVIDENCE)
    assert found.numbers["elbo"] == pytest.approx([log_ratio.mean()])
    assert found.numbers["log_evidence"] == pytest.approx([math.log(np.exp(log_ratio).mean())])


def test_one_posterior_without_densities() -> None:
    found = hear(subject_of(np.full((100, 1), math.nan)), {})
    assert found.absent and all(np.isnan(found.numbers[name]).all() for name in EVIDENCE)


def test_of_several_posteriors_each_is_judged_by_its_own_weights() -> None:
    """One without densities, one with draws of density zero, one that is right but for the evidence."""
    log_ratio = np.random.default_rng(0).normal(0, 0.1, (1000, 3))
    log_ratio[0, 0], log_ratio[0, 1] = math.nan, -math.inf
    found = hear(subject_of(log_ratio), {})
    own = [psis(column) for column in log_ratio.T]
    assert own[0] is None and own[1] is not None and own[2] is not None
    assert not found.absent and found.estimate is not None and found.doubt is not None
    numbers = found.numbers
    for name, missing in (("khat", math.inf), ("khat_se", math.nan), ("ess", 0.0)):
        expected = [missing, getattr(own[1], name), getattr(own[2], name)]
        np.testing.assert_array_equal(numbers[name], expected)
    for name in EVIDENCE:
        assert np.isnan(numbers[name]).tolist() == [True, True, False]
    assert numbers["elbo"][2] == pytest.approx(log_ratio[:, 2].mean())
    assert numbers["log_evidence"][2] == pytest.approx(math.log(np.exp(log_ratio[:, 2]).mean()))
    assert found.estimate.able[:, 0].tolist() == [False, True, True]
    assert np.isinf(found.doubt).tolist() == [True, False, False]
    assert [bool(words) for words in found.against_weighted] == [True, False, False]
    assert found.agreement == "" and found.detail[0] is None
    assert [bool(a) for a in found.alone] == [False, True, True]  # type: ignore[union-attr]


def test_several_posteriors_without_densities_are_not_passed_over() -> None:
    for posteriors in (2, 3):
        found = hear(subject_of(np.full((100, posteriors), math.nan)), {})
        assert not found.absent and found.words == () and found.agreement == ""
        assert np.isposinf(found.numbers["khat"]).all()
        assert all(found.against_weighted) and weights_of({NAME: found}, posteriors) is None


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
    found = given(0.4999, LIMIT, ess=10.0).against_weighted
    assert found[0] == "" and "unreliable" in found[1] and "0.50" in found[1]
    (few,) = given(0.4, ess=9.99).against_weighted
    assert "10 of 100" in few
    assert "unreliable" in given(LIMIT, ess=9.0).against_weighted[0]


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
        assert len(given(khat, shift=0.3).words) == 1


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


def test_weights_of_all_posteriors_side_by_side() -> None:
    log_ratio = np.random.default_rng(0).normal(0, 0.3, (200, 3))
    found = hear(subject_of(log_ratio), {})
    weights = weights_of({NAME: found}, 3)
    assert weights is not None and weights.shape == (200, 3)
    for column, ratio in zip(weights.T, log_ratio.T, strict=True):
        np.testing.assert_array_equal(column, psis(ratio).weights)  # type: ignore[union-attr]
    assert weights_of({}, 3) is None
    assert weights_of({NAME: Testimony(NAME)}, 3) is None
    assert weights_of({NAME: Testimony(NAME, detail=[found.detail[0], None])}, 2) is None


def test_the_heaviest_second_moment_counts() -> None:
    """Of three marginals the weights exp(0.2 z^2) depend on one, so its second moment is the hardest."""
    subject = subject_of(np.zeros((2000, 1)), marginals=3)
    z = subject.values[:, 0, 1]
    log_ratio = 0.2 * np.square(z)
    subject = subject_of(log_ratio[:, None], marginals=3)
    each = [khat_of_moment(log_ratio, column) for column in subject.values[:, 0].T]
    (found,) = importance._khat_of_moments(subject, [psis(log_ratio)])
    assert found == max(each) > min(each)


def test_second_moments_are_left_out_where_weights_are_equal_unknown_or_discrete() -> None:
    log_ratio = np.random.default_rng(0).normal(0, 0.3, (200, 3))
    log_ratio[:, 0], log_ratio[0, 1] = 0.0, math.nan
    found = [psis(column) for column in log_ratio.T]
    known = importance._khat_of_moments(subject_of(log_ratio), found)
    assert np.isnan(known).tolist() == [True, True, False]
    discrete = subject_of(log_ratio, discrete=np.array([True]))
    assert np.isnan(importance._khat_of_moments(discrete, found)).all()


@pytest.mark.parametrize(
    ("marginals", "posteriors", "looked_at", "computed"),
    [(1, 401, 1, 400), (3, 134, 3, 133), (45, 11, 40, 10), (45, 1, 40, 1)],
)
def test_no_more_than_four_hundred_second_moments(
    marginals: int,
    posteriors: int,
    looked_at: int,
    computed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of at most 40 marginals of a posterior."""
    seen: list[float] = []

    def khat(log_ratio: np.ndarray, values: np.ndarray) -> float:
        seen.append(values[0])
        return 0.25

    monkeypatch.setattr(importance, "khat_of_moment", khat)
    subject = subject_of(np.zeros((30, posteriors)), marginals)
    one = Importance(np.full(30, 1 / 30), 0.2, 0.1, 30.0)
    found = importance._khat_of_moments(subject, [one] * posteriors)
    assert (found[:computed] == 0.25).all() and np.isnan(found[computed:]).all()
    assert seen == subject.values[0, :computed, :looked_at].ravel().tolist()
