"""Marginal densities of every approximation, overlaid, in the parameters' own units."""

from typing import TYPE_CHECKING

import numpy as np
from arviz_stats.base import array_stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from guidebook.reports.elements.style import (
    REFERENCE,
    WIDTH,
    colours,
    figure,
    line_styles,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import (
    MOST_PARAMETERS,
    Array,
    Component,
    Yardstick,
    column,
    largest_disagreements,
    shows_weighted,
    yardstick,
)

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared


@styled
def densities(comparison: "Compared") -> Figure | None:
    """The marginal density of the parameters that the approximations disagree on most.

    The dashed line of a colour is the importance-weighted approximation. The densities are
    arviz_stats' (with its correction at a boundary); it takes no weights, so weighted draws are
    first resampled systematically.
    """
    measure = yardstick(comparison)
    shown, _ = largest_disagreements(comparison, measure, MOST_PARAMETERS)
    if not shown:
        return None
    columns = min(len(shown), 4 if len(shown) > 6 else 3)
    rows = -(-len(shown) // columns)
    drawn = figure(1.75 * rows + 0.6, WIDTH if columns > 1 else 6.0)
    grid = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes, component in zip(grid, shown, strict=False):
        _density(comparison, axes, measure, component)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    entries = [
        (n, w)
        for n in comparison.posteriors
        for w in ((False, True) if shows_weighted(comparison, n) else (False,))
    ]
    palette, lines = colours(comparison), line_styles(comparison)
    handles = [
        Line2D(
            [],
            [],
            color=palette[n],
            ls=(0, (3, 1.5)) if w else lines[n],
            lw=1.2 if w else (2.2 if n == comparison.reference else 1.6),
            label=shorten(n)
            + (", weighted" if w else " (reference)" if n == comparison.reference else ""),
        )
        for n, w in entries
    ]
    drawn.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)))
    return drawn


def _density(comparison: "Compared", axes: Axes, measure: Yardstick, component: Component) -> None:
    """One panel: the densities of one parameter in its own units."""
    palette, lines = colours(comparison), line_styles(comparison)
    peaks: list[float] = []
    spans: list[Array] = []
    for name in sorted(comparison.posteriors, key=lambda n: n != comparison.reference):
        draws = column(comparison, name, component)
        draws = draws[np.isfinite(draws)]
        if draws.size < 2:
            continue
        spans.append(np.quantile(draws, [0.005, 0.995]))
        if np.ptp(draws) <= 1e-12 * max(1.0, float(np.abs(draws).max())):
            axes.axvline(float(draws[0]), color=palette[name], lw=1.6, ls=lines[name])
            continue
        x, height, smoothing = _curve(draws)
        is_reference = name == comparison.reference
        axes.plot(x, height, color=palette[name], lw=2.2 if is_reference else 1.6, ls=lines[name])
        if is_reference:
            axes.fill_between(x, 0, height, color=REFERENCE, alpha=0.10, lw=0)
        peaks.append(float(height.max()))
        weights = comparison.weights.get(name)
        if weights is not None and shows_weighted(comparison, name):
            again = _resampled(column(comparison, name, component, weighted=True), weights)
            if np.ptp(again) > 0:
                # Draws repeated by the resampling would look like narrow peaks of their own.
                x, height, _ = _curve(again, smoothing)
                axes.plot(x, height, color=palette[name], lw=1.2, ls=(0, (3, 1.5)))
    _density_limits(axes, measure, component, spans, peaks)
    axes.set_title(shorten(component.label, 28))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _density_limits(
    axes: Axes, measure: Yardstick, component: Component, spans: list[Array], peaks: list[float]
) -> None:
    """Limits that one far-off or needle-thin approximation cannot squash; it runs off the panel."""
    centre, scale = measure.of(component)
    if spans:
        low, high = min(s[0] for s in spans), max(s[1] for s in spans)
        low, high = max(low, centre - 5 * scale), min(high, centre + 5 * scale)
        if high > low:
            pad = 0.04 * (high - low)
            axes.set_xlim(low - pad, high + pad)
    if peaks:
        axes.set_ylim(0, min(max(peaks), 3.0 * float(np.median(peaks))) * 1.08)


def _curve(draws: Array, smoothing: float | None = None) -> tuple[Array, Array, float | None]:
    """Density of a continuous variable; relative frequencies of one with few whole values.

    Gives the grid, the heights, and the bandwidth, which `smoothing` sets where it is not None.
    """
    values, counts = np.unique(draws, return_counts=True)
    if values.size <= 30 and np.all(values == np.round(values)):
        grid = np.arange(values[0] - 1, values[-1] + 2)
        heights = np.zeros(grid.size)
        heights[np.searchsorted(grid, values)] = counts / counts.sum()
        return np.repeat(grid, 2)[1:], np.repeat(heights, 2)[:-1], None
    # A few draws of a heavy tail would stretch the grid until the bulk is one bin of it.
    low, high = np.quantile(draws, [0.001, 0.999])
    kept = draws[(draws >= low) & (draws <= high)]
    if np.unique(kept).size < 5:
        kept = draws
    given = {} if smoothing is None else {"bw": smoothing}
    grid, height, bandwidth = array_stats.kde(kept, grid_len=256, **given)
    return np.asarray(grid), np.asarray(height), float(bandwidth)


def _resampled(draws: Array, weights: Array) -> Array:
    """Equally weighted draws by systematic resampling: the least noisy way, and without a seed."""
    keep = np.isfinite(draws)
    draws, weights = draws[keep], weights[keep]
    edges = np.cumsum(weights) / np.sum(weights)
    points = (np.arange(draws.size) + 0.5) / draws.size
    return draws[np.minimum(np.searchsorted(edges, points), draws.size - 1)]
