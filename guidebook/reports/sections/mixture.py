"""The figures of a Gaussian mixture: clusters, responsibilities, and every engine's way up.

All is computed from the draws of each approximation, so that engines that keep no responsibilities
(gibbs, svi, exact) are shown beside those that do: with globals theta_s in the labelling that the
model names,

    r_ik = 1/S sum_s p(z_i = k | x_i, theta_s)

Each figure is a `matplotlib.figure.Figure`, or None where there is nothing to draw.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from guidebook.diagnostics.model_kinds.mixtures import Clusters, MixtureNumbers
from guidebook.reports.elements.section import Picture
from guidebook.reports.elements.style import (
    GREY,
    INK,
    WIDTH,
    colours,
    figure,
    shorten,
    styled,
)
from guidebook.reports.elements.summaries import Array
from guidebook.reports.sections.mixture_ascent import ascent

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared

MOST_ROWS = 300


ACROSS = 4


#: Of the components, not of the approximations: "muted" of Paul Tol (2021), Colour Schemes.
TONES = ("#CC6677", "#332288", "#117733", "#DDAA33", "#88CCEE", "#AA4499", "#44AA99", "#999933",
         "#882255", "#661100", "#6699CC", "#888888")  # fmt: skip


def pictures(comparison: Compared, numbers: MixtureNumbers) -> list[Picture]:
    """The figures of the page's section on the mixture, with how to read them."""
    some = f" Shown are {len(numbers.x):,} of {numbers.rows:,} rows." if (
        len(numbers.x) < numbers.rows) else ""  # fmt: skip
    drawings = [
        (
            "Clusters",
            "Each row in the colours of the components it may belong to, by its responsibilities. "
            "+ and number: the mean of a component’s location; solid and dashed: 1 and 2 standard "
            "deviations of the component; small dots: draws of the location, which are one point "
            "where the approximation is one. Faint: a component with less than half a row." + some,
            clusters(comparison, numbers),
        ),
        (
            "Responsibilities",
            "The probability that a row belongs to a component, averaged over the draws of the "
            "approximation; rows in the same order everywhere.",
            responsibilities(comparison, numbers),
        ),
        (
            "Up the objective, sweep by sweep",
            "In nats, before labels are put in order: a guide that sits in one of the labellings "
            f"can come no nearer to log p(x) than about log {numbers.K}!. cavi never falls; "
            "natural_svi and svi are running medians of noisy estimates. em climbs another "
            "function, the log density of one point, so that its level says nothing beside an ELBO. "
            "Samplers have no objective.",
            ascent(comparison, numbers),
        ),
    ]
    return [Picture(title, words, drawn) for title, words, drawn in drawings if drawn is not None]


def labelling(numbers: MixtureNumbers) -> str:
    """What label switching means here, in words."""
    if numbers.K == 1:
        return "One component: no labels that could change places."
    copies = math.factorial(numbers.K)
    words = (
        f"The {numbers.K} components can change places and the density stays the same: the "
        f"posterior has {numbers.K}! = {copies:,} copies of every mode, one for each labelling. "
        "Draws of every approximation are put into one labelling, by the first coordinate of the "
        "means; figures, table and verdicts are about the posterior in that labelling, whose "
        f"density is {numbers.K}! times as high. An approximation that sits in one copy loses "
        "nothing by it, and one that visits several is not blamed for it."
    )
    moved = [
        f"{100 * c.moved:.0f} % of the draws of {name} were relabelled"
        for name, c in numbers.clusters.items()
        if c.moved is not None
    ]
    return f"{words} {'; '.join(moved)}." if moved else words


# clusters ----------------------------------------------------------------------------------------


@styled
def clusters(comparison: Compared, numbers: MixtureNumbers) -> Figure | None:
    """The data coloured by responsibility, a panel for each approximation, with its components.

    Two columns as they are; more on their two principal axes; one as densities over the data.
    """
    D = numbers.x.shape[1]
    drawn, grid = _panels(len(numbers.clusters), 2.55)
    centre, axes_of_plane, words = plane(numbers.x)
    palette = colours(comparison)
    tones = component_tones(numbers.K)
    for i, (name, one) in enumerate(numbers.clusters.items()):
        axes = grid[i]
        paint = np.clip(one.share @ tones, 0, 1)
        if D == 1:
            _densities(axes, numbers.x[:, 0], one, paint, tones)
        else:
            _plane(axes, numbers.x, one, paint, tones, centre, axes_of_plane)
        axes.set_title(shorten(name, 22), color=palette[name])
        axes.set_xlabel(words[0] if i + ACROSS >= len(numbers.clusters) else "")
        axes.set_ylabel(words[1] if i % ACROSS == 0 else "")
    return drawn


