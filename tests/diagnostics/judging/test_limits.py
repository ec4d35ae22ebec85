"""Every limit of the verdict, just inside and just outside, one witness at a time."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.judging.findings import Findings, Verdict
from guidebook.diagnostics.judging.verdict import judge
from guidebook.diagnostics.witnesses.testimony import Estimate

TRUST, REWEIGHT, REJECT = Verdict.TRUST, Verdict.REWEIGHT, Verdict.REJECT


def estimate(
    shift: float = 0.0,
    log_ratio: float = 0.0,
    se: float = 0.001,
    able: bool = True,
    log_ratio_se: float | None = None,
) -> Estimate:
    one = np.ones(1)
    other = se if log_ratio_se is None else log_ratio_se
    return Estimate(shift * one, se * one, log_ratio * one, other * one, np.array([able]))


RIGHT, OFF, UNSEEN = estimate(), estimate(shift=0.3), estimate(able=False)

GOOD = Findings(
    names=["x"], family="mean_field", engine="svi", draws=20_000, converged=True, khat=0.3,
    khat_se=0.1, khat_moments=0.3, ess=15_000, importance=RIGHT, stein=0.02,
    stein_weighted=0.01, transport=RIGHT, weighted_transport=RIGHT,
)  # fmt: skip

MENDED = {"transport": OFF, "importance": OFF}
"""The raw draws are off and the weighted ones are not: reweight."""

ALONE = {"transport": None, "weighted_transport": None}
"""Draws without a model: nothing but the weights and the surface of the density."""

DISCRETE = {"discrete": True, "reference": RIGHT, "reference_sound": True, "transport": None,
            "weighted_transport": None, "weighted_reference": RIGHT, "stein": math.nan,
            "stein_weighted": math.nan}  # fmt: skip

UNCOMPARED = DISCRETE | {"reference": None, "weighted_reference": None, "reference_sound": False}

SAMPLER = {"sampler": True, "engine": "nuts", "khat": math.nan, "importance": None}

LIMITS: dict[str, tuple[dict[str, Any], Verdict]] = {
    # Stein's discrepancy: 0.35
    "Stein at the limit": ({"stein": 0.35}, TRUST),
    "Stein beyond it": ({"stein": 0.3501}, REWEIGHT),
    "Stein beyond it, weighted too": ({"stein": 0.3501, "stein_weighted": 0.35}, REJECT),
    "the weighted Stein within": (MENDED | {"stein_weighted": 0.3499}, REWEIGHT),
    "the weighted Stein unknown": (MENDED | {"stein_weighted": math.nan}, REJECT),
    "a sampler's Stein at the limit": (SAMPLER | {"stein": 0.35}, TRUST),
    "a sampler's Stein beyond it": (SAMPLER | {"stein": 0.3501}, REJECT),
    "a sampler's Stein unknown": (SAMPLER | {"stein": math.nan}, TRUST),
    "a sampler that has not converged": (SAMPLER | {"converged": False}, REJECT),
    "a sampler of which that is not known": (SAMPLER | {"converged": None}, REJECT),
    "a sampler against a sound reference": (
        SAMPLER | {"reference": OFF, "reference_sound": True}, REJECT),
    "a sampler against an unsound one": (SAMPLER | {"reference": OFF}, TRUST),
    # k-hat alone: k + its error below 0.5, of the weights and of second moments; Stein must agree
    "k-hat alone": (ALONE | {"khat": 0.399, "khat_moments": 0.3}, TRUST),
    "k-hat alone, too large": (ALONE | {"khat": 0.401, "khat_moments": 0.3}, REWEIGHT),
    "its second moments": (ALONE | {"khat_moments": 0.399}, TRUST),
    "its second moments, too large": (ALONE | {"khat_moments": 0.401}, REWEIGHT),
    "second moments unknown": (ALONE | {"khat_moments": math.nan}, TRUST),
    "second moments unknown, k-hat too large": (
        ALONE | {"khat": 0.401, "khat_moments": math.nan}, REWEIGHT),
    "k-hat alone, Stein within": (ALONE | {"stein": 0.3499}, TRUST),
    "k-hat alone, Stein at the limit": (ALONE | {"stein": 0.35}, REWEIGHT),
    "k-hat alone, Stein unknown": (ALONE | {"stein": math.nan}, REWEIGHT),
    "k-hat alone, not converged": (ALONE | {"converged": False}, REWEIGHT),
    "k-hat alone, convergence unknown": (ALONE | {"converged": None}, TRUST),
    "k-hat alone, errors within": (ALONE | {"importance": estimate(0.05, se=0.0249)}, TRUST),
    "k-hat alone, errors beyond": (ALONE | {"importance": estimate(0.05, se=0.0251)}, REWEIGHT),
    "equal weights": (
        ALONE | {"khat": -math.inf, "khat_se": 0.0, "khat_moments": math.nan}, TRUST),
    "a run that sees something else": (
        {"transport": Estimate(*(np.zeros(2) for _ in range(4)), np.array([True, False])),
         "importance": Estimate(*(np.zeros(2) for _ in range(4)), np.array([True, True])),
         "names": ["x", "y"]}, REWEIGHT),
    "a run that sees nothing": ({"transport": UNSEEN}, TRUST),
    # k-hat against its limit: is importance weighting heard, can its weights be used?
    "weights heard": ({"khat": 0.6999, "importance": OFF}, REWEIGHT),
    "weights not heard": ({"khat": 0.7, "importance": OFF}, TRUST),
    "weights usable": (MENDED | {"khat": 0.6999}, REWEIGHT),
    "weights unusable": (MENDED | {"khat": 0.7}, REJECT),
    "another limit": (MENDED | {"khat": 0.5, "khat_limit": 0.5}, REJECT),
    "k-hat unknown": (MENDED | {"khat": math.nan}, REJECT),
    "no weights": (MENDED | {"importance": None}, REJECT),
    # effective draws: a tenth
    "a tenth of the draws": (MENDED | {"ess": 2000.0}, REWEIGHT),
    "less than a tenth": (MENDED | {"ess": 1999.0}, REJECT),
    "effective draws unknown": (MENDED | {"ess": math.nan}, REJECT),
    # second moments of the weights, unless the run confirms the weighted draws
    "second moments at the limit": (
        MENDED | {"khat_moments": 0.7, "weighted_transport": None}, REWEIGHT),
    "second moments beyond": (MENDED | {"khat_moments": 0.701, "weighted_transport": None}, REJECT),
    "beyond, and confirmed": (
        MENDED | {"khat_moments": 0.9, "weighted_transport": estimate(0.0999)}, REWEIGHT),
    "beyond, and not confirmed": (
        MENDED | {"khat_moments": 0.9, "weighted_transport": estimate(0.1001)}, REJECT),
    # weighted draws that are off
    "weighted off by the run": (MENDED | {"weighted_transport": OFF}, REJECT),
    "weighted off by a sound reference": (
        MENDED | {"weighted_reference": OFF, "reference_sound": True}, REJECT),
    "weighted off by an unsound one": (MENDED | {"weighted_reference": OFF}, REWEIGHT),
    "weighted right by a sound one": (
        MENDED | {"weighted_reference": RIGHT, "reference_sound": True}, REWEIGHT),
    # raw draws that are off
    "off by the run": ({"transport": OFF}, REWEIGHT),
    "off by the weights": ({"importance": OFF}, REWEIGHT),
    "off by a sound reference": ({"reference": OFF, "reference_sound": True}, REWEIGHT),
    "perhaps off by a sound reference": (
        {"reference": estimate(0.1001, se=0.1), "reference_sound": True}, REWEIGHT),
    "perhaps right by it": (
        {"reference": estimate(0.0999, se=0.1), "reference_sound": True}, TRUST),
    "off by an unsound reference": ({"reference": OFF}, TRUST),
    "the weights contradict": (
        {"importance": estimate(0.13, se=0.0149, log_ratio_se=0.001, able=False)}, REWEIGHT),
    "the weights do not contradict": (
        {"importance": estimate(0.13, se=0.0151, log_ratio_se=0.001, able=False)}, TRUST),
    "near the limit": (ALONE | {"transport": estimate(0.09, se=0.006), "khat": 0.8}, REJECT),
    "nearer, and surer": (ALONE | {"transport": estimate(0.09, se=0.004), "khat": 0.8}, TRUST),
    # nothing but a reference
    "a reference alone": (
        ALONE | {"khat": math.nan, "importance": None, "reference": RIGHT,
                 "reference_sound": True, "stein": math.nan}, TRUST),
    "an unsound one alone": (
        ALONE | {"khat": math.nan, "importance": None, "reference": RIGHT, "stein": math.nan},
        REJECT),
    "a reference that is not sure": (
        ALONE | {"khat": math.nan, "importance": None, "reference": estimate(0.05, se=0.03),
                 "reference_sound": True, "stein": math.nan}, REJECT),
    # against everything
    "vetoed": ({"vetoed": "Restarts disagree."}, REJECT),
    "a missing mode": ({"missing_mode": "a mode at 9"}, REJECT),
    "a point": ({"point": True}, REJECT),
    # discrete
    "discrete, all agree": (DISCRETE, TRUST),
    "discrete, no reference": (UNCOMPARED, REJECT),
    "discrete, an unsound reference": (DISCRETE | {"reference_sound": False}, REJECT),
    "discrete, enumerated": (
        UNCOMPARED | {"engine": "exact", "khat": -math.inf}, TRUST),
    "discrete, exact in name": (UNCOMPARED | {"engine": "exact"}, REJECT),
    "discrete, equal weights of another": (UNCOMPARED | {"khat": -math.inf}, REJECT),
    "discrete, dependence wrong": (DISCRETE | {"khat": 0.7}, REJECT),
    "discrete, dependence right": (DISCRETE | {"khat": 0.6999}, TRUST),
    "discrete, off by the weights": (DISCRETE | {"importance": OFF}, REWEIGHT),
    "discrete, off by the reference": (DISCRETE | {"reference": OFF}, REWEIGHT),
    "discrete, weighted off": (
        DISCRETE | {"importance": OFF, "weighted_reference": OFF}, REJECT),
}  # fmt: skip


@pytest.mark.parametrize("rule", LIMITS)
def test_limit(rule: str) -> None:
    changes, verdict = LIMITS[rule]
    judgement = judge(replace(GOOD, **changes))
    assert judgement.verdict is verdict
    assert judgement.reason and judgement.next


@pytest.mark.parametrize("error", ["shift", "log_ratio"])
@pytest.mark.parametrize(
    ("khat", "inside", "outside"), [(0.3, 0.0451, 0.0454), (0.6, 0.0451 / 1.4, 0.0454 / 1.4)]
)
def test_run_and_weights_are_pooled_by_their_variances(
    error: str, khat: float, inside: float, outside: float
) -> None:
    """An error of half its limit L with a standard error of 0.3 L is too unsure, and must be pooled to
    L / 4: the weights' own must be below L / sqrt(16 - 1 / 0.09) = 0.4523 L, and is multiplied by
    1 + 4 (k - 0.5) beyond k = 0.5.
    """
    limit = {"shift": 0.1, "log_ratio": math.log(1.2)}[error]

    def of(se: float) -> Estimate:
        return estimate(
            **{error: limit / 2}, se=se if error == "shift" else 0.0,
            log_ratio_se=se if error == "log_ratio" else 0.0,
        )  # fmt: skip

    run = of(0.3 * limit)
    for share, verdict in ((inside, TRUST), (outside, REWEIGHT)):
        found = judge(replace(GOOD, khat=khat, transport=run, importance=of(10 * share * limit)))
        assert found.verdict is verdict
    unheard = judge(replace(GOOD, khat=0.9, transport=run, importance=of(0.0)))
    assert unheard.verdict is REJECT


@pytest.mark.parametrize("error", ["shift", "log_ratio"])
def test_the_surer_one_counts_more(error: str) -> None:
    """Errors 0 and 0.9 L: pooled to 0.09 L where the first is three times as sure, else to 0.81 L."""
    limit = {"shift": 0.1, "log_ratio": math.log(1.2)}[error]

    def of(value: float, se: float) -> Estimate:
        return estimate(**{error: value * limit}, se=se * limit, log_ratio_se=se * limit)

    sure = replace(GOOD, transport=of(0.0, 0.2), importance=of(0.9, 0.6))
    assert judge(sure).verdict is TRUST
    unsure = replace(GOOD, transport=of(0.0, 0.6), importance=of(0.9, 0.2))
    assert judge(unsure).verdict is REWEIGHT


def test_estimates_without_any_error_can_be_pooled() -> None:
    exact = estimate(se=0.0)
    assert judge(replace(GOOD, transport=exact, importance=exact)).verdict is TRUST


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transport": estimate(shift=0.3)}, "high"),
        ({"transport": estimate(shift=-0.3)}, "low"),
        ({"importance": estimate(log_ratio=0.5)}, "wide"),
        ({"importance": estimate(log_ratio=-0.5)}, "narrow"),
        ({"reference": estimate(shift=-0.3), "reference_sound": True}, "low"),
    ],
)
def test_the_reason_names_the_direction(changes: dict[str, Any], said: str) -> None:
    reason = judge(replace(GOOD, **changes)).reason
    assert said in reason and "x" in reason
    assert not any(other in reason for other in {"high", "low", "wide", "narrow"} - {said})
