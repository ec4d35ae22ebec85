"""The numbers of a row of the table: totals, medians, quantiles, and whose errors they are."""

import math
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.assessment import NUMBERS, Assessment, findings_of, numbers_of
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.inference.fits.status import Status

NAN = math.nan


def findings(*told: Testimony, **facts: Any) -> Findings:
    return Findings(["x", "y"], testimonies={t.witness: t for t in told}, **facts)


def of_rows(scale: float = 1.0, **numbers: list[float]) -> dict[str, float]:
    values = {name: np.array(rows) for name, rows in numbers.items()}
    n = len(next(iter(values.values())))
    return numbers_of(findings(Testimony("Weights", numbers=values), posteriors=n), scale)


def test_of_one_posterior_every_number_is_its_own() -> None:
    found = of_rows(elbo=[-3.0], elbo_se=[0.2], khat=[-math.inf], ess=[7.0], scale=5.0)
    assert (found["elbo"], found["elbo_se"], found["khat"], found["ess"]) == (-3, 0.2, -math.inf, 7)
    assert set(found) == set(NUMBERS)
    assert all(math.isnan(found[name]) for name in ("stein", "mean_error", "wasserstein"))


@pytest.mark.parametrize("name", ["elbo", "log_evidence"])
def test_sums_over_rows_stand_for_all_rows(name: str) -> None:
    """10 rows stand for 25: the sum times 2.5; errors of independent rows add as squares."""
    found = of_rows(2.5, **{name: [3.0, -5.0], f"{name}_se": [0.3, 0.4]})
    assert found[name] == pytest.approx(-5.0)
    assert found[f"{name}_se"] == pytest.approx(2.5 * 0.5)


def test_rows_stand_for_themselves_unless_said_otherwise() -> None:
    told = Testimony("Weights", numbers={"elbo": np.array([3.0, -5.0])})
    assert numbers_of(findings(told, posteriors=2))["elbo"] == -2.0


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([1.0, 5.0, 9.0, NAN], 5.0),
        ([NAN, NAN], NAN),
        ([-math.inf, 1.0, 5.0, NAN], 1.0),
        ([-math.inf, -math.inf, 0.5], 0.5),  # a median that is not finite: of the finite ones
        ([-math.inf, 0.2, 0.6], 0.2),
        ([-math.inf, -math.inf], -math.inf),
        ([math.inf, 1.0, 2.0, math.inf], 1.5),
    ],
)
def test_other_numbers_are_the_median_rows(values: list[float], median: float) -> None:
    assert of_rows(3.0, khat=values)["khat"] == pytest.approx(median, nan_ok=True)


def test_a_point_has_no_numbers() -> None:
    told = Testimony("Weights", numbers={"elbo": np.ones(1)})
    assert all(math.isnan(v) for v in numbers_of(findings(told, kind="point")).values())


def estimate(shift: float, able: bool = True, ratio: float = 0.0) -> Estimate:
    one = np.ones((1, 2))
    return Estimate(shift * one, one, ratio * one, one, np.full((1, 2), able))


def error(*told: Testimony, **facts: Any) -> float:
    return numbers_of(findings(*told, **facts))["mean_error"]


REFERENCE = Testimony("Reference", role="compares", estimate=estimate(0.1))
RUN = Testimony("Run", role="confirms", estimate=estimate(-0.2, able=False))
WEIGHTS = Testimony("Weights", role="sharpens", estimate=estimate(0.3))
BLIND = Testimony("Other weights", role="sharpens", estimate=estimate(0.5, able=False))
SILENT = [Testimony("Reference"), Testimony("A", role="confirms"), Testimony("B", role="sharpens")]