def plane(x: Array) -> tuple[Array, Array, tuple[str, str]]:
    """Centre (D,), two axes (D, 2) and their names: the columns of two, else principal axes."""
    D = x.shape[1]
    if D == 1:
        return np.zeros(1), np.ones((1, 1)), ("x", "density")
    if D == 2:
        return np.zeros(2), np.eye(2), ("x[0]", "x[1]")
    centre = x.mean(0)
    _, lengths, axes = np.linalg.svd(x - centre, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, np.abs(axes[:2]).argmax(1)].diagonal())[:, None]
    share = 100 * lengths[:2] ** 2 / (lengths**2).sum()
    first, second = (f"principal axis {i + 1} ({s:.0f} % of variance)" for i, s in enumerate(share))
    return centre, axes.T, (first, second)


def component_tones(K: int) -> Array:
    """A colour of each component, (K, 3)."""
    return np.array([to_rgb(TONES[k % len(TONES)]) for k in range(K)])


def _plane(
    axes: Axes, x: Array, one: Clusters, paint: Array, tones: Array, centre: Array, basis: Array
) -> None:
    flat = (x - centre) @ basis
    size = 26 if len(flat) < 60 else 12 if len(flat) < 500 else 4
    for k, tone in enumerate(tones):
        draws = (one.means[:, k] - centre) @ basis
        axes.scatter(draws[:, 0], draws[:, 1], s=3, color=tone, alpha=0.25, lw=0, zorder=1)
    axes.scatter(flat[:, 0], flat[:, 1], s=size, c=paint, lw=0.3, edgecolors="white", zorder=3)
    for k, tone in enumerate(tones):
        at = (one.loc[k] - centre) @ basis
        spread = basis.T @ one.covariance[k] @ basis
        # A component that no row belongs to is drawn fainter than one that has rows.
        strong = 1.0 if one.share[:, k].sum() >= 0.5 else 0.35
        for deviations in (1.0, 2.0):
            axes.add_patch(ellipse(at, spread, deviations, tone, strong))
        axes.plot(*at, marker="+", ms=9, mew=2.0, color=tone, zorder=4, alpha=strong)
        top = (at[0], at[1] + math.sqrt(spread[1, 1]))
        axes.annotate(
            str(k + 1), top, xytext=(0, 2), textcoords="offset points", color=tone, fontsize=9,
            fontweight="bold", ha="center", zorder=5, alpha=strong,
        )  # fmt: skip
    low, high = flat.min(0), flat.max(0)
    edge = 0.25 * np.maximum(high - low, 1e-9)
    inside = (one.loc - centre) @ basis
    reach = np.sqrt(np.einsum("dj,kde,ej->kj", basis, one.covariance, basis))
    used = one.share.sum(0) >= 0.5
    if used.any():  # the components that have rows are in the panel, one sd around each
        low = np.minimum(low, (inside - 1.1 * reach)[used].min(0))
        high = np.maximum(high, (inside + 1.1 * reach)[used].max(0))
    axes.set(xlim=(low[0] - edge[0], high[0] + edge[0]), ylim=(low[1] - edge[1], high[1] + edge[1]))


def ellipse(at: Array, covariance: Array, deviations: float, tone: Any, strong: float) -> Ellipse:
    """The points at this many standard deviations from `at` under a covariance (2, 2)."""
    lengths, axes = np.linalg.eigh(covariance)
    width, height = 2 * deviations * np.sqrt(np.maximum(lengths, 0))
    angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))
    return Ellipse(
        (float(at[0]), float(at[1])), width, height, angle=angle, fill=False, edgecolor=tone, lw=1.3,
        ls="-" if deviations == 1 else (0, (4, 3)), alpha=strong, zorder=2,
    )  # fmt: skip


def _densities(axes: Axes, x: Array, one: Clusters, paint: Array, tones: Array) -> None:
    edge = 0.25 * max(float(np.ptp(x)), 1e-9)
    grid = np.linspace(x.min() - edge, x.max() + edge, 300)
    sd = np.sqrt(one.covariance[:, 0, 0])
    away = (grid[:, None] - one.loc[:, 0]) / sd
    curves = one.weights * np.exp(-0.5 * away**2) / (sd * math.sqrt(2 * math.pi))
    for k, tone in enumerate(tones):
        axes.plot(grid, curves[:, k], color=tone, lw=1.3)
    axes.plot(grid, curves.sum(1), color=GREY, lw=1.0, ls="--")
    axes.scatter(x, np.full(len(x), -0.05 * curves.sum(1).max()), s=10, c=paint, marker="|", lw=1.0)


# responsibilities ---------------------------------------------------------------------------------


@styled
def responsibilities(comparison: Compared, numbers: MixtureNumbers) -> Figure | None:
    """Rows against components, dark where a row surely belongs; rows in one order in all panels."""
    leader = comparison.reference if comparison.reference in numbers.clusters else None
    order = row_order(numbers.clusters[leader or next(iter(numbers.clusters))].share)
    if len(order) > MOST_ROWS:
        order = order[np.linspace(0, len(order) - 1, MOST_ROWS).round().astype(int)]
    drawn, grid = _panels(len(numbers.clusters), 1.6 if len(order) <= 12 else 2.6)
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


def _panels(count: int, height: float) -> tuple[Figure, Any]:
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
