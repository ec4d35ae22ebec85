"""The section of calibrations: what is off is named, with its numbers, and drawn outside its band."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from guidebook.diagnostics.numerics.calibration import DENSITY, DISTANCE, Calibration
from guidebook.reports.checks.calibration import calibration
from guidebook.reports.figures.calibration import MOST_SHOWN, ecdf_differences, worst

NAMES = [*(f"x[{i}]" for i in range(9)), DENSITY, DISTANCE]


def planted() -> Calibration:
    """x[8] too high by a standard deviation; ten others calibrated."""
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 401, (80, len(NAMES)))
    ranks[:, 8] = rng.binomial(400, norm.cdf(rng.standard_normal(80) - 1))
    return Calibration("prior", "svi", NAMES, ranks, 400, 80)


def compared(calibrations: dict[str, Calibration]) -> Any:
    table = pd.DataFrame(index=pd.Index(["mean-field"]))
    return SimpleNamespace(calibrations=calibrations, reference=None, table=table, posteriors={})


def test_the_worst_quantities_are_shown_in_the_order_of_the_posterior() -> None:
    shown = worst(planted())
    assert len(shown) == MOST_SHOWN
    assert "x[8]" in shown
    assert shown == [name for name in NAMES if name in shown]


def test_the_curve_of_what_is_off_leaves_the_band() -> None:
    found = planted()
    axes = {a.get_title("left").split("\n")[0]: a for a in ecdf_differences(found, "blue").axes}
    low, high = found.band
    curve = np.asarray(axes["x[8]"].lines[-1].get_ydata())
    points = np.asarray(axes["x[8]"].lines[-1].get_xdata())
    assert (curve > high - points).any()
    assert "biased high" in axes["x[8]"].get_title("left")
    fine = next(name for name in worst(found) if name != "x[8]")
    curve = np.asarray(axes[fine].lines[-1].get_ydata())
    assert ((curve >= low - points - 1e-9) & (curve <= high - points + 1e-9)).all()


def test_the_section_names_it_with_its_numbers() -> None:
    section = calibration(compared({"mean-field": planted()}))
    assert section is not None
    (part,) = section.parts
    assert part.title == "mean-field"
    assert "x[8] is biased high" in part.words
    (table,) = part.tables
    row = next(r for r in table.rows if r[0] == "x[8]")
    assert row[1] == "biased high"
    assert "The 3 quantities with larger p-values are not shown." in table.caption
    assert all(len(r) == len(table.columns) for r in table.rows)


def test_there_is_no_section_without_a_calibration() -> None:
    assert calibration(compared({})) is None
