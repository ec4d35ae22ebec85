"""A grid of small panels, one an approximation, in which mixtures are drawn."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from guidebook.reports.elements.style import WIDTH, figure

ACROSS = 4


def panels(count: int, height: float) -> tuple[Figure, Any]:
    """A grid of `count` panels, four across, and its axes in order."""
    columns = min(ACROSS, count)
    lines = -(-count // columns)
    drawn = figure(height * lines + 0.2, WIDTH if columns > 2 else 0.45 * WIDTH * columns)
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    for axes in grid[max(0, count - columns) : count]:  # above an empty place too
        axes.tick_params(labelbottom=True)
    return drawn, grid[:count]
