"""What a page shows of a Gaussian mixture: clusters, responsibilities, the objective by sweeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guidebook.diagnostics.model_kinds.mixtures import MixtureNumbers
from guidebook.reports.elements.section import Section, drawn
from guidebook.reports.figures.mixture_ascent import ascent
from guidebook.reports.figures.mixture_clusters import clusters
from guidebook.reports.figures.mixture_rows import responsibilities

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared


def mixture(comparison: Compared) -> Section | None:
    """The section of a Gaussian mixture; None for other models."""
    numbers = comparison.mixture
    if numbers is None:
        return None
    some = (
        f" {len(numbers.x):,} of {numbers.rows:,} rows are shown."
        if len(numbers.x) < numbers.rows
        else ""
    )
    pictures = [
        *drawn(
            "Clusters",
            "Rows are coloured by their responsibilities. + and number: posterior mean of a "
            "component’s location; solid and dashed: one and two standard deviations of the "
            "component; small dots: posterior draws of the location, a single point for a point "
            "estimate. Faint: a component whose responsibilities sum to less than half a row."
            + some,
            clusters(comparison, numbers),
        ),
        *drawn(
            "Responsibilities",
            "The probability that a row belongs to a component, averaged over the draws of the "
            "approximation; the rows have the same order in every panel.",
            responsibilities(comparison, numbers),
        ),
        *drawn(
            "The objective against passes over the data",
            "In nats, before components are put in order: an approximation concentrated on one "
            f"labelling stays about log {numbers.K}! below log p(x). The ELBO of cavi never "
            "falls; natural_svi and svi are running medians of noisy estimates. em maximises "
            "log p(x, θ) at a point, which cannot be compared with an ELBO. Samplers have no "
            "objective.",
            ascent(comparison, numbers),
        ),
    ]
    return Section("The mixture", labelling(numbers), pictures=pictures)


def labelling(numbers: MixtureNumbers) -> str:
    """What label switching means here, in words."""
    if numbers.K == 1:
        return "One component: there are no labels to exchange."
    copies = math.factorial(numbers.K)
    words = (
        f"The {numbers.K} components are exchangeable: the posterior is symmetric under their "
        f"{numbers.K}! = {copies:,} permutations and has as many copies of every mode, one for each "
        "labelling. The draws of every approximation are relabelled to one order, that of the first "
        "coordinate of the means; figures, table and verdicts refer to the posterior in that order, "
        f"whose density is {numbers.K}! times as high. An approximation may therefore "
        "concentrate on one copy or visit several."
    )
    moved = [
        f"{100 * c.moved:.0f} % of the draws of {name} were relabelled"
        for name, c in numbers.clusters.items()
        if c.moved is not None
    ]
    return f"{words} {'; '.join(moved)}." if moved else words
