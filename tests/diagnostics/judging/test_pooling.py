"""What a trust may rest on: estimates pooled by inverse variances, a sample of rows, weights alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Verdict
from guidebook.diagnostics.judging.reasons import pooled, why_not_trust
from guidebook.diagnostics.judging.shares import enough
from guidebook.diagnostics.judging.verdict import judge

NAN = math.nan


def estimate(shift: Any, se: Any = 0.001, able: Any = True) -> Estimate:
    """One marginal of n posteriors; the logarithm of the sd ratio is a tenth of the shift."""
    shift = np.atleast_1d(np.asarray(shift, float))[:, None]
    se = np.broadcast_to(np.asarray(se, float).reshape(-1, 1), shift.shape)
    able = np.broadcast_to(np.asarray(able, bool).reshape(-1, 1), shift.shape)
    return Estimate(shift, se, 0.1 * shift, 2 * se, able)


def findings(*told: Testimony, **facts: Any) -> Findings:
    return Findings(["x"], testimonies={t.witness: t for t in told}, **facts)


def confirming(name: str, *of: Any, **more: Any) -> Testimony:
    """Of a witness that would have seen mass far from the draws, if not said otherwise."""
    own = estimate(*of)
    more = {"far": np.ones(len(own.shift), bool)} | more
    return Testimony(name, role="confirms", estimate=own, **more)


def sharpening(doubt: Sequence[float], *of: Any, **more: Any) -> Testimony:
    return Testimony(
        "Weights", role="sharpens", estimate=estimate(*of), doubt=np.array(doubt), **more
    )


def test_estimates_are_pooled_by_inverse_variances() -> None:
    """Two that confirm, with errors 1 and 2, and one that sharpens, 1 times a doubt of 3."""
    f = findings(
        confirming("Run", [1.0], 1.0, [False]),
        confirming("Other", [3.0], 2.0, [True]),
        sharpening([3.0], [5.0], 1.0, [False]),
    )
    found = pooled(f)
    assert found is not None
    total = 1 + 1 / 4 + 1 / 9
    assert found.shift[0, 0] == pytest.approx((1 + 3 / 4 + 5 / 9) / total)
    assert found.log_ratio[0, 0] == pytest.approx((1 + 3 / 4 + 5 / 9) / total / 10)
    assert found.shift_se[0, 0] == pytest.approx(total**-0.5)
    assert found.log_ratio_se[0, 0] == pytest.approx(2 * total**-0.5)
    assert found.able.tolist() == [[True]]


def test_what_is_in_doubt_or_only_contradicts_is_not_pooled() -> None:
    run = confirming("Run", [1.0, 1.0], 1.0, [True, False])
    weights = sharpening([math.inf, 1.0], [3.0, 3.0], [1.0, math.inf], [True, True])
    contradicting = Testimony("Reference", estimate=estimate([9.0, 9.0]), doubt=np.ones(2))
    found = pooled(findings(run, weights, contradicting, posteriors=2))
    assert found is not None
    np.testing.assert_allclose(found.shift, 1.0)
    np.testing.assert_allclose(found.shift_se, 1.0)
    assert found.able.tolist() == [[True], [False]]  # what sharpens cannot make it judge
    assert pooled(findings(weights, contradicting, posteriors=2)) is None


def test_estimates_of_no_error_and_of_none_but_errors() -> None:
    """Equal errors of the size of rounding give the mean; nothing known of a row is a NaN."""
    exact = pooled(findings(confirming("Run", [0.0], 1e-9), sharpening([1.0], [1.0], 1e-9)))
    assert exact is not None and exact.shift[0, 0] == pytest.approx(0.5)
    unknown = pooled(findings(confirming("Run", [0.0], math.inf), sharpening([math.inf], [1.0])))
    assert unknown is not None
    assert math.isnan(unknown.shift[0, 0]) and unknown.shift_se[0, 0] == math.inf


def test_a_row_is_confirmed_by_whoever_vouches_or_can_judge() -> None:
    run = confirming("Run", [0.0, 0.0, 0.0], 0.001, [False, True, False])
    chains = Testimony("Chains", vouches=np.array([True, False, False]))
    reasons = why_not_trust(findings(run, chains, posteriors=3))
    assert [bool(reason) for reason in reasons] == [False, False, True]


SIZE = 40


def sampled(
    judged: int, off: int = 0, *, weights: Estimate | None = None, blind: int = 0
) -> list[bool]:
    """Which of 40 rows are trusted: the run could judge `judged` of the 20 sampled, of which `off` are
    off; weights without an estimate of their own for the first `blind` rows.
    """
    rows = np.arange(SIZE)
    shift = np.where(rows < off, 0.3, 0.0)
    run = confirming("Run", shift, 0.001, rows < judged)
    own = np.where(rows < blind, 1.0, 0.001)
    told = sharpening([1.0] * SIZE, np.zeros(SIZE), own, rows >= 0)
    reasons = why_not_trust(findings(run, told, posteriors=SIZE, sampled=list(range(20))))
    return [not reason for reason in reasons]


def test_a_sample_confirms_the_rows_whose_weights_are_within_bounds() -> None:
    assert sampled(20) == [True] * SIZE
    assert sampled(11) == [True] * SIZE  # most of the sample could be judged
    assert sampled(10) == [True] * 10 + [False] * 30  # half of it is not most
    assert sampled(20, blind=30) == [True] * 20 + [False] * 10 + [True] * 10


def test_a_sample_that_disagrees_confirms_no_other_rows() -> None:
    """P(1 or more of 20 off) = 0.18 at 99 %, P(2 or more) = 0.017."""
    assert sampled(20, off=1)[20:] == [True] * 20
    assert sampled(20, off=2)[20:] == [False] * 20


@pytest.mark.parametrize(
    ("rows_off", "confirmed"), [([0], True), ([0, 1], False), ([0, 15], False)]
)
def test_a_sample_of_which_two_witnesses_see_halves(rows_off: list[int], confirmed: bool) -> None:
    """Of 20 sampled rows one could judge the first half and another the second: all were judged."""
    rows = np.arange(SIZE)
    shift = np.where(np.isin(rows, rows_off), 0.3, 0.0)
    told = [
        confirming("Run", shift, 0.001, rows < 10),
        confirming("Other", shift, 0.001, (rows >= 10) & (rows < 20)),
        sharpening([1.0] * SIZE, np.zeros(SIZE)),
    ]
    f = findings(*told, posteriors=SIZE, sampled=list(range(20)))
    assert (not why_not_trust(f)[-1]) is confirmed


def test_a_row_of_the_sample_is_judged_by_all_its_marginals() -> None:
    zero = np.zeros((4, 2))
    own = Estimate(zero, zero + 0.001, zero, zero + 0.001, zero == 0)
    for able, confirmed in (([True, True], True), ([True, False], False), ([False, True], False)):
        run = Estimate(zero, zero, zero, zero, np.array([able, able, [False] * 2, [False] * 2]))
        f = Findings(
            ["x", "y"], posteriors=4, sampled=[0, 1],
            testimonies={
                "Run": Testimony("Run", role="confirms", estimate=run),
                "Weights": Testimony("Weights", role="sharpens", estimate=own),
                "None": Testimony("None", role="sharpens"),
            },
        )  # fmt: skip
        assert (not why_not_trust(f)[3]) is confirmed


def test_what_only_contradicts_confirms_no_row_by_way_of_a_sample() -> None:
    run = confirming("Run", [0.0, 0.0], 0.001, [True, False])
    other = Testimony("Reference", role="compares", estimate=estimate([0.0, 0.0]))
    f = findings(run, other, posteriors=2, sampled=[0])
    assert [bool(reason) for reason in why_not_trust(f)] == [False, True]


def alone(*told: Testimony, stein: Sequence[float] = (0.1,), **facts: Any) -> bool:
    """Whether weights that would do alone are enough for the first posterior."""
    weights = Testimony("Weights", alone=np.ones(len(stein), bool))
    gradients = Testimony("Stein's identities", supports=np.isfinite(stein))
    reasons = why_not_trust(findings(weights, gradients, *told, posteriors=len(stein), **facts))
    return not reasons[0]


def test_weights_alone_where_nothing_better_could_judge() -> None:
    able, unable = [True], [False]
    assert alone() and alone(converged=True)
    assert not alone(converged=False)
    assert not alone(discrete=True)
    assert not alone(stein=[NAN])
    assert alone(confirming("Run", [0.0], 0.001, unable))
    for first, second in ((able, unable), (unable, able)):  # off by too much, or too unsure
        told = [confirming(n, [0.0], 1.0, a) for n, a in (("Run", first), ("Other", second))]
        assert not alone(*told)


def test_weights_alone_need_the_gradients_of_the_whole_sample() -> None:
    assert alone(stein=[NAN, 0.1, 0.1], sampled=[1, 2])
    assert not alone(stein=[NAN, 0.1, NAN], sampled=[1, 2])
    assert not alone(stein=[0.1, 0.1, NAN], sampled=[1, 2])
    assert alone(stein=[0.1, NAN]) and not alone(stein=[NAN, 0.1])


@pytest.mark.parametrize(
    ("reasons", "share", "fine"),
    [
        ([""], 0.5, True),
        (["off"], 0.0, False),
        (["", "off"], 0.5, True),
        (["", "off"], 0.51, False),
        (["", "", "off"], 2 / 3, True),
        (["", "", "off"], 0.67, False),
    ],
)
def test_one_posterior_has_no_share_and_two_have(
    reasons: list[str], share: float, fine: bool
) -> None:
    assert enough(reasons, share, Findings(["x"], posteriors=len(reasons))) is fine


def test_checks_of_a_sample_hold_for_the_other_rows() -> None:
    """Weighted draws of rows that only a sample of costly witnesses could check."""

    def verdict(checked: list[bool], places: list[int] | None) -> Verdict:
        n = len(checked)
        weights = Testimony(
            "Weights", against=["off"] * n, checks=np.array(checked),
            against_weighted=[""] * n, weak_weighted=[""] * n,
            numbers={"khat": np.full(n, 0.3), "ess": np.full(n, 500.0)},
        )  # fmt: skip
        return judge(findings(weights, posteriors=n, sampled=places)).verdict

    assert verdict([True, True, False], [0, 1]) is Verdict.REWEIGHT
    assert verdict([True, False, False], [0, 1]) is Verdict.REJECT
    assert verdict([True, True, False], None) is Verdict.REJECT
    assert verdict([True, True, True], None) is Verdict.REWEIGHT
    # rows that were checked by themselves do not lose it by a sample that was not
    assert verdict([False, *[True] * 99], [0]) is Verdict.REWEIGHT
