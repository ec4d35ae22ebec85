"""The figures of an amortised fit's gaps, of the use of its latents, and of what it generates.

Each takes `AmortizedNumbers` and returns a `matplotlib.figure.Figure`, or None where there is
nothing to draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.inference.gradient.activity import ACTIVE
from guidebook.reports.elements.style import (
    GREY,
    INK,
    PALETTE,
    REFERENCE,
    figure,
    gridlines,
    styled,
)
from guidebook.reports.figures.mosaic import mosaic

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers, LeftOut


_AMORTISATION, _APPROXIMATION = PALETTE[1], PALETTE[0]


_MOST_BARS = 60


@styled
def left_out(numbers: AmortizedNumbers) -> Figure | None:
    """Draws of q beside the ends of chains from the prior, of rows with an explanation left out.

    In the two latent coordinates in which they are farthest apart; of one latent, as histograms.
    """
    if not numbers.left_out:
        return None
    drawn = figure(2.9)
    panels = drawn.subplots(1, len(numbers.left_out), squeeze=False)[0]
    index = np.arange(len(numbers.data)) if numbers.index is None else numbers.index
    for axes, one in zip(panels, numbers.left_out, strict=True):
        _explanations(axes, one)
        axes.set_title(f"row {index[one.row]}: {one.share:.0%} left out")
    handles, words = panels[0].get_legend_handles_labels()
    drawn.legend(handles, words, loc="outside lower center", ncols=2)
    return drawn


def _explanations(axes: Axes, one: LeftOut) -> None:
    apart = np.abs(one.weights @ one.ends - one.draws.mean(0)) / one.draws.std(0)
    first, *others = map(int, np.argsort(-apart)[:2])
    chains = "chains annealed from the prior, by weight"
    if not others:
        both = np.concatenate([one.draws[:, 0], one.ends[:, 0]])
        bins = np.linspace(both.min(), both.max(), 41).tolist()
        axes.hist(
            one.ends[:, 0], bins, weights=one.weights, density=True, color=REFERENCE, alpha=0.45,
            label=chains,
        )  # fmt: skip
        axes.hist(
            one.draws[:, 0], bins, density=True, histtype="step", color=PALETTE[0], lw=1.6,
            label="draws of q",
        )  # fmt: skip
        axes.set(xlabel="z[0]", ylabel="density")
        return
    axes.scatter(
        one.draws[:, first], one.draws[:, others[0]], s=6, color=PALETTE[0], alpha=0.4, lw=0,
        label="draws of q",
    )  # fmt: skip
    axes.scatter(
        one.ends[:, first], one.ends[:, others[0]], s=900 * one.weights, color="none",
        edgecolors=INK, lw=0.8, label=chains,
    )  # fmt: skip
    axes.set(xlabel=f"z[{first}]", ylabel=f"z[{others[0]}]")


@styled
def gap_bars(numbers: AmortizedNumbers) -> Figure | None:
    """The two gaps: on average, and of every row examined, the largest first."""
    ledger = numbers.ledger
    if ledger is None or not ledger.family:
        return None
    terms = ledger.terms()
    drawn = figure(2.9)
    left, right = drawn.subplots(1, 2, width_ratios=(1, 1.9))
    names = ["amortisation gap\n(encoder)", "approximation gap\n(family)"]
    values = [terms["amortisation"], terms["approximation"]]
    left.barh(
        [1, 0], [v.value for v in values], xerr=[v.se for v in values],
        color=[_AMORTISATION, _APPROXIMATION], height=0.6, ecolor=INK, capsize=3,
    )  # fmt: skip
    left.set_yticks([1, 0], names)
    left.axvline(0.0, color=GREY, lw=0.8)
    left.set(xlabel="nats a row", title="on average (± se)")
    gridlines(left)
    order = np.argsort(-(ledger.evidence - ledger.elbo))
    at = np.arange(len(order))
    lost, family = ledger.amortisation[order], np.maximum(ledger.approximation[order], 0.0)
    right.bar(at, family, width=1.0, color=_APPROXIMATION, label="approximation")
    right.bar(
        at, np.maximum(lost, 0.0), bottom=family, width=1.0, color=_AMORTISATION,
        label="amortisation",
    )  # fmt: skip
    right.set(
        xlabel="rows, the largest gap first", ylabel="nats", xlim=(-0.5, len(at) - 0.5),
        title=f"each of {len(at)} rows",
    )  # fmt: skip
    right.legend(loc="upper right")
    gridlines(right, "y")
    return drawn


@styled
def kl_bars(numbers: AmortizedNumbers) -> Figure | None:
    """KL of each latent dimension, and the variance of its posterior means against the threshold."""
    found = numbers.collapse
    if found is None:
        return None
    order = np.argsort(-found.kl, kind="stable")[:_MOST_BARS]
    at = np.arange(len(order))
    tones = [PALETTE[0] if found.active[j] else "#c9ced6" for j in order]
    drawn = figure(2.7)
    left, right = drawn.subplots(1, 2)
    left.bar(at, found.kl[order], color=tones, width=0.75)
    left.set(ylabel="nats", title=f"KL to the prior, {found.kl.sum():.3g} nats in all")
    floor = 1e-4
    right.bar(at, np.maximum(found.variance[order], floor), color=tones, width=0.75)
    right.axhline(ACTIVE, color=INK, lw=1.0, ls="--")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.set_ylim(floor, max(2.0, 1.5 * float(found.variance.max())))
    active = int(found.active.sum())
    right.set(
        ylabel="prior variances",
        title=f"variance of posterior means: {active} of {len(found.kl)} active",
    )
    names = [found.names[j] for j in order]
    for axes in (left, right):
        axes.set_xticks(at, names, rotation=90 if len(at) > 12 else 0, fontsize=7.5)
        gridlines(axes, "y")
    return drawn


@styled
def nearest_neighbours(numbers: AmortizedNumbers) -> Figure | None:
    """Samples above the training rows nearest to them, and their distances against fresh rows'."""
    made = numbers.generation
    if made is None or len(made.samples) == 0:
        return None
    if numbers.image_shape is not None:
        rows = [made.samples[:12], made.neighbours[:12]]
        above = [f"{d:.2g}" for d in made.sample_distance[:12]]
        return mosaic(numbers, rows, ["sample", "nearest\nin training"], above)
    drawn = figure(2.4)
    axes = drawn.subplots()
    top = float(max(made.sample_distance.max(), np.quantile(made.fresh_distance, 0.99)))
    bins = np.linspace(0, top, 31).tolist()
    fresh = "held-out rows" if made.held_out else "training rows, to each other"
    axes.hist(made.fresh_distance, bins=bins, density=True, color="#c9ced6", label=fresh)
    axes.hist(
        made.sample_distance, bins=bins, density=True, histtype="step", color=PALETTE[0], lw=1.6,
        label="samples",
    )  # fmt: skip
    axes.set(xlabel="distance to the nearest training row", ylabel="density")
    axes.legend()
    return drawn


