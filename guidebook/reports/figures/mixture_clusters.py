"""The clusters of a mixture: the rows in their components' colours, the components as ellipses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from guidebook.diagnostics.model_kinds.mixtures import Clusters, MixtureNumbers
from guidebook.reports.elements.panels import ACROSS, panels
from guidebook.reports.elements.style import GREY, colours, shorten, styled
from guidebook.reports.elements.summaries import Array

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

#: Of the components, not of the approximations: "muted" of Paul Tol (2021), Colour Schemes.
TONES = ("#CC6677", "#332288", "#117733", "#DDAA33", "#88CCEE", "#AA4499", "#44AA99", "#999933",
         "#882255", "#661100", "#6699CC", "#888888")  # fmt: skip


@styled
def clusters(comparison: Compared, numbers: MixtureNumbers) -> Figure | None:
    """The data coloured by responsibility, a panel for each approximation, with its components.

    Two columns as they are; more on their two principal axes; one as densities over the data.
    """
    D = numbers.x.shape[1]
    drawn, grid = panels(len(numbers.clusters), 2.55)
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
