"""The figures of an amortised approximation q(z | x): data, reconstructions, latents, per-datum
k-hat.

Each takes `AmortizedNumbers` and returns a `matplotlib.figure.Figure`, or None where there is
nothing to draw. Data of an `image_shape` are drawn as images, others as lines over their
coordinates.
"""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from guidebook.reports.elements.style import (
    GREY,
    INK,
    PALETTE,
    REFERENCE,
    WIDTH,
    figure,
    gridlines,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import Array

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers

#: Per-datum k-hat is read against the limit that does not depend on S: Vehtari et al. (2024).
KHAT_LIMIT = 0.7
_ACROSS = 12
_PANELS = 8
_MOST_TRAVERSED = 8
_MOST_POINTS = 3000
_DATA, _FIT = REFERENCE, PALETTE[0]


@styled
def reconstructions(numbers: "AmortizedNumbers") -> Figure | None:
    """Data above, what the approximation makes of them below; evenly spaced over the data set."""
    n = min(len(numbers.data), len(numbers.reconstruction))
    if n == 0:
        return None
    some = np.unique(np.linspace(0, n - 1, min(n, _ACROSS)).astype(int))
    return _beside(numbers, some, [_datum_name(numbers, int(i)) for i in some])


@styled
def worst_data(numbers: "AmortizedNumbers") -> Figure | None:
    """The data whose approximate posterior is worst, their k-hat, and their reconstructions."""
    some = np.asarray(numbers.worst, dtype=int)[:_ACROSS]
    if some.size == 0:
        return None
    khat = np.asarray(numbers.khat, dtype=float)
    told = [f"\nk {khat[i]:.2f}" if np.isfinite(khat[i]) else "" for i in some]
    names = [_datum_name(numbers, int(i)) + k for i, k in zip(some, told, strict=True)]
    return _beside(numbers, some, names)


@styled
def prior_samples(numbers: "AmortizedNumbers") -> Figure | None:
    """What the model makes of z drawn from its prior, whatever the reconstructions look like."""
    samples = np.asarray(numbers.prior_samples, dtype=float)[: 2 * _ACROSS]
    if len(samples) == 0:
        return None
    if numbers.image_shape is None:
        drawn = figure(2.6)
        axes = drawn.subplots()
        data = np.asarray(numbers.data, dtype=float)
        _band(axes, data)
        axes.plot(_coordinates(samples), samples.T, color=_FIT, lw=0.9, alpha=0.6)
        axes.set(xlabel="coordinate", title="prior samples (grey: middle 94 % of the data)")
        return drawn
    limits = _limits(numbers)
    rows = [samples[i : i + _ACROSS] for i in range(0, len(samples), _ACROSS)]
    return _mosaic_figure(numbers, rows, [""] * len(rows), limits)


@styled
def traversals(numbers: "AmortizedNumbers") -> Figure | None:
    """One latent coordinate moved at a time, a row each; the coordinates most used come first."""
    walks = np.asarray(numbers.traversals, dtype=float)
    if walks.size == 0:
        return None
    order = most_used(numbers)[:_MOST_TRAVERSED]
    order = order[order < len(walks)]
    if numbers.image_shape is not None:
        rows = [walks[d] for d in order]
        return _mosaic_figure(numbers, rows, [f"z[{d}]" for d in order], _limits(numbers))
    columns = min(4, len(order))
    lines = -(-len(order) // columns)
    drawn = figure(1.7 * lines + 0.2)
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, d in zip(grid, order, strict=False):
        for i, walk in enumerate(walks[d]):
            share = i / max(1, len(walks[d]) - 1)
            axes.plot(
                _coordinates(walks[d]), walk, color=_blend(PALETTE[0], PALETTE[1], share), lw=1.1
            )
        axes.set_title(f"z[{d}]: low (blue) to high (red)")
    for axes in grid[len(order) :]:
        axes.set_visible(False)
    return drawn


@styled
def latent(numbers: "AmortizedNumbers") -> Figure | None:
    """Posterior means of the two most used latent coordinates, and how much each coordinate is
    used.

    A coordinate is used by the share of its prior variance that lies between data: about 1 where
    the data decide it, 0 where the guide has collapsed to the prior (posterior collapse).
    """
    means = np.asarray(numbers.latent_mean, dtype=float)
    if means.ndim != 2 or means.size == 0:
        return None
    order = most_used(numbers)
    drawn = figure(4.1)
    left, right = drawn.subplots(1, 2, width_ratios=(1.35, 1))
    first, second = int(order[0]), int(order[min(1, len(order) - 1)])
    keep = np.unique(np.linspace(0, len(means) - 1, min(len(means), _MOST_POINTS)).astype(int))
    _scatter(drawn, left, numbers, means[keep][:, [first, second]], keep)
    left.set(xlabel=f"mean of z[{first}]", ylabel=f"mean of z[{second}]", title="posterior means")
    shown = order[:24]
    sd = np.asarray(numbers.latent_sd, dtype=float)
    between, within = means.var(axis=0), (sd**2).mean(axis=0)
    at = np.arange(len(shown))
    right.barh(at, between[shown], color=_FIT, height=0.7, label="between data")
    right.barh(
        at, within[shown], left=between[shown], color="#c9ced6", height=0.7, label="within a datum"
    )
    right.set_yticks(at, [f"z[{d}]" for d in shown])
    right.invert_yaxis()
    right.axvline(1.0, color=INK, lw=1.0, ls="--")
    right.set(xlabel="variance (prior: 1)", title="what the data decide")
    right.legend(loc="lower left", bbox_to_anchor=(0.0, 1.06), ncols=2, borderpad=0.0)
    return drawn


@styled
def khat_per_datum(numbers: "AmortizedNumbers") -> Figure | None:
    """Histograms: k-hat of each datum's posterior, and the gap from its ELBO to the bound."""
    khat = np.asarray(numbers.khat, dtype=float)
    gap = np.asarray(numbers.bound, dtype=float) - np.asarray(numbers.elbo, dtype=float)
    # -inf is an exact posterior: its weights are all equal.
    khat, gap = khat[~np.isnan(khat)], gap[np.isfinite(gap)]
    if khat.size == 0 and gap.size == 0:
        return None
    drawn = figure(2.9)
    left, right = drawn.subplots(1, 2)
    if khat.size:
        low, high = (
            min(-0.5, float(np.quantile(np.maximum(khat, -1.5), 0.01))),
            max(1.1, float(np.quantile(np.maximum(khat, -1.5), 0.995))),
        )
        left.hist(np.clip(khat, low, high), bins=np.linspace(low, high, 41).tolist(), color=_FIT)
        left.axvline(KHAT_LIMIT, color=INK, lw=1.0, ls="--")
        share = float((khat > KHAT_LIMIT).mean())
        left.set_title(f"{100 * share:.1f} % of {khat.size:,} data beyond {KHAT_LIMIT}")
    left.set(xlabel=f"k-hat of one datum (± {float(numbers.khat_se):.2f})", ylabel="data")
    if gap.size:
        top = float(np.quantile(gap, 0.995))
        low = min(0.0, float(np.quantile(gap, 0.005)))
        edges = np.linspace(low, max(top, low + 1e-6), 41)
        right.hist(np.clip(gap, edges[0], edges[-1]), bins=edges.tolist(), color=_FIT)
        right.axvline(float(gap.mean()), color=INK, lw=1.0)
        right.set_title(f"mean {gap.mean():.2f} nats a datum")
    right.set(xlabel="importance-weighted bound − ELBO (nats)", ylabel="data")
    for axes in (left, right):
        gridlines(axes, "y")
    return drawn


def most_used(numbers: "AmortizedNumbers") -> Array:
    """Latent coordinates, the one whose posterior means vary most between data first."""
    return np.argsort(-np.asarray(numbers.latent_mean, dtype=float).var(axis=0), kind="stable")


def _scatter(
    drawn: Figure, axes: Axes, numbers: "AmortizedNumbers", points: Array, keep: Array
) -> None:
    """Points coloured by their label: a colour a class, or a scale where the labels are many."""
    labels = None if numbers.labels is None else np.asarray(numbers.labels)[keep]
    size = 9 if len(points) > 500 else 18
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=_FIT, alpha=0.6, lw=0)
        return
    classes = np.unique(labels)
    if len(classes) > 12:
        if labels.dtype.kind in "if":
            painted = axes.scatter(
                points[:, 0], points[:, 1], s=size, c=labels.astype(float), cmap="viridis", lw=0
            )
            drawn.colorbar(painted, ax=axes, label="label")
        else:
            axes.scatter(points[:, 0], points[:, 1], s=size, color=_FIT, alpha=0.6, lw=0)
        return
    # Twelve classes need more than six colours: "muted" of Paul Tol (2021), Colour Schemes,
    # and three more.
    tones = (
        "#332288",
        "#88CCEE",
        "#44AA99",
        "#117733",
        "#999933",
        "#DDCC77",
        "#CC6677",
        "#882255",
        "#AA4499",
        "#555555",
        "#E69F00",
        "#0072B2",
    )
    for tone, each in zip(tones, classes, strict=False):
        part = points[labels == each]
        name = shorten(str(each), 12)
        axes.scatter(part[:, 0], part[:, 1], s=size, color=tone, alpha=0.75, lw=0, label=name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=1.8, handletextpad=0.1)


def _beside(numbers: "AmortizedNumbers", some: Array, names: list[str]) -> Figure:
    """Data above their reconstructions; without an image shape, both as lines in one panel."""
    data = np.asarray(numbers.data, dtype=float)[some]
    made = np.asarray(numbers.reconstruction, dtype=float)[some]
    if numbers.image_shape is not None:
        rows = [data, made]
        return _mosaic_figure(numbers, rows, ["data", "recon-\nstruction"], _limits(numbers), names)
    some, names = some[:_PANELS], names[:_PANELS]
    columns = min(4, len(some))
    lines = -(-len(some) // columns)
    drawn = figure(1.6 * lines + 0.5)
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    for axes, x, fit, name in zip(grid, data, made, names, strict=False):
        axes.plot(_coordinates(data), x, color=_DATA, lw=1.0, marker=".", ms=3, label="data")
        axes.plot(_coordinates(data), fit, color=_FIT, lw=1.4, label="reconstruction")
        axes.set_title(name.replace("\n", ", "))
    for axes in grid[len(some) :]:
        axes.set_visible(False)
    handles, words = grid[0].get_legend_handles_labels()
    drawn.legend(handles, words, loc="outside upper left", ncols=2)
    return drawn


def mosaic(
    numbers: "AmortizedNumbers", rows: list[Array], names: list[str], above: list[str]
) -> Figure:
    """Rows of images, flat, in the data's greys: a name left of each row, words above each column."""
    return _mosaic_figure(numbers, rows, names, _limits(numbers), above)


def _mosaic_figure(
    numbers: "AmortizedNumbers",
    rows: list[Array],
    names: list[str],
    limits: tuple[float, float],
    above: list[str] | None = None,
) -> Figure:
    """Rows of images as one picture: one artist instead of hundreds of axes."""
    shape = numbers.image_shape
    assert shape is not None
    tiles = [[_image(x, shape) for x in row] for row in rows]
    height, width = tiles[0][0].shape[:2]
    gap = max(1, round(0.06 * width))
    across = max(len(row) for row in tiles)
    depth = tiles[0][0].shape[2:]
    canvas = np.full(
        (len(tiles) * (height + gap) - gap, across * (width + gap) - gap, *depth), np.nan
    )
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            canvas[r * (height + gap) :, c * (width + gap) :][:height, :width] = tile
    inches = (WIDTH - 0.7) * min(1.0, across / _ACROSS)
    tall = inches * canvas.shape[0] / canvas.shape[1]
    lines = max((text.count("\n") + 1 for text in above), default=1) if above else 0
    drawn = figure(tall + 0.12 + 0.165 * lines, inches + 0.7)
    axes = drawn.subplots()
    low, high = limits
    if depth:
        picture = np.clip((canvas - low) / max(high - low, 1e-12), 0, 1)
        axes.imshow(np.nan_to_num(picture, nan=1.0))
    else:
        axes.imshow(np.ma.masked_invalid(canvas), cmap="gray", vmin=low, vmax=high)
    centres = [r * (height + gap) + (height - 1) / 2 for r in range(len(tiles))]
    axes.set_yticks(centres if any(names) else [], names if any(names) else [])
    axes.set_xticks([])
    if above is not None:
        across_at = [c * (width + gap) + (width - 1) / 2 for c in range(len(above))]
        axes.set_xticks(across_at, above, fontsize=7.5)
        axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


def _image(x: Array, shape: tuple[int, ...]) -> Array:
    """A flat datum as (height, width[, 3]); one of (channels, height, width) is turned."""
    image = np.asarray(x, dtype=float).reshape(shape)
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = np.moveaxis(image, 0, 2)
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _limits(numbers: "AmortizedNumbers") -> tuple[float, float]:
    """Black and white of every picture: the range of the data."""
    data = np.asarray(numbers.data, dtype=float)
    low, high = float(np.nanmin(data)), float(np.nanmax(data))
    return (low, high) if high > low else (low, low + 1.0)


def _coordinates(rows: Array) -> Array:
    return np.arange(rows.shape[-1])


def _band(axes: Axes, data: Array) -> None:
    low, high = np.nanquantile(data, (0.03, 0.97), axis=0)
    axes.fill_between(_coordinates(data), low, high, color=GREY, alpha=0.25, lw=0)


def _blend(first: str, second: str, share: float) -> tuple[float, ...]:
    return tuple(
        (1 - share) * a + share * b for a, b in zip(to_rgb(first), to_rgb(second), strict=True)
    )


def _datum_name(numbers: "AmortizedNumbers", index: int) -> str:
    rows = getattr(numbers, "index", None)
    row = index if rows is None else int(rows[index])
    if numbers.labels is None:
        return f"#{row}"
    return f"#{row} ({shorten(str(np.asarray(numbers.labels)[index]), 10)})"
