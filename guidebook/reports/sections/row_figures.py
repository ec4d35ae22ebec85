"""The figures of an amortised approximation q(z | x): reconstructions, latents, k-hat of each row.

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
    figure,
    gridlines,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import KHAT_LIMIT, Array
from guidebook.reports.figures.mosaic import ACROSS, mosaic

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers

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
    some = np.unique(np.linspace(0, n - 1, min(n, ACROSS)).astype(int))
    return _beside(numbers, some, [_row_name(numbers, int(i)) for i in some])


@styled
def worst_rows(numbers: "AmortizedNumbers") -> Figure | None:
    """The rows whose approximate posterior is worst, their k-hat, and their reconstructions."""
    some = np.asarray(numbers.worst, dtype=int)[:ACROSS]
    if some.size == 0:
        return None
    khat = np.asarray(numbers.khat, dtype=float)
    khats = [f"\nk {khat[i]:.2f}" if np.isfinite(khat[i]) else "" for i in some]
    names = [_row_name(numbers, int(i)) + k for i, k in zip(some, khats, strict=True)]
    return _beside(numbers, some, names)


@styled
def prior_samples(numbers: "AmortizedNumbers") -> Figure | None:
    """What the model makes of z drawn from its prior, whatever the reconstructions look like."""
    samples = np.asarray(numbers.prior_samples, dtype=float)[: 2 * ACROSS]
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
    rows = [samples[i : i + ACROSS] for i in range(0, len(samples), ACROSS)]
    return mosaic(numbers, rows, [""] * len(rows))


@styled
def traversals(numbers: "AmortizedNumbers") -> Figure | None:
    """One latent coordinate moved at a time, a row each; the coordinates most used come first."""
    walks = np.asarray(numbers.traversals, dtype=float)[:_MOST_TRAVERSED]
    if walks.size == 0:
        return None
    order = most_used(numbers)[: len(walks)]  # in which the walks are
    names = [f"z[{d}]" for d in order]
    if numbers.image_shape is not None:
        return mosaic(numbers, list(walks), names)
    columns = min(4, len(order))
    lines = -(-len(order) // columns)
    drawn = figure(1.7 * lines + 0.2)
    grid = drawn.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, name, steps in zip(grid, names, walks, strict=False):
        for i, walk in enumerate(steps):
            tone = _blend(PALETTE[0], PALETTE[1], i / max(1, len(steps) - 1))
            axes.plot(_coordinates(steps), walk, color=tone, lw=1.1)
        axes.set_title(f"{name}: low (blue) to high (red)")
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
    right.barh(at, between[shown], color=_FIT, height=0.7, label="between rows")
    right.barh(
        at, within[shown], left=between[shown], color="#c9ced6", height=0.7, label="within a row"
    )
    right.set_yticks(at, [f"z[{d}]" for d in shown])
    right.invert_yaxis()
    right.axvline(1.0, color=INK, lw=1.0, ls="--")
    right.set(xlabel="variance (prior: 1)", title="variance between and within rows")
    right.legend(loc="lower left", bbox_to_anchor=(0.0, 1.06), ncols=2, borderpad=0.0)
    return drawn


@styled
def khat_per_row(numbers: "AmortizedNumbers") -> Figure | None:
    """Histograms: k-hat of each row's posterior, and the gap from its ELBO to the bound."""
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
        left.set_title(f"{100 * share:.1f} % of {khat.size:,} rows beyond {KHAT_LIMIT}")
    left.set(xlabel=f"k-hat of one row (± {float(numbers.khat_se):.2f})", ylabel="rows")
    if gap.size:
        top = float(np.quantile(gap, 0.995))
        low = min(0.0, float(np.quantile(gap, 0.005)))
        edges = np.linspace(low, max(top, low + 1e-6), 41)
        right.hist(np.clip(gap, edges[0], edges[-1]), bins=edges.tolist(), color=_FIT)
        right.axvline(float(gap.mean()), color=INK, lw=1.0)
        right.set_title(f"mean {gap.mean():.2f} nats a row")
    right.set(xlabel="importance-weighted bound − ELBO (nats)", ylabel="rows")
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
        return mosaic(numbers, rows, ["data", "recon-\nstruction"], names)
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


def _coordinates(rows: Array) -> Array:
    return np.arange(rows.shape[-1])


def _band(axes: Axes, data: Array) -> None:
    low, high = np.nanquantile(data, (0.03, 0.97), axis=0)
    axes.fill_between(_coordinates(data), low, high, color=GREY, alpha=0.25, lw=0)


def _blend(first: str, second: str, share: float) -> tuple[float, ...]:
    return tuple(
        (1 - share) * a + share * b for a, b in zip(to_rgb(first), to_rgb(second), strict=True)
    )


def _row_name(numbers: "AmortizedNumbers", index: int) -> str:
    row = index if numbers.index is None else int(numbers.index[index])
    if numbers.labels is None:
        return f"#{row}"
    return f"#{row} ({shorten(str(np.asarray(numbers.labels)[index]), 10)})"
