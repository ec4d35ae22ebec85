"""What is stated of given importance weights, at every limit, of one posterior and of several.

Where the limit of k-hat is reached exactly there are 100 draws: 1 - 1 / log10 100 = 1 / 2.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.numerics.psis import Importance, khat_of_moment, psis
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.importance import (
    EVIDENCE,
    NAME,
    hear,
    khat_by_site,
    weights_of,
)

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
        assert all(found.against_weighted) and weights_of({NAME: found}) is None


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


def test_weights_of_all_posteriors_side_by_side() -> None:
    log_ratio = np.random.default_rng(0).normal(0, 0.3, (200, 3))
    found = hear(subject_of(log_ratio), {})
    weights = weights_of({NAME: found})
    assert weights is not None and weights.shape == (200, 3)
    for column, ratio in zip(weights.T, log_ratio.T, strict=True):
        np.testing.assert_array_equal(column, psis(ratio).weights)  # type: ignore[union-attr]
    assert weights_of({}) is None
    assert weights_of({NAME: Testimony(NAME)}) is None
    assert weights_of({NAME: Testimony(NAME, detail=[found.detail[0], None])}) is None


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


def test_errors_of_two_draws_in_closed_form() -> None:
    """Draws 10 -+ 3 of weights 3/4 and 1/4: weighted, the mean is 8.5 and the sd 3 sqrt(3/4).

    In weighted sds z^2 is 1/3 and 3, and the weights differ from 1/2 by 1/4.
    """
    values = np.array([-1.0, 1.0])[:, None, None] * [[1.0, 3.0], [3.0, 1.0]] + [0.0, 10.0]
    weights = np.array([0.75, 0.25])
    known, heavy = (Importance(weights, khat, 0.1, 1.6) for khat in (0.03, 0.05))  # limit 0.04
    subject = subject_of(np.zeros((2, 2)), 2, values=values)
    for found in ([known, known], [None, known], [heavy, known]):
        stated = importance._estimate(subject, found)
        for row in (1,) if found[0] is None else (0, 1):
            np.testing.assert_allclose(stated.shift[row], 0.5 / math.sqrt(0.75))
            np.testing.assert_allclose(stated.shift_se[row], math.sqrt(1 / 3 + 3) / 4)
            np.testing.assert_allclose(stated.log_ratio[row], -math.log(0.75) / 2)
            np.testing.assert_allclose(stated.log_ratio_se[row], math.sqrt(4 / 9 + 4) / 8)
        assert stated.able.tolist() == [[known is found[0]] * 2, [True, True]]
        assert bool(np.isnan(stated.shift[0]).all()) is (found[0] is None)


def test_errors_of_discrete_values_are_in_units_of_their_least_sd() -> None:
    """20 / sqrt 2 of two draws, above the sds 1 and sqrt(3/4): the widths agree, the means do not."""
    values = np.array([-1.0, 1.0])[:, None, None]
    subject = subject_of(np.zeros((2, 1)), values=values, discrete=np.array([True]))
    found = importance._estimate(subject, [Importance(np.array([0.75, 0.25]), 0.1, 0.1, 1.6)])
    assert found.log_ratio[0, 0] == pytest.approx(0.0, abs=1e-12)
    assert found.shift[0, 0] == pytest.approx(0.5 / (20 / math.sqrt(2)))


def test_stated_errors_are_not_below_those_of_replications() -> None:
    """80 sets of draws of N(0, 1) for N(0.1, 0.95^2), the ratio known to 8 % (five of them: 1.4).

    The stated ones are larger: both moments are taken about those of the weighted draws.
    """
    z = np.random.default_rng(0).standard_normal((200, 80))
    log_ratio = 0.5 * z**2 - 0.5 * np.square((z - 0.1) / 0.95)
    subject = subject_of(log_ratio, values=z[:, :, None])
    found = importance._estimate(subject, [psis(column) for column in log_ratio.T])
    for value, error, expected in (
        (found.shift, found.shift_se, -0.1 / 0.95),
        (found.log_ratio, found.log_ratio_se, -math.log(0.95)),
    ):
        stated = math.sqrt(np.square(error).mean())
        assert 0.3 < value.std(ddof=1) / stated < 1.4
        assert abs(value.mean() - expected) < 5 * stated / math.sqrt(80) + 1 / 200


def test_the_heaviest_marginal_of_a_site_with_the_error_of_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importance, "khat_of_moment", lambda _, values: values[0])
    one = Importance(np.full(30, 1 / 30), 0.2, 0.1, 30.0)
    names, khats = ["z[0]", "z[1]", "z[2]", "w[1]", "mu"], np.array([0.3, 0.5, 0.4, -0.6, 0.2])
    found = khat_by_site(names, khats * np.ones((30, 1)), np.zeros(30), one)
    assert found == {"z": (0.5, 0.1), "w": (-0.6, 0.1), "mu": (0.2, 0.1)}


def test_sites_without_weights_have_no_khat() -> None:
    values = np.random.default_rng(0).standard_normal((30, 1))
    one = Importance(np.full(30, 1 / 30), 0.2, 0.1, 30.0)
    equal = Importance(np.full(30, 1 / 30), -math.inf, 0.0, 30.0)
    assert khat_by_site(["z"], values, None, one) == {}
    assert khat_by_site(["z"], values, np.zeros(30), None) == {}
    assert khat_by_site(["z"], values, None, None) == {}
    assert khat_by_site(["z"], values, np.zeros(30), equal) == {}


def test_the_first_two_hundred_marginals_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "khat_of_moment", lambda *_: 0.3)
    names = [f"z{j}" for j in range(230)]
    one = Importance(np.full(30, 1 / 30), 0.2, 0.1, 30.0)
    found = khat_by_site(names, np.zeros((30, 230)), np.zeros(30), one)
    assert list(found) == names[:200]
