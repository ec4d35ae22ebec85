"""The predictive check: intervals of few data, distribution functions of many, calibration of bits."""

from dataclasses import replace

import numpy as np
import pytest
from arviz_base import from_dict

import guidebook as gb
from guidebook.reports.figures.predictive import predictive_check
from tests.reports.drawn import is_drawn, only


def test_the_observed_data_stand_beside_their_replicates(comparison: gb.Comparison) -> None:
    drawn = predictive_check(comparison)
    is_drawn(drawn)
    (axes,) = drawn.axes
    assert axes.get_title(loc="left") == "y"
    observed = [line for line in axes.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(observed[0].get_ydata(), [28.0, 8.0, -3.0, 12.0])


@pytest.mark.parametrize("kind", ["many", "binary"])
def test_many_data(comparison: gb.Comparison, kind: str) -> None:
    rng = np.random.default_rng(5)
    p = rng.random(120)
    observed, replicated = {
        "many": (rng.normal(size=120), rng.normal(size=(1, 200, 120))),
        "binary": ((rng.random(120) < p).astype(int), (rng.random((1, 200, 120)) < p).astype(int)),
    }[kind]
    tree = from_dict(
        {
            "posterior": {"mu": rng.normal(size=(1, 200))},
            "posterior_predictive": {"y": replicated},
            "observed_data": {"y": observed},
        }
    )
    is_drawn(predictive_check(replace(only(comparison, "laplace"), posteriors={"laplace": tree})))


def test_no_predictive_draws_is_no_figure(comparison: gb.Comparison) -> None:
    trees = {n: t.drop_nodes("posterior_predictive") for n, t in comparison.posteriors.items()}
    assert predictive_check(replace(comparison, posteriors=trees)) is None
