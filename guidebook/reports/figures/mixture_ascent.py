"""What every engine climbs on a mixture, against passes over the data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.diagnostics.model_kinds.mixtures import Ascent, MixtureNumbers
from guidebook.reports.elements.style import (
    INK,
    colours,
    figure,
    gridlines,
    line_styles,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import Array
from guidebook.reports.figures.curves import smoothed

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

TICKS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)


@styled
def ascent(comparison: Compared, numbers: MixtureNumbers) -> Figure | None:
    """The objective of every engine: one sweep of cavi or em is one pass over the data.

    cavi, natural_svi and svi climb the ELBO, em the log posterior density of the globals.
    """
    if not numbers.ascents:
        return None
    palette, lines = colours(comparison), line_styles(comparison)
    drawn = figure(3.6)
    axes = drawn.subplots()
    curves = {name: _curve(one) for name, one in numbers.ascents.items()}
    for name, (at, height) in curves.items():
        one = numbers.ascents[name]
        climbed = "log p(x, θ)" if one.log_joint else "ELBO"
        axes.plot(
            at, height, color=palette[name], ls=lines[name], lw=1.6, alpha=0.9,
            marker=None if one.noisy else "o", ms=4,
            label=f"{shorten(name, 20)}: {one.engine}, {climbed}",
        )  # fmt: skip
    if numbers.log_evidence is not None:
        _ceilings(axes, numbers.log_evidence, numbers.K)
    axes.set_ylim(*_heights(numbers, curves))
    longest = max(1.0, *(float(at[-1]) for at, _ in curves.values()))
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
    axes.set_xlim(-0.05, 1.15 * longest)
    ticks = [t for t in TICKS if t <= longest]
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    axes.set(xlabel="passes over the data (0: the start)", ylabel="objective (nats)")
    gridlines(axes, "y")
    drawn.legend(loc="outside right upper")
    return drawn


def _curve(one: Ascent) -> tuple[Array, Array]:
    """Passes and objective: every value, or running medians of noisy ones."""
    if not one.noisy:
        shown = np.isfinite(one.objective)
        return one.passes[shown], one.objective[shown]
    count = len(one.objective)
    steps, height = smoothed(-one.objective, np.geomspace(1, count + 1, 61) - 1)
    return np.interp(steps, np.arange(1, count + 1), one.passes), height


def _heights(
    numbers: MixtureNumbers, curves: dict[str, tuple[Array, Array]]
) -> tuple[float, float]:
    """Limits for the ends. The first steps of svi are far below and leave; starts of sweeps stay."""
    ends, starts = [], []
    for name, (_, height) in curves.items():
        one = numbers.ascents[name]
        ends.append(float(height[-1]) if one.log_joint else float(np.median(height[-5:])))
        if not one.noisy:
            starts.append(float(height[0]))
    if numbers.log_evidence is not None:
        ends.append(numbers.log_evidence)
    high, low = max(ends), min(ends)
    near = [s for s in starts if high - s < 6 * max(high - low, 1.0)]
    low = min([low, *near])
    pad = 0.12 * max(high - low, 1e-3)
    return low - 2 * pad, high + pad


def _ceilings(axes: Axes, evidence: float, K: int) -> None:
    """log p(x), and what an approximation in one of K! labellings can reach."""
    marks = [(evidence, "log p(x) ", "-")]
    if K > 1:
        marks.append((evidence - math.lgamma(K + 1), f"log p(x) − log {K}! ", ":"))
    for height, words, style in marks:
        axes.axhline(height, color=INK, lw=1.0, ls=style)
        axes.text(
            0.995, height, words, transform=axes.get_yaxis_transform(), fontsize=8.5,
            ha="right", va="bottom",
        )  # fmt: skip
