"""The forest: intervals in standard deviations of the reference, whatever the draws look like."""

from dataclasses import replace

import numpy as np
import pytest
from arviz_base import from_dict

import guidebook as gb
from guidebook.reports.figures.densities import densities
from guidebook.reports.figures.forest import forest
from tests.reports.drawn import is_drawn, only, without_reference


def means_of(drawn) -> np.ndarray:
    lines = [line for axes in drawn.axes for line in axes.lines if line.get_label() == "mean"]
    return np.array([float(np.asarray(line.get_xdata())[0]) for line in lines])


def test_the_means_are_in_reference_standard_deviations(comparison: gb.Comparison) -> None:
    drawn = forest(comparison)
    is_drawn(drawn)
    truth = comparison.posteriors["truth"]["posterior"]["mu"].values.ravel()
    narrow = comparison.posteriors["narrow"]["posterior"]["mu"].values.ravel()
    expected = (narrow.mean() - truth.mean()) / truth.std(ddof=1)
    assert np.abs(means_of(drawn) - expected).min() < 1e-9
    # three approximations and the weighted draws of one, for each of five parameters
    assert len(means_of(drawn)) == 5 * 4


def test_what_lies_outside_is_marked_at_the_edge(comparison: gb.Comparison) -> None:
    rng = np.random.default_rng(3)
    trees = {
        "truth": from_dict({"posterior": {"a": rng.normal(size=(1, 500))}}),
        "laplace": from_dict({"posterior": {"a": 40 + rng.normal(size=(1, 500))}}),
    }
    drawn = forest(replace(only(comparison, "laplace", "truth"), posteriors=trees))
    assert drawn.axes[0].get_xlim() == (-5.0, 5.0)
    assert any(line.get_marker() == ">" for axes in drawn.axes for line in axes.lines)


def test_without_a_reference_and_without_verdicts(comparison: gb.Comparison) -> None:
    alone = without_reference(comparison)
    is_drawn(forest(alone))
    is_drawn(forest(replace(alone, verdicts={})))


@pytest.mark.parametrize("kind", ["constant", "integer", "nan", "heavy", "boolean"])
def test_unusual_draws(comparison: gb.Comparison, kind: str) -> None:
    rng = np.random.default_rng(4)
    draws = {
        "constant": np.full((1, 300), 2.0),
        "integer": rng.poisson(2.0, (1, 300)),
        "nan": np.where(rng.random((1, 300)) < 0.1, np.nan, rng.normal(size=(1, 300))),
        "heavy": rng.standard_cauchy((1, 300)) ** 3,
        "boolean": rng.random((1, 300)) < 0.3,
    }[kind]
    tree = from_dict({"posterior": {"x": draws}})
    other = from_dict({"posterior": {"x": rng.normal(size=(1, 300))}})
    odd = replace(
        only(comparison, "laplace", "shifted", "truth"),
        posteriors={"truth": other, "laplace": tree, "shifted": tree},
        weights={"truth": None, "laplace": None, "shifted": np.full(300, 1 / 300)},
    )
    for draw in (forest, densities):
        is_drawn(draw(odd))
        is_drawn(draw(replace(odd, reference="laplace")))
