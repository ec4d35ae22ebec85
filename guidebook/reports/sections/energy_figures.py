"""The figures of energy-based models: recall, energy along the way, load, weights, bounds.

Each function takes plain arrays or tensors and returns a `matplotlib.figure.Figure`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from guidebook.reports.elements.style import (
    GREY,
    INK,
    PALETTE,
    REFERENCE,
    WIDTH,
    figure,
    gridlines,
    styled,
)
from guidebook.reports.elements.summaries import Array

CAPACITY = 0.138
ACROSS = 16
#: Blue for -, white for 0, red for +: the two ends are told apart with every colour blindness.
_SIGNED = LinearSegmentedColormap.from_list("signed", [PALETTE[0], "#ffffff", PALETTE[1]])


def _array(values: Any) -> Array:
    """A NumPy array of a tensor or of anything else."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=float)


@styled
def recalled_patterns(
    stored: Any, cues: Any, ends: Any, shape: tuple[int, int], names: Sequence[str] = ()
) -> Figure:
    """Patterns as stored, the cues made of them, and where each recall ended, one column a cue.

    Arguments: three arrays (C, N), at most 16 columns are drawn; `shape` of a pattern, N in all. A
    unit that is not known (0) is grey; below each column stands how many units are wrong.
    """
    rows = [_array(part)[:ACROSS] for part in (stored, cues, ends)]
    count = len(rows[0])
    side = min(1.05, (WIDTH - 1.0) / count)
    drawn = figure(3 * side * shape[0] / shape[1] + 0.75, max(4.0, side * count + 1.0))
    grid = drawn.subplots(3, count, squeeze=False)
    for row, (label, values) in enumerate(zip(("stored", "cue", "recalled"), rows, strict=True)):
        for column in range(count):
            axes = grid[row, column]
            _picture(axes, -values[column].reshape(shape))
            if column == 0:
                axes.set_ylabel(label, rotation=0, ha="right", va="center")
            if row == 0 and column < len(names):
                axes.set_title(names[column], loc="center")
            if row > 0:
                unknown = int((values[column] == 0).sum())
                wrong = int((values[column] != rows[0][column]).sum()) - unknown
                words = [f"{wrong} wrong"] * bool(wrong) + [f"{unknown} unknown"] * bool(unknown)
                axes.set_xlabel("\n".join(words) or "right", fontsize=8.5)
    return drawn


@styled
def posterior_means(
    cues: Any, means: Mapping[str, Any], shape: tuple[int, int], reference: str | None = None
) -> Figure:
    """The first row of units as it is seen, and as every approximation completes it.

    Arguments: `cues` (C, N), 0 where a unit is not seen; `means` (C, N) by the name of the
    approximation, at most nine; `shape` of a row of units, N in all; `reference`, a name: under the
    others stands their largest difference from it.
    """
    seen = _array(cues)[0]
    shown = {"seen": seen} | {n: _array(v)[0] for n, v in list(means.items())[:9]}
    truth = shown.get(reference) if reference is not None else None
    side = min(1.3, (WIDTH - 0.2) / len(shown))
    drawn = figure(side * shape[0] / shape[1] + 0.6, max(4.0, side * len(shown) + 0.2))
    for axes, (name, values) in zip(
        drawn.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
    ):
        _picture(axes, -values.reshape(shape))
        axes.set_title(name, loc="center", fontsize=9)
        if truth is not None and name not in ("seen", reference):
            axes.set_xlabel(f"{np.abs(values - truth).max():.2f}", fontsize=8.5)
    return drawn


def _picture(axes: Axes, values: Array, **options: Any) -> Any:
    """Units -1 and +1 as white and black (the caller turns the sign), without ticks."""
    settings: dict[str, Any] = {"vmin": -1, "vmax": 1, "cmap": "gray"} | options
    image = axes.imshow(values, **settings)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.6)
    return image


