"""Which figures a page shows, in what order, and what is said under each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidebook.reports.elements.section import Picture, _drawn
from guidebook.reports.elements.summaries import MOST_PARAMETERS, left_out, yardstick
from guidebook.reports.figures.curves import khat_per_site, objective
from guidebook.reports.figures.densities import densities
from guidebook.reports.figures.forest import forest
from guidebook.reports.figures.graph import ModelGraph
from guidebook.reports.figures.graph_drawing import draw_graph
from guidebook.reports.figures.predictive import predictive_check

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared


def general(comparison: Compared, whole: bool) -> list[Picture]:
    """The figures of every comparison; a notebook gets the first alone."""
    hidden = left_out(comparison)
    rest = (
        f" Shown are the {MOST_PARAMETERS} parameters that the approximations disagree on most;"
        f" {hidden:,} more agree better."
        if hidden
        else ""
    )
    measure = yardstick(comparison)
    against = f"Grey bands: {measure.name}. " if measure.name is not None else ""
    pictures = _drawn(
        "Every approximation against the reference"
        if comparison.reference is not None
        else "The approximations side by side",
        f"{against}Dot: mean; thick line: middle 50 %; thin line: middle 94 %. Hollow: "
        "importance-weighted draws, for approximations that are not to be used raw. "
        "Under each name: mean ± sd, in its own units." + rest,
        forest(comparison),
    )
    if not whole:
        return pictures
    pictures += _drawn(
        "Marginal densities",
        "In the parameters’ own units. Grey area: the reference; "
        "dashed: importance-weighted draws. "
        "A density much higher than the others runs off its panel." + rest,
        densities(comparison),
    )
    pictures += _drawn(
        "Did the fits converge?",
        "Running medians of the ELBO, in nats. Left: distance from the best value, "
        "both axes logarithmic; level at the top: within the noise of the best fit. "
        "Right: a level line is a converged fit; a fit far below the others leaves the panel.",
        objective(comparison),
    )
    pictures += _drawn(
        "Which sites are hard: k-hat",
        "Pareto k-hat of the importance weights jointly, and of each site’s second moments under "
        "them. Left of the line the weighted draws "
        "can be used, in the shaded part they cannot. A low k-hat alone does not make a good fit.",
        khat_per_site(comparison),
    )
    return pictures + _drawn(
        "Predictive check",
        "What each approximation would have observed, beside what was observed.",
        predictive_check(comparison),
    )


def model_drawing(graph: ModelGraph) -> list[Picture]:
    """The model's graph; nothing where it has too many sites for a drawing."""
    caption = "Grey: observed; dashed: computed; boxes repeat what is in them."
    return _drawn("", caption, draw_graph(graph))
