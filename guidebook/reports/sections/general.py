"""What every comparison shows: intervals, densities, objectives, k-hat, the predictive check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidebook.reports.elements.section import Picture, Section, drawn
from guidebook.reports.elements.summaries import MOST_PARAMETERS, left_out, yardstick
from guidebook.reports.figures.curves import khat_per_site, objective
from guidebook.reports.figures.densities import densities
from guidebook.reports.figures.forest import forest
from guidebook.reports.figures.predictive import predictive_check

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared


def overview(comparison: Compared) -> Section | None:
    """The intervals alone, without a title: for a notebook."""
    pictures = _intervals(comparison)
    return Section("", pictures=pictures) if pictures else None


def general(comparison: Compared) -> Section | None:
    """The section of every comparison; None where there is nothing to draw."""
    pictures = [
        *_intervals(comparison),
        *drawn(
            "Marginal densities",
            "Kernel density estimates in each parameter’s own units. Grey area: the reference; "
            "dashed: importance-weighted draws. A density more than three times as high as the "
            "median peak runs off its panel." + _rest(comparison),
            densities(comparison),
        ),
        *drawn(
            "Convergence of the objective",
            "Running medians of the ELBO in nats. Left: distance below the best final value, both "
            "axes logarithmic; the lowest level drawn is the noise of the best fit. Right: the "
            "second half of each run; a level line is a converged fit. A fit far below the others "
            "leaves the panel.",
            objective(comparison),
        ),
        *drawn(
            "Pareto k-hat, jointly and by site",
            "k-hat of the importance weights p(x, z) / q(z), and of each site’s second moments "
            "under them, with two standard errors. Left of the dashed line weighted estimates are "
            "reliable; in the shaded part they are not. A low k-hat alone does not show that the "
            "unweighted draws are accurate.",
            khat_per_site(comparison),
        ),
        *drawn(
            "Posterior predictive check",
            "Data replicated from each approximation’s posterior predictive distribution, beside "
            "the observed data.",
            predictive_check(comparison),
        ),
    ]
    return Section("The approximations", pictures=pictures) if pictures else None


def _intervals(comparison: Compared) -> list[Picture]:
    measure = yardstick(comparison)
    bands = f"Grey bands: {measure.name}. " if measure.name is not None else ""
    return drawn(
        "Posterior intervals against the reference"
        if comparison.reference is not None
        else "Posterior intervals",
        f"{bands}Dot: posterior mean; thick line: central 50 % interval; thin line: central 94 % "
        "interval. Hollow: importance-weighted draws, where the verdict is reweight. Under each "
        "name: mean ± sd in the parameter’s own units." + _rest(comparison),
        forest(comparison),
    )


def _rest(comparison: Compared) -> str:
    """How many parameters are not drawn."""
    hidden = left_out(comparison)
    if not hidden:
        return ""
    return (
        f" Shown are the {MOST_PARAMETERS} parameters on which the approximations differ most; "
        f"the other {hidden:,} differ less."
    )
