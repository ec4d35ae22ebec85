"""Rows of images as one picture: one artist instead of hundreds of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from guidebook.reports.elements.style import WIDTH, figure
from guidebook.reports.elements.summaries import Array

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers

ACROSS = 12
"""Images across the page; fewer are drawn smaller."""


def mosaic(
    numbers: AmortizedNumbers,
    rows: Sequence[Array],
    names: Sequence[str],
    above: Sequence[str] | None = None,
) -> Figure:
    """Rows of images, flat, in the data's greys: a name left of each row, words above each column."""
    shape = numbers.image_shape
    assert shape is not None
    canvas, height, width = _canvas(rows, shape)
    across = max(len(row) for row in rows)
    inches = (WIDTH - 0.7) * min(1.0, across / ACROSS)
    tall = inches * canvas.shape[0] / canvas.shape[1]
    lines = max((text.count("\n") + 1 for text in above), default=1) if above else 0
    drawn = figure(tall + 0.12 + 0.165 * lines, inches + 0.7)
    axes = drawn.subplots()
    low, high = _limits(numbers)
    if canvas.ndim == 3:
        picture = np.clip((canvas - low) / max(high - low, 1e-12), 0, 1)
        axes.imshow(np.nan_to_num(picture, nan=1.0))
    else:
        axes.imshow(np.ma.masked_invalid(canvas), cmap="gray", vmin=low, vmax=high)
    centres = [r * height + (height - 2) / 2 for r in range(len(rows))]
    axes.set_yticks(centres if any(names) else [], names if any(names) else [])
    axes.set_xticks([])
    if above is not None:
        axes.set_xticks(
            [c * width + (width - 2) / 2 for c in range(len(above))], above, fontsize=7.5
        )
        axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def _canvas(rows: Sequence[Array], shape: tuple[int, ...]) -> tuple[Array, int, int]:
    """The images side by side, NaN between them, and the height and width of one with its gap."""
    tiles = [[_image(x, shape) for x in row] for row in rows]
    height, width, *depth = tiles[0][0].shape
    gap = max(1, round(0.06 * width))
    across = max(len(row) for row in tiles)
    down, right = height + gap, width + gap
    canvas = np.full((len(tiles) * down - gap, across * right - gap, *depth), np.nan)
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            canvas[r * down :, c * right :][:height, :width] = tile
    return canvas, down, right


def _image(x: Array, shape: tuple[int, ...]) -> Array:
    """A flat datum as (height, width[, 3]); one of (channels, height, width) is turned."""
    image = np.asarray(x, dtype=float).reshape(shape)
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = np.moveaxis(image, 0, 2)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _limits(numbers: AmortizedNumbers) -> tuple[float, float]:
    """Black and white of every picture: the range of the data."""
    data = np.asarray(numbers.data, dtype=float)
    low, high = float(np.nanmin(data)), float(np.nanmax(data))
    return (low, high) if high > low else (low, low + 1.0)
