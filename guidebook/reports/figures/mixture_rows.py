"""The responsibilities of a mixture: rows against components, in one order for every approximation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.diagnostics.model_kinds.mixtures import MixtureNumbers
from guidebook.reports.elements.panels import ACROSS, panels
from guidebook.reports.elements.style import INK, colours, shorten, styled
from guidebook.reports.elements.summaries import Array

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

MOST_ROWS = 300


@styled
def responsibilities(comparison: Compared, numbers: MixtureNumbers) -> Figure | None:
    """Rows against components, dark where a row surely belongs; rows in one order in all panels."""
    leader = comparison.reference if comparison.reference in numbers.clusters else None
    order = row_order(numbers.clusters[leader or next(iter(numbers.clusters))].share)
    if len(order) > MOST_ROWS:
        order = order[np.linspace(0, len(order) - 1, MOST_ROWS).round().astype(int)]
    drawn, grid = panels(len(numbers.clusters), 1.6 if len(order) <= 12 else 2.6)
    palette, K = colours(comparison), numbers.K
    painted = None
    for i, (name, one) in enumerate(numbers.clusters.items()):
        axes = grid[i]
        painted = axes.imshow(
            one.share[order], cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        if len(order) <= 12 and K <= 6:
            _written(axes, one.share[order])
        axes.set_title(shorten(name, 22), color=palette[name])
        marks = np.arange(K) if K <= 10 else np.arange(0, K, math.ceil(K / 10))
        axes.set_xticks(marks, [str(k + 1) for k in marks])
        rows = [f"#{r}" for r in order] if len(order) <= 12 else []
        axes.set_yticks(np.arange(len(rows)), rows)
        axes.tick_params(length=0)
        axes.set_xlabel("component" if i + ACROSS >= len(numbers.clusters) else "")
        axes.set_ylabel("row" if i % ACROSS == 0 else "")
    assert painted is not None
    drawn.colorbar(painted, ax=grid, label="responsibility", shrink=0.8, pad=0.01)
    return drawn


def row_order(share: Array) -> Array:
    """Rows of (n, K) by the component they most belong to, the surest of each first."""
    best = share.argmax(1)
    order: Array = np.lexsort((-share[np.arange(len(share)), best], best))
    return order


def _written(axes: Axes, share: Array) -> None:
    for (row, k), value in np.ndenumerate(share):
        ink = "white" if value > 0.6 else INK
        axes.text(k, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7.5)
