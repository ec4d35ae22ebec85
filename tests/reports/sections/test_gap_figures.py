"""Gaps, KL, neighbours and two distances: drawn from the numbers, absent where they are."""

from dataclasses import replace

import numpy as np

from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.reports.sections import gap_figures


def test_figures_draw_what_there_is_and_nothing_else(numbers: AmortizedNumbers) -> None:
    for draw in (
        gap_figures.gap_bars, gap_figures.kl_bars, gap_figures.nearest_neighbours,
        gap_figures.two_distances,
    ):  # fmt: skip
        assert draw(numbers) is not None
    bare = replace(numbers, ledger=None, collapse=None, generation=None, warned=None, gradients={})
    for draw in (
        gap_figures.gap_bars, gap_figures.kl_bars, gap_figures.nearest_neighbours,
        gap_figures.two_distances,
    ):  # fmt: skip
        assert draw(bare) is None
    # data that are no images: distances as a histogram
    assert gap_figures.nearest_neighbours(replace(numbers, image_shape=None)) is not None


def test_the_bars_are_the_numbers(numbers: AmortizedNumbers) -> None:
    left = gap_figures.kl_bars(numbers).axes[0]
    heights = sorted(bar.get_height() for bar in left.patches)
    np.testing.assert_allclose(heights, np.sort(numbers.collapse.kl))
    gaps = gap_figures.gap_bars(numbers).axes[0]
    widths = [bar.get_width() for bar in gaps.patches]
    terms = numbers.ledger.terms()
    assert widths == [terms["amortisation"].value, terms["approximation"].value]


def test_captions_carry_the_numbers(numbers: AmortizedNumbers) -> None:
    share = f"{numbers.warned.disagree.mean():.0%}"
    assert share in gap_figures.warning_caption(numbers)
    assert f"{numbers.generation.ratio:.2f} times" in gap_figures.neighbour_caption(numbers)