@styled
def energy_along_the_way(energies: Any, floor: Mapping[str, float] | None = None) -> Figure:
    """The energy of each recall after every update of a unit: it never rises.

    Arguments: `energies` (T + 1, C) of `recall`; `floor`, energies to mark by name (those of the
    stored patterns), at most six.
    """
    ways = _array(energies)
    still = int(np.argmax((ways == ways[-1]).all(1)))
    shown = min(len(ways), max(2, math.ceil(1.15 * still)))
    drawn = figure(3.3, 0.75 * WIDTH)
    axes = drawn.subplots()
    for way in ways.T[:200]:
        axes.step(np.arange(shown), way[:shown], where="post", color=PALETTE[0], alpha=0.45, lw=1.1)
    low, high = min(ways.min(), *(floor or {"": 0.0}).values()), float(ways.max())
    beside = -math.inf
    for name, value in sorted((floor or {}).items(), key=lambda item: item[1])[:6]:
        axes.axhline(value, color=REFERENCE, lw=0.9, ls="--", zorder=0)
        beside = max(value, beside + 0.05 * (high - low))  # labels one above the other
        axes.annotate(
            name, (1.0, beside), xycoords=axes.get_yaxis_transform(), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8.5,
        )  # fmt: skip
    axes.set(xlabel="units updated", ylabel="energy", xlim=(0, shown - 1))
    gridlines(axes, "y")
    return drawn


@styled
def recall_against_load(
    loads: Any, overlaps: Mapping[str, Any], one_step: Mapping[str, Any] | None = None
) -> Figure:
    """How much of a stored pattern is left at the end of its recall, against patterns a unit.

    Arguments: `loads` (L,); `overlaps`, by name of the rule or the size of the network, the mean
    overlap (L,); `one_step`, the share of units (L,) that the first update flips, by name, drawn
    beside it with its theory. The capacity 0.138 is marked.
    """
    x = _array(loads)
    drawn = figure(3.5, WIDTH if one_step else 0.65 * WIDTH)
    panels = drawn.subplots(1, 2 if one_step else 1, squeeze=False)[0]
    for i, (name, values) in enumerate(overlaps.items()):
        panels[0].plot(x, _array(values), "o-", ms=4, color=PALETTE[i % 6], label=name)
    panels[0].set(title="after recall", ylabel="overlap with the stored pattern", ylim=(0, 1.04))
    if one_step:
        theory = [50 * math.erfc(1 / math.sqrt(2 * load)) for load in x]
        panels[1].plot(x, theory, color=REFERENCE, label="theory, many units")
        for i, (name, values) in enumerate(one_step.items()):
            panels[1].plot(x, 100 * _array(values), "o", ms=4, color=PALETTE[i % 6], label=name)
        panels[1].set(title="after one update", ylabel="units flipped (%)")
        panels[1].set_ylim(bottom=0)
        panels[1].legend(loc="upper left")
    for axes, height in zip(panels, (0.03, 0.95), strict=False):
        axes.axvline(CAPACITY, color=INK, lw=1.0, ls="--")
        axes.annotate(
            "0.138", (CAPACITY, height), xycoords=axes.get_xaxis_transform(), xytext=(4, 0),
            textcoords="offset points", fontsize=8.5,
        )  # fmt: skip
        axes.set(xlabel="patterns a unit")
        gridlines(axes, "y")
    panels[0].legend(loc="lower left" if len(overlaps) < 3 else "upper right")
    return drawn


@styled
def learned_weights(weights: Any, shape: tuple[int, int], most: int = ACROSS) -> Figure:
    """The weights from the visible units to each hidden one, as pictures; the strongest first.

    Arguments: `weights` (V, H) between the layers; `shape` of a row of visible units, V in all.
    """
    columns = _array(weights).T
    columns = columns[np.argsort(-np.abs(columns).sum(1))][:most]
    limit = max(float(np.abs(columns).max()), 1e-12)
    across = min(8, len(columns))
    down = math.ceil(len(columns) / across)
    side = 1.05
    drawn = figure(side * down * shape[0] / shape[1] + 0.3, side * across + 1.1)
    grid = drawn.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    image = None
    for axes, column in zip(grid, columns, strict=False):
        image = _picture(axes, column.reshape(shape), vmin=-limit, vmax=limit, cmap=_SIGNED)
    if image is not None:
        bar = drawn.colorbar(image, ax=list(grid), shrink=0.9, pad=0.02)
        bar.set_label("weight")
    return drawn


