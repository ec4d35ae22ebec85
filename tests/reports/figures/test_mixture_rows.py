"""Responsibilities: rows in one order, painted as they are."""

import numpy as np

from guidebook.reports.figures.mixture_rows import responsibilities, row_order


def test_rows_are_sorted_by_component_and_the_surest_first():
    share = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1], [0.0, 1.0]])
    assert row_order(share).tolist() == [2, 1, 3, 0]


def test_the_shade_is_the_responsibility_in_the_order_of_the_reference(mixture_comparison):
    numbers = mixture_comparison.mixture
    drawn = responsibilities(mixture_comparison, numbers)
    order = row_order(numbers.clusters["exact"].share)
    for axes, one in zip(drawn.axes, numbers.clusters.values(), strict=False):
        np.testing.assert_allclose(axes.images[0].get_array(), one.share[order])
