"""Gaps, KL, neighbours and two distances: drawn from the numbers, absent where they are."""

from dataclasses import replace

import numpy as np
import pytest

from guidebook.diagnostics.amortized.numbers import AmortizedNumbers, LeftOut
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


@pytest.mark.parametrize("dimensions", [1, 3])
def test_explanations_left_out_are_drawn_beside_what_q_keeps(
    numbers: AmortizedNumbers, dimensions: int
) -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(2.0, 0.3, (400, dimensions))
    ends = np.concatenate([draws[:30], -draws[:30]])
    ends[:, 1:] = np.abs(ends[:, 1:])  # the branches differ in z[0] alone
    one = LeftOut(5, 0.5, draws, ends, np.full(60, 1 / 60))
    axes = gap_figures.left_out(replace(numbers, left_out=(one, one))).axes
    assert len(axes) == 2 and "50% left out" in axes[0].get_title("left")
    assert str(numbers.index[5]) in axes[0].get_title("left") and axes[0].get_xlabel() == "z[0]"
    assert gap_figures.left_out(replace(numbers, left_out=())) is None


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
