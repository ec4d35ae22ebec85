"""A verdict on many posteriors: the shares of rows, in all and in a sample, at their limits."""

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.judging.shares import enough_of_sample
from guidebook.diagnostics.judging.verdict import _marked, judge

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
