"""Prior and likelihood sensitivity on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from guidebook.diagnostics.measures.sensitivity import SENSITIVE, Sensitivity
from guidebook.reports.elements.numbers import listing
from guidebook.reports.elements.section import Section, drawn
from guidebook.reports.elements.style import colours, figure, gridlines, shorten, styled
from guidebook.reports.elements.summaries import MOST_PARAMETERS

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

NAMED = 6
"""Parameters named in a sentence; of more, their number."""
LEAST = 1e-3


def sensitivity(comparison: Compared) -> Section | None:
    """The section of the page; None where no usable approximation's prior and likelihood are known."""
    found = comparison.sensitivity
    if not found:
        return None
    words = (
        "How far each marginal posterior moves where prior or likelihood is raised to a power slightly "
        "away from 1 (cumulative Jensen–Shannon distance by log2 of the power, Kallioinen et al. 2024). "
        f"From {SENSITIVE} on a parameter is called sensitive. A likelihood that moves the posterior is as "
        "it should be; a prior that does is strong, or contradicts the data. "
    )
    words += " ".join(sentence for name, one in found.items() for sentence in sentences(name, one))
    hidden = max(len(one.names) for one in found.values()) - MOST_PARAMETERS
    rest = f" Shown are the {MOST_PARAMETERS} most sensitive to the prior." if hidden > 0 else ""
    pictures = drawn(
        "Sensitivity of each parameter",
        f"Filled: to the prior; hollow: to the likelihood. Dashed line: {SENSITIVE}.{rest}",
        powers(comparison, found),
    )
    return Section("Prior and likelihood sensitivity", words, pictures=pictures)


def sentences(name: str, found: Sensitivity) -> list[str]:
    """What the sensitivities of one approximation say."""
    conflict, strong = _named(found, found.conflict), _named(found, found.by_prior)
    said = []
    if conflict:
        said.append(
            f"{name}: {conflict} depend on both prior and likelihood: check whether the prior contradicts "
            "the data."
        )
    if strong:
        said.append(
            f"{name}: {strong} depend on the prior and hardly on the likelihood: the prior is strong, or "
            "the data say little about them."
        )
    return said or [f"{name}: no parameter is sensitive to the prior."]


def _named(found: Sensitivity, chosen: np.ndarray) -> str:
    names = [found.names[i] for i in np.flatnonzero(chosen)]
    if len(names) > NAMED:
        return f"{listing(names[:NAMED])} and {len(names) - NAMED} more"
    return listing(names) if names else ""


@styled
def powers(comparison: Compared, found: dict[str, Sensitivity]) -> Figure:
    """A row a parameter: its sensitivities by every approximation."""
    palette = colours(comparison)
    highest: dict[str, float] = {}
    for one in found.values():
        for label, value in zip(one.names, one.prior, strict=True):
            highest[label] = max(highest.get(label, 0.0), float(value))
    order = {label: i for i, label in enumerate(highest)}
    kept = sorted(highest, key=lambda label: -highest[label])[:MOST_PARAMETERS]
    shown = sorted(kept, key=lambda label: order[label])
    step = len(found) + 1.0
    made = figure(0.15 * step * len(shown) + 1.4)
    axes = made.subplots()
    for i, (name, one) in enumerate(found.items()):
        places = {label: k for k, label in enumerate(one.names)}
        rows = [(s * step + i, places[label]) for s, label in enumerate(shown) if label in places]
        y, index = (np.array(part) for part in zip(*rows, strict=True))
        for values, face in ((one.prior, palette[name]), (one.likelihood, "white")):
            axes.plot(
                np.maximum(values[index], LEAST),
                y,
                "o",
                ms=5.5,
                mfc=face,
                mec=palette[name],
                mew=1.3,
            )
    axes.axvline(SENSITIVE, color="black", lw=1.0, ls="--", zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(left=LEAST * 0.8)
    axes.set_ylim(len(shown) * step - 0.5, -1.0)
    axes.set_yticks([s * step + (len(found) - 1) / 2 for s in range(len(shown))])
    axes.set_yticklabels([shorten(label, 34) for label in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("sensitivity to a power of the prior (filled) and of the likelihood (hollow)")
    gridlines(axes)
    handles = [Line2D([], [], color=palette[n], marker="o", ls="", label=shorten(n)) for n in found]
    made.legend(handles=handles, loc="outside upper left", ncols=min(5, len(handles)))
    return made
