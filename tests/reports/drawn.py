"""Whether a figure has something on it, whatever it was drawn from; and comparisons changed a little."""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import guidebook as gb
from guidebook.reports.elements.style import png, rendered


def artists(axes: Axes) -> int:
    """How much is drawn on axes, every line with at least two finite points or a marker."""
    drawn = len(axes.images) + len(axes.patches) + len(axes.collections)
    for line in axes.lines:
        x, y = (np.asarray(v, dtype=float) for v in (line.get_xdata(), line.get_ydata()))
        assert np.isfinite(x).any()
        assert np.isfinite(y).any()
        drawn += 1
    for collection in axes.collections:
        offsets = np.ma.filled(np.ma.asarray(collection.get_offsets(), dtype=float), np.nan)
        assert offsets.size == 0 or np.isfinite(offsets).any()
    for image in axes.images:
        assert np.isfinite(np.ma.compressed(np.ma.asarray(image.get_array()))).all()
    return drawn


def is_drawn(drawn: Figure | None) -> None:
    assert drawn is not None
    visible = [axes for axes in drawn.axes if axes.get_visible()]
    assert visible
    for axes in visible:
        assert artists(axes) >= 1
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()
    assert png(rendered(drawn, 60)).startswith(b"\x89PNG")


NAMED = (
    "verdicts", "posteriors", "weights", "histories", "khat_sites", "witnesses", "amortized",
    "bounds", "khat_limits", "matched", "fits",
)  # fmt: skip


def with_table(comparison: gb.Comparison, name: str, **values: Any) -> gb.Comparison:
    """The same with other values in the row of one approximation."""
    table = comparison.table.copy()
    for column, value in values.items():
        table.loc[name, column] = value
    return replace(comparison, table=table)


def renamed(comparison: gb.Comparison, names: dict[str, str]) -> gb.Comparison:
    """The same, its approximations under other names."""
    mapped = {
        field: {names.get(n, n): value for n, value in getattr(comparison, field).items()}
        for field in NAMED
    }
    reference = comparison.reference
    return replace(
        comparison,
        table=comparison.table.rename(index=names),
        reference=None if reference is None else names.get(reference, reference),
        **mapped,
    )


def only(comparison: gb.Comparison, *names: str) -> gb.Comparison:
    """Some of the approximations; without a reference where it is not among them."""
    mapped = {
        field: {n: value for n, value in getattr(comparison, field).items() if n in names}
        for field in NAMED
    }
    kept = comparison.reference if comparison.reference in names else None
    return replace(comparison, table=comparison.table.loc[list(names)], reference=kept, **mapped)


def without_reference(comparison: gb.Comparison) -> gb.Comparison:
    return replace(comparison, reference=None)
