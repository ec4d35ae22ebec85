"""Marginal densities: one panel a parameter, the weighted draws dashed."""

from dataclasses import replace

import numpy as np

import guidebook as gb
from guidebook.reports.figures.densities import densities
from tests.reports.drawn import is_drawn, without_reference


def test_a_panel_for_every_parameter(comparison: gb.Comparison) -> None:
    drawn = densities(comparison)
    is_drawn(drawn)
    titles = [axes.get_title(loc="left") for axes in drawn.axes if axes.get_visible()]
    assert titles[0] == "mu" and len(titles) == 5
    # four approximations, and one of them weighted besides
    assert len(drawn.axes[0].lines) == 5


def test_a_density_integrates_to_one(comparison: gb.Comparison) -> None:
    for line in densities(comparison).axes[0].lines:
        x, height = (np.asarray(v, dtype=float) for v in line.get_data())
        assert 0.97 < np.trapezoid(height, x) < 1.03  # two tails of 0.1 % are cut


def test_without_a_reference_and_without_verdicts(comparison: gb.Comparison) -> None:
    alone = without_reference(comparison)
    is_drawn(densities(alone))
    is_drawn(densities(replace(alone, verdicts={})))
