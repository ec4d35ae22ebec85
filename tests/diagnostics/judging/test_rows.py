"""A verdict on many posteriors: the shares of rows, in all and in a sample, at their limits."""

from dataclasses import replace

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.judging.reasons import _seen_far, _weighted_within
from guidebook.diagnostics.judging.shares import enough_of_sample
from guidebook.diagnostics.judging.verdict import _marked, judge, verdicts_of_rows

TRUST, REWEIGHT, REJECT = Verdict.TRUST, Verdict.REWEIGHT, Verdict.REJECT
ROWS = 1000


def judged(off: int, weighted_off: int = 0, sampled: list[int] | None = None) -> Judgement:
    """Of the last `off` rows the raw draws are off, of the last `weighted_off` the weighted ones too."""
    zero = np.zeros((ROWS, 2))
    right = Estimate(zero, zero + 0.001, zero, zero + 0.001, zero == 0)
    everyone = np.ones(ROWS, bool)
    testimony = Testimony(
        "Importance weights",
        role="confirms",
        estimate=right,
        weighted=right,
        against=[""] * (ROWS - off) + ["off"] * off,
        against_weighted=[""] * (ROWS - weighted_off) + ["weighted off"] * weighted_off,
        checks=everyone,
        far=everyone,
        numbers={"khat": np.full(ROWS, 0.3), "ess": np.full(ROWS, 500.0)},
    )
    return judge(
        Findings(["z[0]", "z[1]"], posteriors=ROWS, testimonies={testimony.witness: testimony},
                 draws=1000, sampled=sampled)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("off", "weighted_off", "verdict"),
    [(0, 0, TRUST), (10, 10, TRUST), (11, 0, REWEIGHT), (11, 50, REWEIGHT), (11, 51, REJECT)],
)
def test_99_of_100_to_trust_and_95_to_reweight(
    off: int, weighted_off: int, verdict: Verdict
) -> None:
    found = judged(off, weighted_off)
    assert found.verdict is verdict, found.reason
    if verdict is not TRUST:
        assert f"row {ROWS - off}: off" in found.reason


def test_one_posterior_has_no_share() -> None:
    zero = np.zeros((1, 1))
    right = Estimate(zero, zero, zero, zero, zero == 0)
    for words, verdict in (("", TRUST), ("off", REJECT)):
        one = Testimony(
            "Run", role="confirms", estimate=right, against=[words], far=np.ones(1, bool)
        )
        assert judge(Findings(["x"], testimonies={"Run": one})).verdict is verdict


@pytest.mark.parametrize(
    ("size", "off", "share", "fine"),
    [
        (36, 2, 0.99, True),  # P(2 or more of 36) = 0.0503
        (35, 2, 0.99, False),  # 0.0479
        (50, 0, 0.99, True),
        (6, 1, 0.99, True),  # 0.0585
        (5, 1, 0.99, False),  # 0.0490
        (17, 3, 0.95, True),  # 0.0503
        (28, 4, 0.95, False),  # 0.0491
    ],
)
def test_a_sample_speaks_against_the_rest_where_chance_would_not(
    size: int, off: int, share: float, fine: bool
) -> None:
    assert enough_of_sample(np.arange(size) >= off, share) is fine


def test_rows_off_that_are_few_in_all_and_many_in_the_sample() -> None:
    """Ten of 1,000 rows are off, and the sample holds five of them: it is not like the others."""
    assert judged(10, 10, sampled=list(range(0, 1000, 10))).verdict is TRUST
    found = judged(10, 10, sampled=[*range(95), *range(990, 995)])
    assert found.verdict is REWEIGHT, found.reason
    assert judged(10, 10, sampled=[*range(20), *range(990, 995)]).verdict is REJECT


@pytest.mark.parametrize("posteriors", [1, 2])
def test_a_point_is_rejected_with_words_of_its_own(posteriors: int) -> None:
    found = judge(Findings(["z"], kind="point", posteriors=posteriors))
    assert found.verdict is REJECT
    assert ("each row" in found.reason) is (posteriors > 1)


def marked(
    rows: int, unusable: int, off: int = 0, sampled: list[int] | None = None, weights: bool = True
) -> bool:
    """Whether rows are marked, of which the first have unusable weights and the last are off for others."""
    words = ["k-hat"] * unusable + [""] * (rows - unusable)
    told = Testimony("Importance weights", doubt=np.ones(rows), against_weighted=words)
    other = Testimony("Run", against_weighted=["off"] * rows)  # what is not said by the weights
    heard = {"Run": other, **({told.witness: told} if weights else {})}
    reasons = words[: rows - off] + ["off"] * off
    findings = Findings(["x"], posteriors=rows, testimonies=heard, sampled=sampled)
    return _marked(findings, reasons)


