"""What to try next, by what was found and what was fitted."""

from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.advice import advice, richer
from guidebook.diagnostics.judging.findings import Findings


def estimate(shift: float, se: float = 0.01) -> Estimate:
    one = np.ones((1, 1))
    return Estimate(shift * one, se * one, 0 * one, se * one, one > 0)


def told(*testimonies: Testimony, **facts: Any) -> Findings:
    return Findings(["x"], testimonies={t.witness: t for t in testimonies}, **facts)


MOVING = {"converged": False, "status": "Not converged: it moves. Raise steps.", "family": "delta"}
OFF = Testimony("Run", role="confirms", estimate=estimate(0.3))
NEAR = Testimony("Run", role="confirms", estimate=estimate(0.3, se=0.11))
WEIGHTS_OFF = Testimony("Weights", role="sharpens", estimate=estimate(0.3))
MODE = Testimony("Modes", rules_out="A mode at 9.", remedy="Order the components.")


@pytest.mark.parametrize(
    ("findings", "start"),
    [
        (told(kind="chains", converged=True), "Check that"),
        (told(kind="chains", converged=False), "Raise tune and draws"),
        (told(kind="chains"), "Raise tune and draws"),
        (told(kind="particles"), "Raise particles and steps"),
        (told(MODE), "Order the components."),
        (told(OFF, MODE, kind="chains", converged=True), "Order the components."),
        (told(MODE, **MOVING), "Order the components."),
        (told(OFF, converged=True, family="full_rank"), "Try flow"),
        (told(family="unknown"), "Try nuts"),
        (told(converged=False, family="low_rank"), "Try full_rank or flow."),  # no status: no remedy
        (told(**MOVING), "Raise steps."),
        (told(converged=False, status="No mode. Use svi. Or nuts."), "Use svi. Or nuts."),
        (told(converged=False, status="Interrupted."), "Interrupted."),
        (told(NEAR, WEIGHTS_OFF, Testimony("Stein"), **MOVING), "Raise steps."),
        (told(OFF, **MOVING), "Try full_rank, or a reparameterised (non-centred) model. Raise steps."),
    ],
)  # fmt: skip
def test_the_next_step(findings: Findings, start: str) -> None:
    assert advice(findings).startswith(start)
    assert advice(findings).endswith(".")


def test_an_error_of_one_of_many_rows_is_an_error() -> None:
    shift = np.array([[0.0], [0.3]])
    one = Estimate(shift, 0 * shift, 0 * shift, 0 * shift, shift >= 0)
    assert "non-centred" not in advice(told(**MOVING))
    found = advice(told(Testimony("Run", role="confirms", estimate=one), posteriors=2, **MOVING))
    assert found.startswith("Try covariance='full'") and found.endswith("Raise steps.")


def test_the_next_richer_family() -> None:
    compared = Testimony("Reference", role="compares", estimate=estimate(0.0))
    assert "log_evidence(x)" in richer(told(posteriors=2, discrete=True))
    assert "covariance='full'" in richer(told(posteriors=2))
    assert "gb.exact or gb.gibbs as reference" in richer(told(discrete=True))
    assert "gb.exact or gb.gibbs" in richer(told(Testimony("Reference"), discrete=True))
    assert "larger blocks" in richer(told(compared, discrete=True))
    assert richer(told(compared, family="mean_field")).startswith("try full_rank")
