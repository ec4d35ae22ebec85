"""ELBO, evidence and weighted moments with their errors, and how heavy tails widen them."""

import math

import numpy as np
import pytest

from guidebook.diagnostics.numerics import psis as psis_module
from guidebook.diagnostics.numerics.psis import tail_inflation, weighted_moments
from guidebook.diagnostics.witnesses.importance import evidence
from tests.diagnostics.numerics.psis.ratios import HIGH, LOW, log_ratio_of_normals


@pytest.mark.parametrize("size", [100, 400])
def test_stated_errors_of_bounds_are_those_of_replications(size: int) -> None:
    """log w ~ N(1, 0.5^2): the sd of both estimates over 200 replications is the stated one."""
    rng = np.random.default_rng(0)
    found = [evidence(rng.normal(1.0, 0.5, size)) for _ in range(200)]
    for name in ("elbo", "log_evidence"):
        spread = np.std([f[name] for f in found], ddof=1)
        stated = math.sqrt(np.mean([f[f"{name}_se"] ** 2 for f in found]))
        assert LOW < spread / stated < HIGH, name
    # means: ELBO 1, log evidence 1 + 0.125 up to a bias of O(1 / S); five standard errors
    for name, value in (("elbo", 1.0), ("log_evidence", 1.125)):
        error = 5 * math.sqrt(np.mean([f[f"{name}_se"] ** 2 for f in found]) / 200)
        assert abs(np.mean([f[name] for f in found]) - value) < error + 1 / size


def test_bounds_of_two_draws_in_closed_form() -> None:
    """w = 1 and 3: means 2 and log sqrt 3, variances (n - 1) 2 and (log 3)^2 / 2."""
    found = evidence(np.log([1.0, 3.0]) + 7)
    assert found["elbo"] == pytest.approx(7 + math.log(3) / 2)
    assert found["elbo_se"] == pytest.approx(math.log(3) / 2)
    assert found["log_evidence"] == pytest.approx(7 + math.log(2))
    assert found["log_evidence_se"] == pytest.approx(math.sqrt(2) / 2 / math.sqrt(2))


@pytest.mark.parametrize(
    ("shape", "factor"), [(-0.3, 1.0), (0.149, 1.0), (0.25, 1.4), (0.4, 2.0), (math.nan, 1.0)]
)
def test_tails_widen_by_four_times_their_shape_beyond_0_15(
    shape: float, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psis_module.array_stats, "pareto_khat", lambda *_, **__: shape)
    values = np.random.default_rng(0).normal(size=(100, 2))
    np.testing.assert_allclose(tail_inflation(values), [factor, factor])
    np.testing.assert_array_equal(tail_inflation(values[:99]), [1.0, 1.0])
    values[:, 0] = 3.0
    np.testing.assert_allclose(tail_inflation(values), [1.0, factor])


def test_weighted_moments_in_closed_form() -> None:
    values = np.array([[0.0, 1.0], [4.0, 1.0]])
    for weights, mean, sd in ((None, 2.0, 2.0), (np.array([0.75, 0.25]), 1.0, math.sqrt(3))):
        found = weighted_moments(values, weights)
        np.testing.assert_allclose(found[0], [mean, 1.0])
        np.testing.assert_allclose(found[1], [sd, 0.0], atol=1e-12)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_heavy_tails_widen_in_any_unit(unit: float) -> None:
    """A Student t of 2 degrees of freedom has the shape 1/2: 1 + 4 (0.5 - 0.15) = 2.4."""
    rng = np.random.default_rng(0)
    values = unit * np.column_stack([rng.normal(size=50_000), rng.standard_t(2, size=50_000)])
    light, heavy = tail_inflation(values)
    assert light == pytest.approx(1, abs=0.2) and heavy == pytest.approx(2.4, abs=0.6)


def test_elbo_and_evidence_of_a_gaussian() -> None:
    """p(x) = exp(5): ELBO = 5 - KL(q || p), log evidence = 5, within five standard errors."""
    _, log_ratio = log_ratio_of_normals(1.3, 50_000)
    found = evidence(log_ratio + 5)
    divergence = 0.5 * (1.3**2 - 1 - 2 * math.log(1.3))
    assert abs(found["elbo"] - (5 - divergence)) < 5 * found["elbo_se"]
    assert abs(found["log_evidence"] - 5) < 5 * found["log_evidence_se"]


def test_tails_widen_errors() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=20_000), rng.standard_t(3, size=20_000)])
    light, heavy = tail_inflation(values)
    assert light == pytest.approx(1, abs=0.3) and heavy > 1.5