def test_rows_are_marked_where_eighty_of_a_hundred_can_be_reweighted() -> None:
    assert marked(100, 20) and not marked(100, 21)
    assert marked(2, 0) and not marked(1, 0)
    # of those with usable weights 95 % must be within bounds, by whoever looked
    assert marked(110, 10, 5) and not marked(110, 10, 6)
    assert marked(100, 0, 5, weights=False) and not marked(100, 0, 6, weights=False)


def test_of_the_sample_only_rows_with_usable_weights_speak_for_the_others() -> None:
    """Of twenty from rows of which 95 % are good three are off with chance 0.076, four with 0.016."""
    usable = list(range(20, 37))
    for off, expected in ((3, True), (4, False)):
        sampled = [*range(20), *usable[: 20 - off], *range(1000 - off, 1000)]
        assert marked(1000, 20, off, sampled) == expected
    assert not marked(1000, 20, 0, list(range(20)))  # none of those looked at


def test_the_reason_is_that_of_a_row_that_more_witnesses_looked_at_where_one_was_off() -> None:
    found = judged(11, 51, [*range(20), 995])
    assert "95% of the 21 rows looked at closely are within bounds; row 995: off" in found.reason
    found = judged(11, 51, list(range(21)))
    assert "99% of the 1000 rows are within bounds; row 989: off" in found.reason


@pytest.mark.parametrize(
    ("seen", "sampled", "expected"),
    [
        ([1, 1, 0, 0], [0, 1], [1, 1, 1, 1]),  # all of the sample: so it is of rows like it
        ([1, 0, 0, 1], [0, 1], [1, 0, 0, 1]),
        ([0, 0, 0, 1], [0, 1], [0, 0, 0, 1]),
        ([1, 1, 0, 0], None, [1, 1, 0, 0]),
    ],
)
def test_far_mass_is_seen_of_all_rows_where_it_is_of_the_whole_sample(
    seen: list[int], sampled: list[int] | None, expected: list[int]
) -> None:
    run = Testimony("Run", far=np.array(seen, bool))
    findings = Findings(["x"], posteriors=4, testimonies={"Run": run}, sampled=sampled)
    assert _seen_far(findings).tolist() == [bool(one) for one in expected]


def test_weighted_draws_are_within_bounds_where_every_marginal_was_judged() -> None:
    zero = np.zeros((3, 2))
    able = np.array([[True, True], [True, False], [False, False]])
    told = Testimony("Run", role="confirms", weighted=Estimate(*[zero] * 4, able))
    found = _weighted_within(told)
    assert found is not None and found.tolist() == [True, False, False]
    off = replace(told, weighted=Estimate(zero + np.array([0.0, 1.0]), *[zero] * 3, able | True))
    found = _weighted_within(off)
    assert found is not None and not found.any()
    assert _weighted_within(replace(told, role="compares")) is None


def test_every_row_has_a_verdict_of_its_own() -> None:
    raw, weighted = ["", "off", "off", ""], ["", "", "weighted off", "weighted off"]
    zero = np.zeros((4, 1))
    right, every = Estimate(*[zero] * 4, zero == 0), np.ones(4, bool)
    told = Testimony(
        "Run", role="confirms", estimate=right, weighted=right, against=raw,
        against_weighted=weighted, checks=every, far=every, numbers={"khat": np.full(4, 0.3)},
    )  # fmt: skip
    findings = Findings(["x"], posteriors=4, testimonies={"Run": told})
    assert verdicts_of_rows(findings) == [TRUST, REWEIGHT, REJECT, TRUST]
    assert verdicts_of_rows(replace(findings, kind="point")) == [REJECT] * 4


def test_right_draws_without_a_look_far_away_have_the_doubt_named() -> None:
    zero = np.zeros((1, 1))
    right = Estimate(zero, zero + 0.001, zero, zero + 0.001, zero == 0)
    run = Testimony("Run", role="confirms", estimate=right)
    weights = Testimony("Importance weights", numbers={"khat": np.array([0.83])})
    for heard, words in (
        ([run, weights], "k-hat is 0.83"),
        ([run], "there are no importance weights"),
    ):
        found = judge(Findings(["x"], testimonies={t.witness: t for t in heard}))
        assert found.verdict is REJECT and words in found.reason
