"""The figures of the energy models: what they hold, read back from the axes."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from guidebook.datasets.patterns import bars_and_stripes, letters
from guidebook.models.energy.hopfield import corrupted, hebbian, recall
from guidebook.reports.elements.style import png, rendered
from guidebook.reports.sections import energy_figures


def drawable(figure):
    assert isinstance(figure, Figure)
    assert png(rendered(figure, 50)).startswith(b"\x89PNG")
    return figure


def test_recalled_patterns_counts_the_wrong_units():
    four = letters()["v"]
    cues = corrupted(four, 0.2)
    figure = drawable(energy_figures.recalled_patterns(four, cues, four, (5, 5), list("JLTX")))
    axes = np.array(figure.axes).reshape(3, 4)
    assert [a.get_xlabel() for a in axes[1]] == ["5 wrong"] * 4
    assert [a.get_xlabel() for a in axes[2]] == ["right"] * 4
    assert [a.get_title() for a in axes[0]] == list("JLTX")
    drawn = axes[1, 2].images[0].get_array()
    np.testing.assert_array_equal(drawn, -cues[2].reshape(5, 5))  # +1 is black


def test_energy_along_the_way_shows_the_way_and_the_floor():
    four = letters()["v"]
    found = recall(corrupted(four, 0.2), hebbian(four))
    figure = drawable(energy_figures.energy_along_the_way(found.energies, {"J": -10.0, "L": -10.1}))
    lines = figure.axes[0].lines
    assert len(lines) == 4 + 2
    np.testing.assert_allclose(lines[0].get_ydata()[0], found.energies[0, 0])
    assert [t.get_text() for t in figure.axes[0].texts] == ["L", "J"]


def test_recall_against_load_marks_the_capacity():
    loads = [0.05, 0.138, 0.2]
    figure = drawable(
        energy_figures.recall_against_load(loads, {"100": [1, 0.9, 0.4]}, {"100": [0, 0.004, 0.01]})
    )
    left, right = figure.axes
    assert any(np.allclose(line.get_xdata(), 0.138) for line in left.lines)
    theory = right.lines[0].get_ydata()
    assert theory[1] == pytest.approx(50 * math.erfc(1 / math.sqrt(0.276)))
    assert len(drawable(energy_figures.recall_against_load(loads, {"a": [1, 1, 1]})).axes) == 1


def test_weights_samples_bounds_and_tour():
    weights = torch.linspace(-1, 1, 9 * 5).reshape(9, 5)
    figure = drawable(energy_figures.learned_weights(weights, (3, 3)))
    assert len(figure.axes) == 5 + 1  # and the colour bar
    pictures = bars_and_stripes(3)["v"]
    known = torch.tensor([True] * 13 + [False])
    drawable(energy_figures.data_and_samples(pictures, pictures, (3, 3), known))
    betas, truth = [0.1, 0.5], [1.0, 2.0]
    estimate = ([1.01, 2.0], [0.01, 0.02])
    figure = drawable(
        energy_figures.log_normaliser_bounds(betas, {"mean field": [0.9, 1.5]}, truth, estimate)
    )
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [-0.1, -0.5])
    drawable(energy_figures.tour(torch.rand(4, 2), [0, 1, 2, 3], [0, 2, 1, 3], "4 cities"))
