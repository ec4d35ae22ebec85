"""What a page shows of amortised fits, row by row: a part of the section for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidebook.reports.elements.section import Picture, Section, drawn
from guidebook.reports.elements.style import colours
from guidebook.reports.sections import gap_figures, row_figures
from guidebook.reports.sections.gap_tables import tables

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
    from guidebook.diagnostics.compared import Compared


def amortized(comparison: Compared) -> Section | None:
    """The section of amortised fits; None where there are none."""
    if not comparison.amortized:
        return None
    palette = colours(comparison)
    parts = [
        Section(name, tables=tables(numbers), pictures=_pictures(numbers), colour=palette[name])
        for name, numbers in comparison.amortized.items()
    ]
    return Section("Row by row", parts=parts)


def _pictures(numbers: AmortizedNumbers) -> list[Picture]:
    """The bounds and gaps of one fit, then its rows, then its latents."""
    return [*_bounds(numbers), *_rows(numbers), *_latents(numbers)]


def _bounds(numbers: AmortizedNumbers) -> list[Picture]:
    return [
        *drawn(
            "Pareto k-hat of each row",
            "Left: k-hat of the importance weights of each row’s posterior; a joint k-hat over all "
            "rows grows with their number. Right: importance-weighted bound minus ELBO, what the "
            "approximation loses on a row.",
            row_figures.khat_per_row(numbers),
        ),
        *drawn(
            "One of several explanations",
            "Rows of which the draws of q keep one explanation and leave others out. Chains annealed from "
            "the prior know nothing of q and end in every explanation, in proportion to its mass.",
            gap_figures.left_out(numbers),
        ),
        *drawn(
            "Amortisation and approximation gap",
            "A richer variational family reduces the approximation gap, a larger or better trained "
            "encoder the amortisation gap (Cremer et al. 2018).",
            gap_figures.gap_bars(numbers),
        ),
        *drawn(
            "Use of the latent dimensions",
            "Dashed: the threshold of active units, 0.01 (Burda et al. 2016). Grey: inactive "
            "dimensions, whose posterior is the prior for every row.",
            gap_figures.kl_bars(numbers),
        ),
    ]


def _rows(numbers: AmortizedNumbers) -> list[Picture]:
    order = "reconstruction error" if numbers.point else "k-hat"
    return [
        *drawn(
            "Reconstructions",
            "Rows evenly spaced over the data, and their decoded posterior means.",
            row_figures.reconstructions(numbers),
        ),
        *drawn(
            "The worst rows",
            f"The largest {order} first. Mislabelled or unusual rows are often among them.",
            row_figures.worst_rows(numbers),
        ),
        *drawn(
            "Samples from the prior",
            "Decoded draws of z from its prior; where that is flat, from a normal with the moments "
            "of the codes.",
            row_figures.prior_samples(numbers),
        ),
        *drawn(
            "Samples and their nearest training rows",
            gap_figures.neighbour_caption(numbers),
            gap_figures.nearest_neighbours(numbers),
        ),
        *drawn(
            "Squared error against structural similarity",
            gap_figures.warning_caption(numbers),
            gap_figures.two_distances(numbers),
        ),
    ]


def _latents(numbers: AmortizedNumbers) -> list[Picture]:
    return [
        *drawn(
            "Latent space",
            "Left: posterior means in the two dimensions in which they vary most. Right: variance of "
            "the posterior means between rows, and mean posterior variance within a row; a dimension "
            "whose grey bar reaches the prior variance 1 is not used.",
            row_figures.latent(numbers),
        ),
        *drawn(
            "Latent traversals",
            "One dimension moved from −2.5 to 2.5, the others at zero, and decoded; the dimensions "
            "in which posterior means vary most come first.",
            row_figures.traversals(numbers),
        ),
    ]
