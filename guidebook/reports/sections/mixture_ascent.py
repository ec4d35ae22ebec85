"""NEEDS A DOCSTRING: guidebook.reports.sections.mixture_ascent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.diagnostics.model_kinds.mixtures import MixtureNumbers, _notes
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
from guidebook.reports.figures.curves import _smoothed

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared


# the way up ---------------------------------------------------------------------------------------


@styled
def ascent(comparison: Compared, numbers: MixtureNumbers) -> Figure | None:
    """What every engine climbs, against passes over the data: one sweep of cavi or em is one pass.

    cavi, natural_svi and svi climb the ELBO, em the log posterior density of the globals.
    """
    runs = {
        n: -np.asarray(h, dtype=float)
        for n, h in comparison.histories.items()
        if np.isfinite(h).sum() > 1
    }
    if not runs:
        return None
    palette, lines = colours(comparison), line_styles(comparison)
    drawn = figure(3.6)
    axes = drawn.subplots()
    ends, starts, longest = [], [], 1.0
    for name, values in runs.items():
        engine = str(comparison.table.loc[name, "engine"])
        passes = passes_of(engine, len(values), numbers.rows, _notes(comparison.posteriors[name]))
        if engine in ("cavi", "em"):
            shown = np.isfinite(values)
            at, height = passes[shown], values[shown]
            starts.append(float(height[0]))
        else:  # single draws or mini-batches: running medians
            steps, height = _smoothed(-values, np.geomspace(1, len(values) + 1, 61) - 1)
            at = np.interp(steps, np.arange(1, len(values) + 1), passes)
        ends.append(float(np.median(height[-5:])) if engine != "em" else float(height[-1]))
        longest = max(longest, float(at[-1]))
        axes.plot(
            at, height, color=palette[name], ls=lines[name], lw=1.6, alpha=0.9,
            marker="o" if engine in ("cavi", "em") else None, ms=4,
            label=f"{shorten(name, 20)}: {_climbs(engine)}",
        )  # fmt: skip
    evidence = _log_evidence(comparison)
    if evidence is not None:
        _ceilings(axes, evidence, numbers.K)
        ends.append(evidence)
    # The first steps of svi are far below and leave the panel; starts of the sweeps are in it.
    high, low = max(ends), min(ends)
    near = [s for s in starts if high - s < 6 * max(high - low, 1.0)]
    low = min([low, *near])
    pad = 0.12 * max(high - low, 1e-3)
    axes.set_ylim(low - 2 * pad, high + pad)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.3)
    axes.set_xlim(-0.05, 1.15 * longest)
    ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000) if t <= longest]
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
    axes.set(xlabel="passes over the data (0: the start)", ylabel="objective (nats)")
    gridlines(axes, "y")
    drawn.legend(loc="outside right upper")
    return drawn


def passes_of(engine: str, length: int, rows: int, notes: dict[str, Any]) -> Array:
    """How many times all rows had been read at each value of a history of this length."""
    if engine in ("cavi", "em"):  # whose first value is that of the start
        return np.arange(length, dtype=float)
    batch = notes.get("batch_size") or rows
    return np.arange(1, length + 1) * min(1.0, float(batch) / max(rows, 1))


def _climbs(engine: str) -> str:
    return f"{engine}, log p(x, θ)" if engine == "em" else f"{engine}, ELBO"


def _log_evidence(comparison: Compared) -> float | None:
    """log p(x) of a fit by `exact`."""
    for tree in comparison.posteriors.values():
        found = _notes(tree).get("log_evidence")
        if found is not None and tree["vi_fit"].attrs.get("engine") == "exact":
            return float(found)
    return None


def _ceilings(axes: Axes, evidence: float, K: int) -> None:
    axes.axhline(evidence, color=INK, lw=1.0)
    axes.text(0.995, evidence, "log p(x) ", transform=axes.get_yaxis_transform(), fontsize=8.5,
              ha="right", va="bottom")  # fmt: skip
    if K == 1:
        return
    one = evidence - math.lgamma(K + 1)
    axes.axhline(one, color=INK, lw=1.0, ls=":")
    axes.text(0.995, one, f"log p(x) − log {K}! ", transform=axes.get_yaxis_transform(),
              fontsize=8.5, ha="right", va="bottom")  # fmt: skip
