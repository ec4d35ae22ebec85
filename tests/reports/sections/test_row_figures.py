"""The figures of rows: images or lines, any number of latents and labels; walks by their dimension."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.reports.sections import row_figures
from tests.reports.drawn import is_drawn

FIGURES: list[Callable[[AmortizedNumbers], Figure | None]] = [
    row_figures.reconstructions, row_figures.worst_rows, row_figures.prior_samples,
    row_figures.traversals, row_figures.latent, row_figures.khat_per_row,
]  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES)
def test_images_and_lines_are_drawn(draw, numbers: AmortizedNumbers) -> None:
    is_drawn(draw(numbers))
    is_drawn(draw(replace(numbers, image_shape=None, labels=None)))


def test_channels_may_come_first(numbers: AmortizedNumbers) -> None:
    is_drawn(row_figures.reconstructions(replace(numbers, image_shape=(1, 8, 8))))


def test_one_latent_coordinate_and_many_labels(numbers: AmortizedNumbers) -> None:
    one = replace(
        numbers, latent_mean=numbers.latent_mean[:, :1], latent_sd=numbers.latent_sd[:, :1],
        traversals=numbers.traversals[:1], labels=np.linspace(0, 1, len(numbers.data)),
    )  # fmt: skip
    for draw in FIGURES:
        is_drawn(draw(one))


def test_images_in_colour(numbers: AmortizedNumbers) -> None:
    names = ("data", "reconstruction", "prior_samples", "traversals")
    thrice = {name: np.repeat(getattr(numbers, name), 3, axis=-1) for name in names}
    coloured = replace(numbers, image_shape=(8, 8, 3), **thrice)
    is_drawn(row_figures.reconstructions(coloured))
    is_drawn(row_figures.traversals(coloured))


def test_walks_stand_beside_the_dimension_that_moves(numbers: AmortizedNumbers) -> None:
    """The first walk is that of the dimension whose posterior means vary most, and is named so."""
    means = numbers.latent_mean * np.array([0.1, 1.0, 10.0]) / numbers.latent_mean.std(0)
    walks = np.stack([np.full((9, 64), shade) for shade in (0.2, 0.5, 0.8)])
    drawn = row_figures.traversals(replace(numbers, latent_mean=means, traversals=walks))
    (axes,) = drawn.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["z[2]", "z[1]", "z[0]"]
    canvas = axes.images[0].get_array()
    assert canvas[0, 0] == 0.2 and canvas[-1, 0] == 0.8


def test_exact_rows_have_no_finite_khat(numbers: AmortizedNumbers) -> None:
    is_drawn(row_figures.khat_per_row(replace(numbers, khat=np.full(len(numbers.khat), -np.inf))))
