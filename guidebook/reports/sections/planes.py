"""Figures of autoencoders that need no comparison: strips of pictures, posteriors in the plane, and
the errors of gradients.

Each takes arrays and returns a `matplotlib.figure.Figure`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from guidebook.errors import DataError
from guidebook.reports.elements.style import GREY, INK, PALETTE, WIDTH, figure, gridlines, styled
from guidebook.reports.elements.summaries import Array

if TYPE_CHECKING:
    from guidebook.diagnostics.measures.gradients import Noise

_ACROSS = 14
"""Pictures across the page at most; fewer are drawn no larger than this many would be, twice over."""
_TURN = np.linspace(0, 2 * np.pi, 100)


@styled
def pictures(
    rows: Mapping[str, object],
    shape: tuple[int, int],
    above: Sequence[str] | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Rows of pictures, name to flat numbers (m, height * width), black to white over `limits`.

    `above`: words over each column. Raises DataError without rows, or for numbers that are no
    pictures of this shape.
    """
    height, width = shape
    tiles = {name: np.asarray(row, dtype=float) for name, row in rows.items()}
    if not tiles or any(t.ndim != 2 or t.shape[1] != height * width for t in tiles.values()):
        raise DataError(
            f"rows must map names to arrays (m, {height * width}) of pictures of shape {shape}, got the "
            f"shapes {[t.shape for t in tiles.values()]}."
        )
    across, gap = max(len(t) for t in tiles.values()), max(1, round(0.08 * width))
    canvas = np.full((len(tiles) * (height + gap) - gap, across * (width + gap) - gap), np.nan)
    for r, row in enumerate(tiles.values()):
        for c, tile in enumerate(row):
            at = (slice(r * (height + gap), None), slice(c * (width + gap), None))
            canvas[at][:height, :width] = tile.reshape(shape)
    names = max(len(line) for name in tiles for line in name.split("\n"))
    left = 0.3 + 0.085 * names
    inches = (WIDTH - left) * min(1.0, 2 * across / _ACROSS)
    lines = max((words.count("\n") + 1 for words in above), default=0) if above else 0
    tall = inches * canvas.shape[0] / canvas.shape[1] + 0.15 + 0.17 * lines
    drawn = figure(tall, inches + left)
    axes = drawn.subplots()
    low, high = limits
    axes.imshow(np.ma.masked_invalid(canvas), cmap="gray", vmin=low, vmax=high)
    axes.set_yticks([r * (height + gap) + (height - 1) / 2 for r in range(len(tiles))], list(tiles))
    axes.set_xticks([])
    if above is not None:
        at_columns = [c * (width + gap) + (width - 1) / 2 for c in range(len(above))]
        axes.set_xticks(at_columns, list(above), fontsize=8)
        axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


@styled
def posteriors_in_the_plane(
    nodes: object,
    weights: object,
    normals: Mapping[str, tuple[object, object]],
    titles: Sequence[str],
) -> Figure:
    """Posteriors on a grid, shaded, and normals q drawn as ellipses of one and two deviations.

    Arguments: `nodes` (G, 2) of a square grid and `weights` (B, G), as of
    `QuadraturePosterior.posterior`; name to the `mean` (B, 2) and `scale_tril` (B, 2, 2) of normals;
    a title for each of the B panels, four a line. Raises DataError for nodes that are not such a
    grid.
    """
    at, mass = np.asarray(nodes, dtype=float), np.asarray(weights, dtype=float)
    side = round(np.sqrt(len(at)))
    if at.ndim != 2 or at.shape[1] != 2 or side * side != len(at):
        raise DataError(f"nodes {at.shape} must be a square grid of points in the plane.")
    columns = min(4, len(mass))
    lines = -(-len(mass) // columns)
    drawn = figure(2.65 * lines + 0.3, WIDTH * columns / 4)
    grid = drawn.subplots(lines, columns, squeeze=False).ravel()
    given = {n: (np.asarray(m, dtype=float), np.asarray(t, dtype=float))
             for n, (m, t) in normals.items()}  # fmt: skip
    line = at[:side, 1]
    ramp = ListedColormap([(1 - 0.55 * s,) * 3 for s in np.linspace(0, 1, 64)])
    for b, axes in enumerate(grid[: len(mass)]):
        axes.pcolormesh(line, line, mass[b].reshape(side, side).T, cmap=ramp, rasterized=True)
        ends = [_window(at, mass[b])]
        for (name, (mean, tril)), colour in zip(given.items(), PALETTE, strict=False):
            for r, style in ((1.0, "-"), (2.0, "--")):
                ring = mean[b][:, None] + r * tril[b] @ np.stack([np.cos(_TURN), np.sin(_TURN)])
                label = name if r == 1.0 else None
                axes.plot(ring[0], ring[1], style, color=colour, lw=1.4, label=label)
            ends.append(np.stack([ring.min(1), ring.max(1)]))
        low, high = np.min([e[0] for e in ends], 0), np.max([e[1] for e in ends], 0)
        half = 0.55 * float((high - low).max())
        centre = (low + high) / 2
        axes.set(
            xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half)
        )
        axes.set_box_aspect(1)
        axes.set_title(titles[b], fontsize=9)
    for axes in grid[len(mass) :]:
        axes.set_visible(False)
    handles, words = grid[0].get_legend_handles_labels()
    drawn.legend(handles, words, loc="outside upper left", ncols=max(1, len(words)))
    return drawn


def _window(at: Array, mass: Array) -> Array:
    """The box (2, 2) of the cells that hold 99.9 % of the mass: its low and its high corner."""
    order = np.argsort(-mass)
    inside = at[order[: int(np.searchsorted(mass[order].cumsum(), 0.999)) + 1]]
    return np.stack([inside.min(0), inside.max(0)])


@styled
def gradient_errors(found: Mapping[str, "Noise"]) -> Figure:
    """Bias and noise of gradient estimators, each with an exact gradient, on logarithmic axes.

    The black mark beside a bias is what the noise of its draws alone gives: a bias there, or below,
    is no evidence of any. Raises DataError where no exact gradient was given.
    """
    if not found or any(one.exact is None for one in found.values()):
        raise DataError("Bias needs an exact gradient: call gradient_noise(..., exact=objective).")
    exact = float(np.linalg.norm(next(iter(found.values())).exact))  # type: ignore[arg-type]
    at = np.arange(len(found))
    drawn = figure(0.8 + 0.3 * len(found))
    left, right = drawn.subplots(1, 2, sharey=True)
    left.plot([one.bias for one in found.values()], at, "o", color=PALETTE[1], ms=8)
    left.plot(
        [one.bias_error for one in found.values()], at, "|", color=INK, ms=14, mew=1.6,
        label="what its Monte Carlo noise alone gives", ls="",
    )  # fmt: skip
    right.plot([np.sqrt(one.variance) for one in found.values()], at, "o", color=PALETTE[0], ms=8)
    for axes in (left, right):
        axes.axvline(exact, color=GREY, lw=1.0, ls="--", label="length of the exact gradient")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        gridlines(axes)
        gridlines(axes, "y")
    left.set_yticks(at, list(found))
    left.invert_yaxis()
    left.set_title("bias: |mean − exact|")
    right.set_title("noise of one draw: standard deviation")
    handles, words = left.get_legend_handles_labels()
    drawn.legend(handles, words, loc="outside lower left", ncols=2)
    return drawn
