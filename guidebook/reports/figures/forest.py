"""The forest: mean and intervals of every approximation against the reference, on one scale."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from guidebook.reports.elements.numbers import mean_and_sd
from guidebook.reports.elements.style import (
    REFERENCE,
    colours,
    figure,
    gridlines,
    line_styles,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import (
    MOST_PARAMETERS,
    Component,
    Yardstick,
    column,
    largest_disagreements,
    moments,
    quantiles,
    shows_weighted,
    verdict_word,
    yardstick,
)

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

#: Standard deviations at either side: one approximation far off may not squash the others.
_FARTHEST = 5.0
_LEVELS = (0.03, 0.25, 0.75, 0.97)


@styled
def forest(comparison: "Compared") -> Figure | None:
    """Mean, 50 % and 94 % interval of every approximation against the reference, in its sds.

    One scale for all parameters, (x - reference mean) / reference sd, so that parameters of
    different units are read side by side: the grey bands are the reference, what leaves them is
    wrong. Hollow marks are the importance-weighted draws of an approximation that is not to be
    taken raw.
    """
    measure = yardstick(comparison)
    shown, _ = largest_disagreements(comparison, measure, MOST_PARAMETERS)
    rows = [
        (name, weighted)
        for name in comparison.posteriors
        if name != measure.name or measure.weighted
        for weighted in ((False, True) if shows_weighted(comparison, name) else (False,))
    ]
    if not shown or not rows:
        return None
    columns = 2 if len(shown) > 4 else 1
    per_column = -(-len(shown) // columns)
    block = 0.17 * len(rows) + 0.22
    drawn = figure(per_column * block + 1.15)
    grid = drawn.subplots(1, columns, squeeze=False, sharex=True)[0]
    reach = 1.0
    for k, axes in enumerate(grid):
        part = shown[k * per_column : (k + 1) * per_column]
        reach = max(reach, _forest_column(comparison, axes, measure, part, rows, per_column))
    limit = min(max(3.2, reach * 1.05), _FARTHEST)
    grid[0].set_xlim(-limit, limit)
    for axes in grid:
        _mark_outside(axes, limit)
    unit = measure.name if measure.name is not None else "median approximation"
    drawn.supxlabel(
        f"distance from the mean of {shorten(unit)}, in its standard deviations", fontsize=9.5
    )
    _legend(drawn, comparison, rows, measure)
    return drawn


def _forest_column(
    comparison: "Compared",
    axes: Axes,
    measure: Yardstick,
    shown: list[Component],
    rows: list[tuple[str, bool]],
    room: int,
) -> float:
    """Draws the parameters of one column; returns how far from zero the intervals reach."""
    step, reach = len(rows) + 1.3, 0.0
    for position, component in enumerate(shown):
        top = position * step
        _reference_bands(comparison, axes, measure, component, (top - 0.15, top + len(rows) - 0.85))
        for i, row in enumerate(rows):
            reach = max(reach, _interval(comparison, axes, measure, component, row, top + i))
        _name(axes, measure, component, top + len(rows) / 2 - 0.5)
    axes.set_ylim(room * step - 0.9, -1.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    gridlines(axes)
    return reach


def _interval(
    comparison: "Compared",
    axes: Axes,
    measure: Yardstick,
    component: Component,
    row: tuple[str, bool],
    y: float,
) -> float:
    """Mean, 50 % and 94 % interval of one approximation at height y; how far from zero they reach."""
    name, weighted = row
    centre, scale = measure.of(component)
    draws = (column(comparison, name, component, weighted) - centre) / scale
    keep = np.isfinite(draws)
    if not keep.any():
        return 0.0
    weights = comparison.weights[name] if weighted else None
    low, left, right, high = quantiles(draws, _LEVELS, weights)
    share = None if weights is None else weights[keep] / weights[keep].sum()
    mean = float(moments(draws[keep], share)[0])
    colour, line = colours(comparison)[name], line_styles(comparison)[name]
    alpha = 0.75 if weighted else 1.0
    face = "white" if weighted else colour
    axes.plot([low, high], [y, y], color=colour, lw=1.2, ls=line, alpha=alpha)
    axes.plot([left, right], [y, y], color=colour, lw=3.4, alpha=alpha, solid_capstyle="butt")
    axes.plot([mean], [y], "o", ms=5, mfc=face, mec=colour, mew=1.3, label="mean", zorder=3)
    return max(abs(v) for v in (low, high, mean) if math.isfinite(v))


def _name(axes: Axes, measure: Yardstick, component: Component, y: float) -> None:
    """The parameter's name left of its rows, and below it mean and sd in its own units."""
    places: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "ha": "right",
        "va": "center",
    }
    name, units = f"{shorten(component.label, 26)}\n", f"\n{mean_and_sd(*measure.of(component))}"
    axes.text(-0.015, y, name, fontsize=9.5, linespacing=1.15, **places)
    axes.text(-0.015, y, units, fontsize=8, color="#5b616b", linespacing=1.35, **places)


def _reference_bands(
    comparison: "Compared",
    axes: Axes,
    measure: Yardstick,
    component: Component,
    height: tuple[float, float],
) -> None:
    """The yardstick's 94 % and 50 % intervals as bands behind the others, its mean as a line."""
    if measure.name is None:
        return
    centre, scale = measure.of(component)
    weights = comparison.weights.get(measure.name) if measure.weighted else None
    draws = (column(comparison, measure.name, component, measure.weighted) - centre) / scale
    low, left, right, high = quantiles(draws, _LEVELS, weights)
    low_y, high_y = height[0] - 0.4, height[1] + 0.4
    axes.fill_between([low, high], low_y, high_y, color="#eceef1", lw=0, zorder=0.5)
    axes.fill_between([left, right], low_y, high_y, color="#d3d7dc", lw=0, zorder=0.6)
    axes.plot([0, 0], [low_y, high_y], color=REFERENCE, lw=1.1, zorder=0.7)


def _mark_outside(axes: Axes, limit: float) -> None:
    """A triangle at the edge for a mean that lies beyond it."""
    for line in list(axes.lines):
        if line.get_label() != "mean":
            continue
        value, height = float(np.asarray(line.get_xdata())[0]), np.asarray(line.get_ydata())[0]
        if abs(value) > limit:
            colour = line.get_markeredgecolor()
            edge = math.copysign(limit * 0.985, value)
            axes.plot(
                [edge],
                [height],
                marker=">" if value > 0 else "<",
                ms=7,
                color=colour,
                clip_on=False,
            )


def _legend(
    drawn: Figure, comparison: "Compared", rows: list[tuple[str, bool]], measure: Yardstick
) -> None:
    """One legend above the panels: a line an approximation, hollow where it is reweighted."""
    palette, lines = colours(comparison), line_styles(comparison)
    handles: list[Line2D | Patch] = []
    if measure.name is not None:
        words = (
            "importance-weighted" if measure.weighted else verdict_word(comparison, measure.name)
        )
        handles.append(Patch(color="#d3d7dc", label=f"{shorten(measure.name)} ({words})"))
    for name, weighted in rows:
        handles.append(
            Line2D(
                [],
                [],
                color=palette[name],
                ls=lines[name],
                marker="o",
                ms=5,
                mfc="white" if weighted else palette[name],
                label=shorten(name) + (", weighted" if weighted else ""),
            )
        )
    drawn.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)))
