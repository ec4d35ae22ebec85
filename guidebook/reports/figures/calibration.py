"""Is an approximation calibrated? The distribution of p = P(draw < truth) against the uniform one."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.diagnostics.numerics.calibration import CALIBRATED, Calibration
from guidebook.diagnostics.numerics.uniformity import counts, grid
from guidebook.reports.elements.panels import panels
from guidebook.reports.elements.style import FAINT, GREY, INK, gridlines, shorten, styled

MOST_SHOWN = 8


def worst(calibration: Calibration) -> list[str]:
    """The quantities with the smallest p-values, in the order of the posterior."""
    least = sorted(calibration.names, key=lambda name: calibration.tests[name].least)
    kept = set(least[:MOST_SHOWN])
    return [name for name in calibration.names if name in kept]


@styled
def ecdf_differences(calibration: Calibration, colour: str) -> Figure:
    """A panel a quantity: the ECDF of p minus that of a uniform number, in the band of calibrated ones."""
    shown = worst(calibration)
    drawn, grid_of_axes = panels(len(shown), 1.9)
    for axes, name in zip(grid_of_axes, shown, strict=True):
        _panel(axes, calibration, name, colour)
    drawn.supxlabel("p = P(draw < truth)", fontsize=9.5)
    drawn.supylabel("ECDF − p", fontsize=9.5)
    return drawn


def _panel(axes: Axes, calibration: Calibration, name: str, colour: str) -> None:
    p = calibration.p[:, list(calibration.names).index(name)]
    points = grid(len(p))
    low, high = calibration.band
    axes.fill_between(points, low - points, high - points, color=FAINT, lw=0, step="mid")
    axes.axhline(0.0, color=GREY, lw=0.8)
    finding = calibration.finding(name)
    fine = finding == CALIBRATED
    axes.plot(points, counts(p) / len(p) - points, color=colour, drawstyle="steps-mid")
    axes.set_xlim(0, 1)
    axes.set_title(
        f"{shorten(name, 26)}\n{'' if fine else finding}",
        fontsize=9, color=INK, fontweight="normal" if fine else "bold",
    )  # fmt: skip
    gridlines(axes, "y")
