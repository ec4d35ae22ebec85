"""Which figures a page shows, in what order, and what is said under each."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from guidebook.reports import amortized_figures, gap_figures
from guidebook.reports.densities import densities
from guidebook.reports.figures import khat_per_site, objective
from guidebook.reports.forest import forest
from guidebook.reports.graph import ModelGraph
from guidebook.reports.graph_drawing import draw_graph
from guidebook.reports.predictive_figures import predictive_check
from guidebook.reports.style import png
from guidebook.reports.summaries import MOST_PARAMETERS, left_out, yardstick

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized import AmortizedNumbers
    from guidebook.reports.comparison import Comparison

#: Dots an inch of the images; fewer, down to the second, where they would exceed the bytes.
_FINE, _COARSE = 150, 60
_MOST_BYTES = 600_000
#: Pixels of the page an inch of a figure is shown at.
_SHOWN = 106


@dataclass(frozen=True)
class Picture:
    """A figure with its title and how to read it."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Image:
    """A picture ready for the page: its bytes as a data address, its width in pixels."""

    title: str
    caption: str
    source: str
    width: int


def general(comparison: "Comparison", whole: bool) -> list[Picture]:
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


def datum_by_datum(numbers: "AmortizedNumbers") -> list[Picture]:
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


def model_drawing(graph: ModelGraph) -> list[Picture]:
    """The model's graph; nothing where it has too many sites for a drawing."""
    caption = "Grey: observed; dashed: computed; boxes repeat what is in them."
    return _drawn("", caption, draw_graph(graph))


def encoded(sections: list[list[Picture]]) -> list[list[Image]]:
    """The pictures as data addresses, all at the finest resolution that keeps the page small."""
    images = [[_image(picture, _FINE) for picture in section] for section in sections]
    size = sum(len(image.source) for section in images for image in section)
    if size <= _MOST_BYTES:
        return images
    # Compressed drawings grow about as their edges do, linearly in the resolution.
    dpi = max(_COARSE, int(_FINE * _MOST_BYTES / size))
    return [[_image(picture, dpi) for picture in section] for section in sections]


def _image(picture: Picture, dpi: int) -> Image:
    source = base64.b64encode(png(picture.figure, dpi)).decode("ascii")
    inches = float(picture.figure.get_size_inches()[0])
    return Image(
        picture.title, picture.caption, f"data:image/png;base64,{source}", round(inches * _SHOWN)
    )


def _drawn(title: str, caption: str, figure: Figure | None) -> list[Picture]:
    """One picture; none where there was nothing to draw."""
    return [] if figure is None else [Picture(title, caption, figure)]
