"""Every limit of the verdict, just inside and just outside, one witness at a time.

The numbers that the witnesses compute are given here (k-hat, discrepancies, estimates); what they state
of them, and what the judge makes of that, is the library's.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.subject import Marginals, Reference, Subject
from guidebook.diagnostics.evidence.testimony import Estimate
from guidebook.diagnostics.judging.assessment import findings_of
from guidebook.diagnostics.judging.findings import Judgement, Verdict
from guidebook.diagnostics.judging.verdict import judge
from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.numerics.drift import Transport
from guidebook.diagnostics.numerics.modes import Mode
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import importance, modes, reference, stein, transport
from guidebook.diagnostics.witnesses.hearing import heard_on
from guidebook.diagnostics.witnesses.stein import Stein
from guidebook.inference.fits.status import Status

TRUST, REWEIGHT, REJECT = Verdict.TRUST, Verdict.REWEIGHT, Verdict.REJECT


def estimate(
    shift: float = 0.0,
    log_ratio: float = 0.0,
    se: float = 0.001,
    able: bool = True,
    log_ratio_se: float | None = None,
) -> Estimate:
    one = np.ones((1, 1))
    other = se if log_ratio_se is None else log_ratio_se
    return Estimate(shift * one, se * one, log_ratio * one, other * one, np.array([[able]]))


def of_two(*able: bool) -> Estimate:
    """Of two marginals, both right."""
    zero = np.zeros((1, 2))
    return Estimate(zero, zero + 0.001, zero, zero + 0.001, np.array([able]))


RIGHT, OFF, UNSEEN = estimate(), estimate(shift=0.3), estimate(able=False)

GOOD: dict[str, Any] = {
    "kind": "density", "discrete": False, "status": Status.CONVERGED, "draws": 1000,
    "khat": 0.3, "khat_se": 0.1, "moments": 0.3, "ess": 800.0, "importance": RIGHT,
    "ratio": (0.0, 1.0), "stein": 0.02, "stein_weighted": 0.01, "transport": RIGHT,
    "weighted_transport": RIGHT, "reference": None, "weighted_reference": RIGHT, "sound": True,
    "modes": 1, "listed": 1.0, "shares": RIGHT, "weighted_shares": RIGHT,
}  # fmt: skip
LIMIT = 2 / 3
"""Of k-hat for 1,000 draws, 1 - 1 / log10 S."""


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Judgement]:
    """The judgement on a good approximation but for the given numbers."""

    def of(**changes: Any) -> Judgement:
        facts = GOOD | changes
        told, run = facts["importance"], facts["transport"]
        width = next(e.shift.shape[1] for e in (run, told, RIGHT) if e is not None)
        names = ["x", "y"][:width]
        size = facts["draws"]
        weights = np.full(size, 1 / size)
        found = Importance(weights, facts["khat"], facts["khat_se"], facts["ess"])
        monkeypatch.setattr(importance, "psis", lambda log_ratio: found)
        monkeypatch.setattr(importance, "_estimate", lambda subject, found: told)
        monkeypatch.setattr(importance, "khat_of_moment", lambda *_: facts["moments"])
        raw, weighted = (_stein(facts[name]) for name in ("stein", "stein_weighted"))
        monkeypatch.setattr(stein, "_found", lambda *_: ([raw], [weighted], ""))
        monkeypatch.setattr(transport, "_metric", lambda *_: np.eye(1)[None])
        monkeypatch.setattr(transport, "transport", lambda *_: _moved(run))
        monkeypatch.setattr(transport, "of_weighted", lambda *_: facts["weighted_transport"])
        monkeypatch.setattr(modes, "beyond", lambda *_: ("", ""))
        monkeypatch.setattr(modes, "_listed", lambda *_: facts["listed"])
        monkeypatch.setattr(modes, "_masses", lambda *_: np.zeros(2))
        monkeypatch.setattr(modes, "_moments", lambda *_: (np.zeros((2, width)),) * 2)
        shares = iter((facts["shares"], facts["weighted_shares"]))
        monkeypatch.setattr(modes, "_estimate", lambda *_: next(shares))
        monkeypatch.setattr(reference, "wasserstein_in_sds", lambda *_: 0.0)
        compared = facts["reference"], facts["weighted_reference"]
        monkeypatch.setattr(reference, "_estimate", lambda s, t, w: compared[w is not None])
        values = np.zeros((size, 1, width))
        log_ratio = np.linspace(*facts["ratio"], size)[:, None]
        subject = Subject(
            kind=facts["kind"],
            names=names,
            values=values,
            discrete=np.full(width, facts["discrete"]),
            log_ratio=None if told is None else log_ratio,
            position=np.zeros((size, 1, 1)),
            density=None if run is None else object(),  # type: ignore[arg-type]
            potential=object(),  # type: ignore[arg-type]
            status=facts["status"],
            reference=None
            if compared[0] is None
            else Reference("long", Marginals(names, values[:, 0]), 1e6, facts["sound"]),
            coordinates=["x"],
            modes=None if facts["modes"] is None else basins(facts["modes"]),
        )
        return judge(findings_of(subject, heard_on(subject), "mean_field", "svi"))

    return of


def _stein(discrepancy: float) -> Stein | None:
    if math.isnan(discrepancy):
        return None
    one = np.ones(1)
    return Stein(["x"], discrepancy * one, 0 * one, one, one, np.eye(1))


def _moved(run: Estimate) -> Transport:
    return Transport(
        run.shift, np.ones_like(run.shift), run.shift, run.shift_se, np.exp(run.log_ratio),
        run.log_ratio_se, run.able, np.full(1, 0.8),
    )  # fmt: skip


def basins(count: int) -> Basins:
    """So many, far apart, the draws in the first."""
    groups = [[Mode(np.full(1, 100.0 * k), np.ones(1), 0.0)] for k in range(count)]
    one = np.zeros(count)
    return Basins(groups, one, one, np.zeros((0, 1)), one[:0], one[:0], one > -1)


MENDED = {"transport": OFF, "importance": OFF}
"""The raw draws are off and the weighted ones are not: reweight."""
ALONE = {"transport": None}
"""Nothing but the weights and the gradients can judge."""
CHAINS = {"kind": "chains", "importance": None, "transport": None}
DISCRETE = {"discrete": True, "transport": None, "stein": math.nan, "stein_weighted": math.nan,
            "reference": RIGHT}  # fmt: skip
UNCOMPARED = DISCRETE | {"reference": None}
ENUMERATED = UNCOMPARED | {"status": Status.EXACT, "khat": -math.inf}
FILE = {"importance": None, "transport": None, "stein": math.nan, "reference": RIGHT}
"""Of a file with draws alone."""

LIMITS: dict[str, tuple[dict[str, Any], Verdict]] = {
    "everything agrees": ({}, TRUST),
    # Stein's discrepancy: 0.35
    "Stein at the limit": ({"stein": 0.35}, TRUST),
    "Stein beyond it": ({"stein": 0.3501}, REWEIGHT),
    "weighted Stein within": (MENDED | {"stein_weighted": 0.3499}, REWEIGHT),
    "weighted Stein at the limit": (MENDED | {"stein_weighted": 0.35}, REJECT),
    "weighted Stein unknown": (MENDED | {"stein_weighted": math.nan}, REJECT),
    "chains, Stein at the limit": (CHAINS | {"stein": 0.35}, TRUST),
    "chains, Stein beyond it": (CHAINS | {"stein": 0.3501}, REJECT),
    "chains, Stein unknown": (CHAINS | {"stein": math.nan}, TRUST),
    "chains that disagree": (CHAINS | {"status": Status.CHAINS_DISAGREE}, REJECT),
    "chains that diverge": (CHAINS | {"status": Status.DIVERGENCES}, REJECT),
    "chains against a sound reference": (CHAINS | {"reference": OFF}, REJECT),
    "chains, perhaps off": (CHAINS | {"reference": estimate(0.1001, se=0.1)}, TRUST),
    "chains against an unsound one": (CHAINS | {"reference": OFF, "sound": False}, TRUST),
    # k-hat alone: k + its error below 0.5, of the weights and of second moments; Stein is known
    "alone": (ALONE | {"khat": 0.399, "moments": 0.3}, TRUST),
    "alone, k-hat too large": (ALONE | {"khat": 0.401, "moments": 0.3}, REWEIGHT),
    "alone, second moments": (ALONE | {"moments": 0.399}, TRUST),
    "alone, second moments too large": (ALONE | {"moments": 0.401}, REWEIGHT),
    "alone, second moments unknown": (ALONE | {"moments": math.nan}, TRUST),
    "alone, second moments unknown, k-hat too large": (
        ALONE | {"khat": 0.401, "moments": math.nan}, REWEIGHT),
    "alone, Stein at the limit": (ALONE | {"stein": 0.35}, TRUST),
    "alone, Stein beyond it": (ALONE | {"stein": 0.3501}, REWEIGHT),
    "alone, Stein unknown": (ALONE | {"stein": math.nan, "stein_weighted": math.nan}, REJECT),
    "alone, not converged": (ALONE | {"status": Status.STILL_MOVING}, REWEIGHT),
    "alone, convergence unknown": (ALONE | {"status": None}, TRUST),
    "alone, errors within": (ALONE | {"importance": estimate(0.05, se=0.0249)}, TRUST),
    "alone, errors beyond": (ALONE | {"importance": estimate(0.05, se=0.0251)}, REWEIGHT),
    "alone, equal weights": (ALONE | {"khat": -math.inf, "khat_se": 0.0}, TRUST),
    "a run that could judge one of two": (
        {"transport": of_two(True, False), "importance": of_two(True, True),
         "weighted_transport": of_two(True, True)}, REWEIGHT),
    "a run that could judge none": ({"transport": UNSEEN}, TRUST),
    # k-hat against its limit
    "weights heard": ({"khat": LIMIT - 1e-6, "importance": OFF}, REWEIGHT),
    "weights not heard": ({"khat": LIMIT + 1e-6, "importance": OFF}, TRUST),
    "exactly at the limit": (
        MENDED | {"draws": 100, "ess": 80.0, "khat": 0.5, "khat_se": 0.0}, REJECT),
    # within its error of the limit k-hat does not decide: the run does, by its standard error, 0.001
    "below by its error": (MENDED | {"khat": LIMIT - 0.1001, "weighted_transport": UNSEEN}, REWEIGHT),
    "below by less, unseen": (
        MENDED | {"khat": LIMIT - 0.0999, "weighted_transport": UNSEEN}, REJECT),
    "below by less, no run": (ALONE | {"importance": OFF, "khat": LIMIT - 0.0999}, REJECT),
    "below by its error, no run": (ALONE | {"importance": OFF, "khat": LIMIT - 0.1001}, REWEIGHT),
    "below by less, confirmed": (
        MENDED | {"khat": LIMIT - 1e-6, "weighted_transport": estimate(0.0989)}, REWEIGHT),
    "below by less, not confirmed": (
        MENDED | {"khat": LIMIT - 1e-6, "weighted_transport": estimate(0.0991)}, REJECT),
    "above by less, confirmed": (
        MENDED | {"khat": LIMIT + 0.0999, "weighted_transport": estimate(0.0989)}, REWEIGHT),
    "above by less, not confirmed": (
        MENDED | {"khat": LIMIT + 0.0999, "weighted_transport": estimate(0.0991)}, REJECT),
    "above by less, unseen": (MENDED | {"khat": LIMIT + 1e-6, "weighted_transport": UNSEEN}, REJECT),
    "above by less, no search": (MENDED | {"khat": LIMIT + 1e-6, "modes": None}, REJECT),
    "below by less, no search": (MENDED | {"khat": LIMIT - 1e-6, "modes": None}, REWEIGHT),
    "above by its error": (MENDED | {"khat": LIMIT + 0.1001}, REJECT),
    "no weights": (MENDED | {"importance": None}, REJECT),
    # effective draws: a tenth
    "a tenth of the draws": (MENDED | {"ess": 100.0}, REWEIGHT),
    "less than a tenth": (MENDED | {"ess": 99.9}, REJECT),
    "effective draws unknown": (MENDED | {"ess": math.nan}, REJECT),
    # second moments of the weights, unless the run puts the weighted draws within bounds
    "second moments within": (
        ALONE | {"importance": OFF, "moments": LIMIT - 1e-6}, REWEIGHT),
    "second moments beyond": (ALONE | {"importance": OFF, "moments": LIMIT + 1e-6}, REJECT),
    "beyond, and confirmed": (
        MENDED | {"moments": 0.9, "weighted_transport": estimate(0.0989)}, REWEIGHT),
    "beyond, and not confirmed": (
        MENDED | {"moments": 0.9, "weighted_transport": estimate(0.0991)}, REJECT),
    # weighted draws that are off
    "weighted off by the run": (MENDED | {"weighted_transport": OFF}, REJECT),
    "weighted off by a reference": (
        MENDED | {"reference": OFF, "weighted_reference": OFF}, REJECT),
    "weighted off by an unsound one": (
        MENDED | {"reference": OFF, "weighted_reference": OFF, "sound": False}, REWEIGHT),
    "weighted right by a reference": (MENDED | {"reference": OFF}, REWEIGHT),
    "checked by a reference alone": (
        MENDED | {"reference": OFF, "stein_weighted": math.nan}, REWEIGHT),
    "not checked by an unsound one": (
        MENDED | {"reference": OFF, "stein_weighted": math.nan, "sound": False}, REJECT),
    # raw draws that are off
    "off by the run": ({"transport": OFF}, REWEIGHT),
    "off by the weights": ({"importance": OFF}, REWEIGHT),
    "off by a reference": ({"reference": OFF}, REWEIGHT),
    "perhaps off by a reference": ({"reference": estimate(0.1001, se=0.1)}, REWEIGHT),
    "perhaps right by it": ({"reference": estimate(0.0999, se=0.1)}, TRUST),
    "off by an unsound reference": ({"reference": OFF, "sound": False}, TRUST),
    "near the limit": ({"transport": estimate(0.09, se=0.0051), "khat": 0.9}, REJECT),
    "nearer than the limit": ({"transport": estimate(0.09, se=0.0049), "khat": 0.9}, TRUST),
    "no witness that could judge": ({"transport": UNSEEN, "khat": 0.9}, REJECT),
    # nothing but a reference
    "a reference alone": (FILE, TRUST),
    "an unsound one alone": (FILE | {"sound": False}, REJECT),
    "a reference that is not sure": (FILE | {"reference": estimate(0.05, se=0.03)}, REJECT),
    "a reference beside weights": (FILE | {"importance": RIGHT, "khat": 0.9}, REJECT),
    # against everything
    "restarts that disagree": ({"status": Status.RESTARTS_DISAGREE}, REJECT),
    "stopped by NaN": ({"status": Status.STOPPED_BY_NAN}, REJECT),
    "no mode": ({"status": Status.NO_MODE}, REJECT),
    "still moving": ({"status": Status.STILL_MOVING}, TRUST),
    # modes: their shares, and whether they were searched for
    "two modes in their shares": ({"modes": 2}, TRUST),
    "wrong shares": ({"modes": 2, "shares": OFF}, REWEIGHT),
    "a missing mode": ({"modes": 2, "shares": OFF, "weighted_shares": OFF}, REJECT),
    "shares perhaps wrong": ({"modes": 2, "shares": estimate(0.09, se=0.0051)}, REWEIGHT),
    "shares surely right": ({"modes": 2, "shares": estimate(0.09, se=0.0049)}, TRUST),
    "shares unknown": (
        {"modes": 2, "shares": estimate(se=1.0), "weighted_shares": estimate(se=1.0)}, REJECT),
    "half of the draws at listed modes": ({"modes": 2, "listed": 0.5}, TRUST),
    "more modes than are listed": ({"modes": 2, "listed": 0.49}, REJECT),
    "no search, weights usable": ({"modes": None, "khat": LIMIT - 1e-6}, TRUST),
    "no search, weights unusable": ({"modes": None, "khat": LIMIT + 1e-6}, REJECT),
    "no maximum, weights unusable": ({"modes": 0, "khat": LIMIT + 1e-6}, REJECT),
    "two modes, weights unusable": ({"modes": 2, "khat": LIMIT + 1e-6}, TRUST),
    "no search, no weights": (
        {"modes": None, "importance": None, "stein_weighted": math.nan}, REJECT),
    "a search, no weights": ({"importance": None}, TRUST),
    "a point": ({"kind": "point"}, REJECT),
    # discrete
    "discrete, all agree": (DISCRETE, TRUST),
    "discrete, no reference": (UNCOMPARED, REJECT),
    "discrete, an unsound reference": (DISCRETE | {"sound": False}, REJECT),
    "discrete, perhaps off": (DISCRETE | {"reference": estimate(0.1001, se=0.1)}, REWEIGHT),
    "enumerated": (ENUMERATED | {"ratio": (0.0, 0.9e-3)}, TRUST),
    "enumerated, unequal": (ENUMERATED | {"ratio": (0.0, 1.1e-3)}, REJECT),
    "enumerated in name": (ENUMERATED | {"status": Status.CONVERGED, "ratio": (0, 0)}, REJECT),
    "discrete, dependence wrong": (DISCRETE | {"khat": LIMIT + 1e-6}, REJECT),
    "discrete, dependence right": (DISCRETE | {"khat": LIMIT - 1e-6}, TRUST),
    "discrete, off by the weights": (DISCRETE | {"importance": OFF}, REWEIGHT),
    "discrete, off by the reference": (DISCRETE | {"reference": OFF}, REWEIGHT),
    "discrete, weighted off": (
        DISCRETE | {"importance": OFF, "weighted_reference": OFF}, REJECT),
}  # fmt: skip


@pytest.mark.parametrize("rule", LIMITS)
def test_limit(rule: str, judged: Callable[..., Judgement]) -> None:
    changes, verdict = LIMITS[rule]
    judgement = judged(**changes)
    assert judgement.verdict is verdict, judgement.reason
    assert judgement.reason and judgement.next


@pytest.mark.parametrize("error", ["shift", "log_ratio"])
@pytest.mark.parametrize(
    ("khat", "inside", "outside"), [(0.3, 0.451, 0.454), (0.6, 0.451 / 1.4, 0.454 / 1.4)]
)
def test_run_and_weights_are_pooled_by_their_variances(
    error: str, khat: float, inside: float, outside: float, judged: Callable[..., Judgement]
) -> None:
    """An error of half its limit L with a standard error of 0.3 L is too unsure, and must be pooled to
    L / 4: the weights' own must be below L / sqrt(16 - 1 / 0.09) = 0.4523 L, and is multiplied by
    1 + 4 (k - 0.5) beyond k = 0.5.
    """
    limit = {"shift": 0.1, "log_ratio": math.log(1.2)}[error]

    def of(se: float) -> Estimate:
        own = {"se": se * limit, "log_ratio_se": 0.0}
        if error == "log_ratio":
            own = {"se": 0.0, "log_ratio_se": se * limit}
        return estimate(**{error: limit / 2}, **own)

    run = of(0.3)
    for share, verdict in ((inside, TRUST), (outside, REWEIGHT)):
        found = judged(khat=khat, moments=khat, transport=run, importance=of(share))
        assert found.verdict is verdict, found.reason
    assert judged(khat=0.9, transport=run, importance=of(0.0)).verdict is REJECT


@pytest.mark.parametrize("error", ["shift", "log_ratio"])
def test_the_surer_one_counts_more(error: str, judged: Callable[..., Judgement]) -> None:
    """Errors 0 and 0.9 L: pooled to 0.09 L where the first is three times as sure, else to 0.81 L."""
    limit = {"shift": 0.1, "log_ratio": math.log(1.2)}[error]

    def of(value: float, se: float) -> Estimate:
        return estimate(**{error: value * limit}, se=se * limit, log_ratio_se=se * limit)

    assert judged(transport=of(0.0, 0.2), importance=of(0.9, 0.6)).verdict is TRUST
    assert judged(transport=of(0.0, 0.6), importance=of(0.9, 0.2)).verdict is REWEIGHT


def test_estimates_without_any_error_can_be_pooled(judged: Callable[..., Judgement]) -> None:
    exact = estimate(se=0.0)
    assert judged(transport=exact, importance=exact).verdict is TRUST


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transport": estimate(shift=0.3)}, "high"),
        ({"transport": estimate(shift=-0.3)}, "low"),
        ({"importance": estimate(log_ratio=0.5)}, "wide"),
        ({"importance": estimate(log_ratio=-0.5)}, "narrow"),
        ({"reference": estimate(shift=-0.3)}, "low"),
        ({"stein": 0.4}, "high"),
        ({"stein": -0.4}, "low"),
    ],
)
def test_the_reason_names_the_direction(
    changes: dict[str, Any], said: str, judged: Callable[..., Judgement]
) -> None:
    reason = judged(**changes).reason
    assert said in reason and "x" in reason
    assert not any(other in reason for other in {"high", "low", "wide", "narrow"} - {said})
