"""Moments, quantiles, the yardstick, and which parameters disagree."""

from dataclasses import replace

import numpy as np
import pytest
from arviz_base import from_dict

import guidebook as gb
from guidebook.reports.elements.summaries import (
    khat_limit_of,
    labels,
    largest_disagreements,
    left_out,
    moments,
    quantiles,
    shows_weighted,
    variables,
    yardstick,
)
from tests.reports.drawn import only, without_reference


def test_weighted_moments_and_quantiles_are_those_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    draws, times = rng.normal(size=(50, 3)), rng.integers(1, 6, 50)
    weights = times / times.sum()
    repeated = np.repeat(draws, times, axis=0)
    mean, sd = moments(draws, weights)
    np.testing.assert_allclose(mean, repeated.mean(0), rtol=1e-12)
    # The same up to the correction for the effective number of draws.
    correction = 1 / (1 - np.sum(weights**2))
    np.testing.assert_allclose(sd**2, repeated.var(0) * correction, rtol=1e-12)
    expected = np.quantile(repeated[:, 0], (0.03, 0.5, 0.97), method="inverted_cdf")
    np.testing.assert_array_equal(quantiles(draws[:, 0], (0.03, 0.5, 0.97), weights), expected)


def test_unweighted_moments_are_numpys() -> None:
    draws = np.random.default_rng(0).normal(3, 2, (40, 2500)).astype(np.float32)
    mean, sd = moments(draws)
    np.testing.assert_allclose(mean, draws.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(sd, draws.astype(float).std(0, ddof=1), rtol=1e-12)


def test_the_yardstick_is_the_reference_then_what_is_trusted(comparison: gb.Comparison) -> None:
    assert yardstick(comparison).name == "truth"
    assert yardstick(without_reference(comparison)).name == "laplace"
    measure = yardstick(only(comparison, "narrow", "shifted"))
    assert (measure.name, measure.weighted) == ("shifted", True)
    assert yardstick(only(comparison, "narrow")).name is None


def test_the_yardstick_has_the_moments_of_its_draws(comparison: gb.Comparison) -> None:
    measure = yardstick(comparison)
    theta = comparison.posteriors["truth"]["posterior"]["theta"].values[0]
    np.testing.assert_allclose(measure.centre["theta"], theta.mean(0), rtol=1e-6)
    np.testing.assert_allclose(measure.scale["theta"], theta.std(0, ddof=1), rtol=1e-6)


def test_reweighted_draws_are_shown_only_where_they_are_the_ones_to_use(
    comparison: gb.Comparison,
) -> None:
    shown = [name for name in comparison.posteriors if shows_weighted(comparison, name)]
    assert shown == ["shifted"]


def test_the_parameters_in_disagreement_are_shown_and_the_rest_counted(
    comparison: gb.Comparison,
) -> None:
    """Thirty-one parameters on scales that differ by 1e4; the guide is wrong in a and b[17]."""
    rng = np.random.default_rng(3)
    scale = np.geomspace(1e-2, 1e2, 30)
    good = {"a": rng.normal(size=(1, 500)), "b": rng.normal(size=(1, 500, 30)) * scale}
    bad = {"a": 0.01 * rng.normal(size=(1, 500)) + 40, "b": rng.normal(size=(1, 500, 30)) * scale}
    bad["b"][..., 17] += 9 * scale[17]
    trees = {"truth": from_dict({"posterior": good}), "laplace": from_dict({"posterior": bad})}
    many = replace(only(comparison, "laplace", "truth"), posteriors=trees)
    shown, rest = largest_disagreements(many, yardstick(many), 2)
    assert [component.label for component in shown] == ["a", "b[17]"]
    assert rest == 29
    assert left_out(many) == 31 - 12


def test_names_are_those_of_the_coordinates(comparison: gb.Comparison) -> None:
    assert variables(comparison) == ["mu", "theta"]
    theta = comparison.posteriors["truth"]["posterior"]["theta"]
    assert labels(theta)[2:] == ["theta[Phillips Andover]", "theta[St. Paul's]"]


def test_the_limit_of_khat_is_that_of_the_draws_that_were_judged(comparison: gb.Comparison) -> None:
    """min(1 - 1 / log10 S, 0.7) of Vehtari et al. (2024): 1,000 draws came from the file."""
    assert khat_limit_of(comparison, "narrow") == pytest.approx(1 - 1 / 3)
    assert khat_limit_of(comparison, "laplace") == pytest.approx(0.7)