@styled
def data_and_samples(
    data: Any, samples: Any, shape: tuple[int, int], known: Any = None, most: int = ACROSS
) -> Figure:
    """Rows of the data above, samples of the machine below.

    Arguments: `data` (n, V) and `samples` (m, V) of -1 and +1, evenly spaced ones are drawn;
    `known` (m,), whether a sample is one of the data's pictures: those that are not are framed.
    """
    rows = [_array(data), _array(samples)]
    count = min(most, *(len(part) for part in rows))
    side = min(0.8, (WIDTH - 1.0) / count)
    drawn = figure(2 * side * shape[0] / shape[1] + 0.45, side * count + 1.0)
    grid = drawn.subplots(2, count, squeeze=False)
    for row, (label, part) in enumerate(zip(("data", "samples"), rows, strict=True)):
        some = np.linspace(0, len(part) - 1, count).astype(int)
        for column, index in enumerate(some):
            axes = grid[row, column]
            _picture(axes, -part[index].reshape(shape))
            if column == 0:
                axes.set_ylabel(label, rotation=0, ha="right", va="center")
            if row == 1 and known is not None and not bool(_array(known)[index]):
                for spine in axes.spines.values():
                    spine.set(color=PALETTE[1], linewidth=2.0)
    return drawn


@styled
def log_normaliser_bounds(
    betas: Any,
    bounds: Mapping[str, Any],
    truth: Any,
    estimate: tuple[Any, Any] | None = None,
) -> Figure:
    """Bounds of log Z below the truth, in nats, over the inverse temperature.

    Arguments: `betas` (B,); `bounds`, lower bounds (B,) by the name of the family; `truth` (B,);
    `estimate`, log Z (B,) by annealed importance sampling and its standard error (B,), drawn with
    two of them in a panel of its own.
    """
    x, exact = _array(betas), _array(truth)
    drawn = figure(3.5, WIDTH if estimate else 0.65 * WIDTH)
    panels = drawn.subplots(1, 2 if estimate else 1, squeeze=False)[0]
    panels[0].axhline(0, color=REFERENCE, lw=1.2)
    for i, (name, values) in enumerate(bounds.items()):
        panels[0].plot(x, _array(values) - exact, "o-", ms=3.5, color=PALETTE[i % 6], label=name)
    panels[0].set(title="variational bounds", ylabel="bound - log Z (nats)")
    panels[0].legend(loc="best")
    if estimate:
        value, error = _array(estimate[0]), _array(estimate[1])
        panels[1].axhline(0, color=REFERENCE, lw=1.2)
        panels[1].errorbar(x, value - exact, yerr=2 * error, fmt="o", ms=4, color=PALETTE[2])
        panels[1].set(title="annealed importance sampling, ± 2 standard errors")
        panels[1].set_ylabel("estimate - log Z (nats)")
    for axes in panels:
        axes.set_xlabel("inverse temperature β")
        gridlines(axes, "y")
    return drawn


@styled
def tour(positions: Any, order: Any, best: Any = None, title: str = "") -> Figure:
    """A tour through cities at `positions` (n, 2), and the best one dashed where it differs."""
    places, way = _array(positions), _array(order).astype(int)
    drawn = figure(3.6, 3.8)
    axes = drawn.subplots()
    if best is not None:
        closed = places[np.append(_array(best).astype(int), int(_array(best)[0]))]
        axes.plot(*closed.T, color=GREY, ls="--", lw=3.5, label="shortest")
    axes.plot(*places[np.append(way, way[0])].T, "o-", color=PALETTE[0], ms=6, label="found")
    axes.set(title=title, aspect="equal", xticks=[], yticks=[])
    axes.legend(loc="best")
    return drawn