@styled
def two_distances(numbers: AmortizedNumbers) -> Figure | None:
    """Images shifted, with a piece missing, and brighter: squared error and SSIM above each."""
    found = numbers.warned
    if found is None or len(found.images) == 0:
        return None
    apart = np.abs(found.squared["altered"] / np.maximum(found.squared["shifted"], 1e-12) - 1)
    pick = np.argsort(-(found.disagree * (1 + apart)), kind="stable")
    columns, above = [], []
    for i in pick[:3]:
        columns.append(found.images[i])
        above.append("data")
        for name, images in found.changed.items():
            columns.append(images[i])
            above.append(
                f"{name}\nerror {found.squared[name][i]:.1f}\nSSIM {found.similarity[name][i]:.2f}"
            )
    return mosaic(numbers, [np.stack(columns).reshape(len(columns), -1)], [""], above)


def warning_caption(numbers: AmortizedNumbers) -> str:
    """What the strip of `two_distances` says, with its numbers."""
    found = numbers.warned
    if found is None:
        return ""
    error = {k: float(v.mean()) for k, v in found.squared.items()}
    alike = {k: float(v.mean()) for k, v in found.similarity.items()}
    return (
        "Each image shifted by half a pixel, with a patch replaced by background, and brightened by "
        "as much squared error as the shift. Squared error and structural similarity (SSIM) rank "
        f"shifted and altered differently for {found.disagree.mean():.0%} of {len(found.images)} "
        f"images (mean squared error {error['shifted']:.2g} and {error['altered']:.2g}; SSIM "
        f"{alike['shifted']:.2f} and {alike['altered']:.2f}). At equal squared error, the "
        f"brightened image has SSIM {alike['brighter']:.2f}; 1 means equal images."
    )


def neighbour_caption(numbers: AmortizedNumbers) -> str:
    """What the strip of `nearest_neighbours` says, with its numbers."""
    made = numbers.generation
    words = "" if made is None else f"Decoded draws from the prior. {made.sentence()}"
    return words.replace("+-", "±").replace(" -", " −")
