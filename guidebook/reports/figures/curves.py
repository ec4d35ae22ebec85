"""How the fits went: the objective over the steps, and k-hat per site.

Each function takes a Compared and returns a `matplotlib.figure.Figure`, or None where there is
nothing to draw; so do those of the other files here. None of them touches pyplot or the comparison.
"""

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.reports.elements.style import (
    FAINT,
    INK,
    colours,
    figure,
    gridlines,
    line_styles,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import Array, khat_limit_of, names_of

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

MOST_SITES = 16
JOINTLY = "all sites jointly"


@styled
def objective(comparison: "Compared") -> Figure | None:
    """The ELBO over the steps of every fit, smoothed: the whole run, and its second half enlarged.

    Left: nats below the best ELBO, both axes logarithmic, so that the start does not squash the
    end. Right: the second half of each run on a plain scale: level means converged.
    """
    histories = {
        n: np.asarray(h, dtype=float) for n, h in comparison.histories.items() if _usable(h)
    }
    if not histories:
        return None
    palette, lines = colours(comparison), line_styles(comparison)
    late_half = {
        n: smoothed(h, np.linspace(h.size // 2, h.size, 101)) for n, h in histories.items()
    }
    ends = {n: float(np.median(elbo[-20:])) for n, (_, elbo) in late_half.items()}
    best = max(ends.values())
    # Below the noise of the best fit a distance means nothing: there its line ends in a level.
    floor = max(0.1, float(np.ptp(late_half[max(ends, key=lambda n: ends[n])][1])))
    drawn = figure(3.5)
    whole, late = drawn.subplots(1, 2)
    farthest = 10 * floor
    for name, history in histories.items():
        style = {"color": palette[name], "ls": lines[name], "label": shorten(name)}
        steps, elbo = smoothed(history, np.geomspace(1, history.size + 1, 81) - 1)
        whole.plot(steps, np.maximum(best - elbo, floor), **style)
        farthest = max(farthest, float(np.max(best - elbo)))
        steps, elbo = late_half[name]
        late.plot(100 * steps / history.size, elbo, **style)
    _logarithmic(whole, 1.5 * farthest, 0.7 * floor)
    late.set(
        title="second half of each run", xlabel="share of the run's steps (%)", ylabel="ELBO (nats)"
    )
    _second_half_limits(late, [elbo for _, elbo in late_half.values()])
    for axes in (whole, late):
        gridlines(axes, "y")
    handles, names = whole.get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper left", ncols=min(5, len(names)))
    return drawn


def _logarithmic(axes: Axes, bottom: float, top: float) -> None:
    """Logarithmic axes with plain numbers; the best is on top."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain_power)
        axis.set_minor_formatter(_nothing)
    axes.set(title="whole run", xlabel="step", ylabel="nats below the best fit")


def _usable(history: Array) -> bool:
    """Whether there is a curve to draw."""
    history = np.asarray(history, dtype=float)
    return history.size >= 4 and bool(np.isfinite(history[history.size // 2 :]).any())


def smoothed(history: Array, edges: Array) -> tuple[Array, Array]:
    """(step, ELBO): medians over the stretches between `edges`.

    The median, because single ELBO draws have heavy tails; a stretch with no finite value is left
    out.
    """
    edges = np.unique(np.round(edges).astype(int))
    steps, values = [], []
    for low, high in pairwise(edges):
        part = history[low:high]
        part = part[np.isfinite(part)]
        if part.size:
            steps.append((low + 1 + high) / 2)
            values.append(-float(np.median(part)))
    return np.array(steps), np.array(values)


def _second_half_limits(axes: Axes, halves: list[Array]) -> None:
    """Limits for the well-fitted curves; one that is far below leaves the panel at the bottom."""
    high = max(float(np.max(half)) for half in halves)
    spread = max(float(np.ptp(half)) for half in halves)
    ends = np.array([float(np.median(half)) for half in halves])
    gap, usual = high - float(np.min(ends)), high - float(np.median(ends))
    low = high - min(gap + spread, max(12 * usual, 1e-6) + spread)
    pad = max(0.06 * (high - low), 1e-9)
    axes.set_ylim(low - pad, high + pad)


def _plain_power(value: float, _: object = None) -> str:
    """1, 10, 1,000, 1e6: no mathematics text, which the report switches off."""
    if value <= 0:
        return ""
    if 1e3 <= value < 1e6:
        return f"{value:,.0f}"
    if 1e-3 <= value < 1e3:
        return f"{value:.4g}"
    return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _nothing(_value: float, _: object = None) -> str:
    """No label."""
    return ""


@styled
def khat_per_site(comparison: "Compared") -> Figure | None:
    """k-hat with two standard errors, jointly and per site; beyond the line the weights cannot be
    used.
    """
    names = [n for n in names_of(comparison) if n != comparison.reference]
    entries = {n: _khats(comparison, n) for n in names}
    entries = {n: values for n, values in entries.items() if values}
    if not entries:
        return None
    shown, hidden = _worst_sites(entries)
    palette = colours(comparison)
    step = len(entries) + 1.0
    drawn = figure(0.16 * step * len(shown) + 1.35)
    axes = drawn.subplots()
    for i, (name, values) in enumerate(entries.items()):
        at = [(s * step + i, *values[site]) for s, site in enumerate(shown) if site in values]
        y, k, se = np.array(at).T
        axes.errorbar(
            k, y, xerr=2 * np.nan_to_num(se), fmt="o", ms=5, color=palette[name], elinewidth=1.3,
            label=shorten(name),
        )  # fmt: skip
    _mark_limit(axes, min(khat_limit_of(comparison, name) for name in entries))
    axes.set_ylim(len(shown) * step - 0.5, -1.0)
    axes.set_yticks([s * step + (len(entries) - 1) / 2 for s in range(len(shown))])
    axes.set_yticklabels([shorten(site, 34) for site in shown])
    axes.tick_params(axis="y", length=0)
    for s in range(1, len(shown)):
        axes.axhline(s * step - 1.0, color=FAINT, lw=0.8, zorder=0)
    rest = f"; {hidden} sites with a lower k-hat are not shown" if hidden else ""
    axes.set_xlabel(f"Pareto k-hat ± 2 standard errors{rest}")
    gridlines(axes)
    drawn.legend(loc="outside upper left", ncols=min(5, len(entries)))
    return drawn


def _worst_sites(entries: dict[str, dict[str, tuple[float, float]]]) -> tuple[list[str], int]:
    """The sites with the highest k-hat, after all of them jointly; and how many are left out."""
    sites = list(dict.fromkeys(site for values in entries.values() for site in values))
    worst = sorted(
        (site for site in sites if site != JOINTLY),
        key=lambda site: -max(values[site][0] for values in entries.values() if site in values),
    )
    kept = {JOINTLY, *worst[:MOST_SITES]}
    shown = [site for site in sites if site in kept]
    return shown, len(sites) - len(shown)


def _mark_limit(axes: Axes, limit: float) -> None:
    """The line beyond which the weights cannot be used, and the part beyond it shaded."""
    low, high = axes.get_xlim()
    low, high = min(low, -0.1), max(high, 1.1)
    axes.axvspan(limit, high + 1, color="#f7e3dc", lw=0, zorder=0)
    axes.axvline(limit, color=INK, lw=1.0, ls="--")
    axes.set_xlim(max(low, -1.5), min(high, 5.0))
    axes.text(
        limit, 1.0, f" {limit:.2f}: weights unreliable beyond",
        transform=axes.get_xaxis_transform(), fontsize=8.5, va="bottom",
    )  # fmt: skip


def _khats(comparison: "Compared", name: str) -> dict[str, tuple[float, float]]:
    """The joint k-hat first, then the sites'; what could not be computed is left out."""
    row = comparison.table.loc[name]
    every = {JOINTLY: (float(row["khat"]), float(row["khat_se"]))}
    every |= {
        site: (float(k), float(se)) for site, (k, se) in comparison.khat_sites.get(name, {}).items()
    }
    return {site: pair for site, pair in every.items() if math.isfinite(pair[0])}
