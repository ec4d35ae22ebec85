"""NEEDS A DOCSTRING: guidebook.reports.sections.amortized."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from guidebook.reports.elements.section import Picture, _drawn
from guidebook.reports.sections import gap_figures
from guidebook.reports.sections import row_figures as amortized_figures

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers


def datum_by_datum(numbers: AmortizedNumbers) -> list[Picture]:
    """Reconstructions, samples, latents, traversals and the worst data of one amortised fit."""
    drawings: list[tuple[str, str, Callable[[AmortizedNumbers], Figure | None]]] = [
        (
            "Can each datum be trusted?",
            "Left: k-hat of each datum’s own posterior, "
            "the number that a joint k-hat over all data hides. "
            "Right: what the approximation loses, per datum.",
            amortized_figures.khat_per_datum,
        ),
        (
            "Where the bound leaks",
            "The approximation gap asks for a richer family, the amortisation gap for a larger or "
            "better trained encoder.",
            gap_figures.gap_bars,
        ),
        (
            "Is the latent used?",
            "Dashed: the threshold of active units, 0.01 (Burda et al. 2016); grey: dimensions below it, "
            "whose posterior is the prior’s for every datum.",
            gap_figures.kl_bars,
        ),
        ("Reconstructions", "Evenly spaced over the data set.", amortized_figures.reconstructions),
        (
            "The worst data",
            "The largest k-hat first: look here for mislabelled or unusual data.",
            amortized_figures.worst_data,
        ),
        (
            "Samples from the prior",
            "Decoded draws of z from its prior; from a normal with the codes’ moments where that is flat.",
            amortized_figures.prior_samples,
        ),
        (
            "Samples and their nearest training rows",
            gap_figures.neighbour_caption(numbers),
            gap_figures.nearest_neighbours,
        ),
        (
            "Latent space",
            "The two coordinates the data use most; on the right, "
            "a grey bar as long as the prior’s "
            "variance is a coordinate that is not used.",
            amortized_figures.latent,
        ),
        (
            "Traversals",
            "One coordinate moved, the others at zero; the most used first.",
            amortized_figures.traversals,
        ),
        (
            "Mind squared error",
            gap_figures.warning_caption(numbers),
            gap_figures.two_distances,
        ),
    ]
    return [p for title, caption, draw in drawings for p in _drawn(title, caption, draw(numbers))]