def test_whose_errors_the_table_gives() -> None:
    """The reference's, a confirming witness's, the weights' where they could judge something."""
    assert error(WEIGHTS, RUN, REFERENCE) == pytest.approx(0.1)
    assert error(*SILENT, WEIGHTS, RUN) == pytest.approx(0.2)
    assert error(*SILENT, BLIND, WEIGHTS) == pytest.approx(0.3)
    assert math.isnan(error(*SILENT, BLIND))
    assert math.isnan(error(Testimony("Stein", estimate=estimate(0.4))))
    # the run of a sample of rows is not that of all rows
    assert error(WEIGHTS, RUN, sampled=[0]) == pytest.approx(0.3)
    partly = Estimate(*(np.ones((1, 2)),) * 4, np.array([[True, False]]))
    assert error(Testimony("Weights", role="sharpens", estimate=partly)) == pytest.approx(1.0)


def test_errors_are_those_of_99_rows_in_100() -> None:
    """101 rows whose errors are 0 to 100 hundredths: the 0.99 quantile is the 99th, of either marginal."""
    rows = np.arange(101.0) / 100
    zero = np.zeros(101)
    of_x = Estimate(
        np.column_stack([-rows, zero]), zero[:, None], np.column_stack([-rows, rows / 2]),
        zero[:, None], np.ones((101, 2), bool),
    )  # fmt: skip
    found = numbers_of(
        findings(Testimony("Run", role="confirms", estimate=of_x), posteriors=101), 2.0
    )
    assert found["mean_error"] == pytest.approx(0.99)
    assert found["sd_ratio_min"] == pytest.approx(math.exp(-0.99))
    assert found["sd_ratio_max"] == pytest.approx(math.exp(0.495))


def test_errors_of_rows_that_were_not_looked_at_are_left_out() -> None:
    of_rows = np.array([[0.2, 0.1], [NAN, NAN]])
    told = Estimate(of_rows, of_rows, of_rows, of_rows, np.ones((2, 2), bool))
    found = numbers_of(
        findings(Testimony("Reference", role="compares", estimate=told), posteriors=2)
    )
    assert found["mean_error"] == pytest.approx(0.2)
    assert found["sd_ratio_min"] == pytest.approx(math.exp(0.1))
    assert found["sd_ratio_max"] == pytest.approx(math.exp(0.2))


@pytest.mark.parametrize(
    ("status", "converged"), [(None, None), (Status.CONVERGED, True), (Status.NO_MODE, False)]
)
def test_findings_are_the_facts_of_the_subject(status: Status, converged: bool | None) -> None:
    subject = Subject("particles", ["x"], np.zeros((7, 3, 1)), np.array([True]), status=status)
    assert findings_of(subject, {}, "", "", fitted="Moved.").fitted == "Moved."
    found = findings_of(subject, {"Run": RUN}, "mean_field", "svgd", [1])
    assert (found.kind, found.names, found.draws, found.posteriors) == ("particles", ["x"], 7, 3)
    assert found.discrete and found.converged is converged
    assert found.status == (status.value if status else "")
    assert (found.family, found.engine, found.sampled) == ("mean_field", "svgd", [1])
    assert found.testimonies == {"Run": RUN}


@pytest.mark.parametrize(
    ("told", "checks"),
    [
        ([], ""),
        ([Testimony("A", words=("ended",))], ""),  # says how it ended, and is no check
        ([Testimony("A", agreement="fine")], "1 of 1"),
        ([Testimony("A", agreement="fine", against=["off"])], "0 of 1"),
        ([Testimony("A", agreement="fine", rules_out="no")], "0 of 1"),
        ([Testimony("A", agreement="fine"), Testimony("B", absent="no model")], "1 of 2"),
        ([Testimony("A", supports=np.ones(1, bool)), Testimony("B", agreement="fine")], "1 of 2"),
        ([Testimony("A", agreement="fine", against=["off"] + [""] * 99)], "1 of 1"),
        ([Testimony("A", agreement="fine", against=["off"] * 2 + [""] * 98)], "0 of 1"),
    ],
)
def test_how_many_checks_confirm(told: list[Testimony], checks: str) -> None:
    findings = Findings(["x"], testimonies={t.witness: t for t in told})
    judgement = Judgement(Verdict.TRUST, "", "")
    assert Assessment(judgement, {}, "svi", 1.0, None, {}, [], findings).checks == checks
