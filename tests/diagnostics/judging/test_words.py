"""The reasons of a verdict state what was found: which row, which marginal, and what is missing."""

from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.judging.reasons import NOT_SEEN
from guidebook.diagnostics.judging.verdict import NOTHING, judge


def run(able: list[bool], shift: float = 0.0) -> Testimony:
    """On two marginals of one posterior."""
    one = np.ones((1, 2))
    given = Estimate(shift * one, 0.02 * one, 0 * one, 0.02 * one, np.array([able]))
    far = np.ones(1, bool)
    return Testimony("Run", role="confirms", estimate=given, far=far, agreement="the run stays")


def weights(khat: float, **more: Any) -> Testimony:
    return Testimony(
        "Weights",
        numbers={"khat": np.array([khat]), "khat_se": np.array([0.0]), "ess": np.array([450.0])},
        **more,
    )


ABSENT = Testimony("Importance weights", absent="no log_q")
UNCHECKED = Testimony("Modes", absent="needs the model")


def judged(*told: Testimony, **facts: Any) -> Judgement:
    return judge(Findings(["x", "y"], testimonies={t.witness: t for t in told}, **facts))


@pytest.mark.parametrize(
    ("told", "states", "leaves_out"),
    [
        ([], [NOT_SEEN], ["k-hat", "mix"]),
        ([ABSENT], [f"{NOT_SEEN}: Importance weights (no log_q)."], ["k-hat", "mix"]),
        ([weights(0.9)], ["k-hat is 0.90"], [NOT_SEEN, "mix"]),
        ([run([True, True], 0.09)], ["the mean of x is 0.09 sd too high"], [NOT_SEEN, "mix"]),
        ([run([True, False])], ["mix for y", "no importance weights"], [NOT_SEEN, "k-hat", "0.09"]),
        ([run([False, True]), weights(0.9)], ["mix for x", "k-hat is 0.90"], [NOT_SEEN]),
    ],
)
def test_why_nothing_confirms(
    told: list[Testimony], states: list[str], leaves_out: list[str]
) -> None:
    found = judged(*told)
    assert found.verdict is Verdict.REJECT
    assert all(one in found.reason for one in states), found.reason
    assert not any(one in found.reason for one in leaves_out), found.reason


def test_why_discrete_draws_are_not_confirmed() -> None:
    words = judged(run([False, False]), discrete=True).reason
    assert words.startswith("Discrete variables have no gradients")


def test_why_weighted_draws_cannot_be_used() -> None:
    assert "cannot be reweighted" in judged().reason
    assert "Importance weights (no log_q)." in judged(ABSENT).reason.split("reweighted")[1]
    off = run([True, True])
    usable = weights(0.3, against=["off"], against_weighted=[""])
    smooth, discrete = (judged(off, usable, discrete=one).reason for one in (False, True))
    assert "independent of the importance weights" in smooth and "gradients" not in smooth
    assert "gradients" in discrete and "independent" not in discrete
    assert "weigh" in judged().reason and "weigh" not in judged(kind="chains").reason


def test_what_was_not_checked_is_named_with_a_trust() -> None:
    assert judged(run([True, True])).next == NOTHING
    found = judged(run([True, True]), ABSENT, UNCHECKED)
    assert found.verdict is Verdict.TRUST
    assert found.next == "Not checked: Importance weights (no log_q); Modes (needs the model)."
    other = Testimony("Weights", agreement="weights agree")
    assert judged(run([True, True]), other).reason == "The run stays, weights agree."


def test_how_one_approximation_is_mended() -> None:
    usable = weights(0.3, against=["The mean is off."], checks=np.ones(1, bool))
    found = judged(run([True, True]), usable, draws=1000)
    assert found.verdict is Verdict.REWEIGHT
    assert found.reason.startswith("The mean is off. ")
    assert "k-hat 0.30" in found.reason and "450 of 1000" in found.reason
    assert "comparison.weighted(name)" in found.next


def test_how_rows_are_summed_up() -> None:
    def of(off: int, weighted_off: int, rows: int = 100) -> Judgement:
        everyone, zero = np.ones(rows, bool), np.zeros((rows, 2))
        right = Estimate(zero, zero, zero, zero, zero == 0)
        return judged(
            Testimony(
                "Run", role="confirms", estimate=right, agreement="the run stays", checks=everyone,
                far=everyone,
                against=[""] * (rows - off) + ["raw off."] * off,
                against_weighted=[""] * (rows - weighted_off) + ["weighted off."] * weighted_off,
                numbers={"khat": np.full(rows, 0.3), "ess": np.full(rows, 10.0)},
            ),
            posteriors=rows,
        )  # fmt: skip

    assert of(1, 0).reason == "99% of the 100 rows are within bounds. The run stays."
    mended = of(30, 2)
    assert mended.reason.startswith("70% of the 100 rows are within bounds; row 70: raw off. ")
    assert "98%" in mended.reason and "k-hat" not in mended.reason
    assert "log p(x, z) - log q(z | x)" in mended.next
    assert of(30, 20).reason == (
        "70% of the 100 rows are within bounds; row 70: raw off. "
        "80% of the 100 rows are within bounds after weighting; row 80: weighted off."
    )
    two = of(1, 1, rows=2).reason
    assert two.startswith("50% of the 2 rows are within bounds; row 1: raw off. 50% of the 2")
    of_two = of(1, 0, rows=2)
    assert "100%" in of_two.reason and "k-hat" not in of_two.reason
    assert "log p(x, z) - log q(z | x)" in of_two.next
