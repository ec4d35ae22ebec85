"""Smoothed weights: equal ones, those without a density, and when they can be used."""

import math

import numpy as np
import pytest

from guidebook.diagnostics.numerics import psis as psis_module
from guidebook.diagnostics.numerics.psis import Importance, khat_limit, psis
from guidebook.diagnostics.witnesses.importance import evidence


def test_weights_are_usable_below_the_limit() -> None:
    weights = np.full(100, 0.01)  # a limit of 1 - 1 / log10 100
    for khat, usable in ((0.4999, True), (0.5, False), (0.5001, False), (-math.inf, True)):
        assert Importance(weights, khat, 0.1, 100.0).usable is usable


@pytest.mark.parametrize(("top", "bound"), [(0.0, 1e-3), (-5.0, 1e-3), (-1e7, 1e-2), (1e7, 1e-2)])
def test_weights_that_differ_by_rounding_are_equal(top: float, bound: float) -> None:
    """Below a thousandth, or 1e-9 of the log density where that is more."""
    for share, equal in ((0.95, True), (1.05, False)):
        log_ratio = top - bound * share * np.linspace(0, 1, 1000)
        found = psis(log_ratio)
        assert found is not None and (found.khat == -math.inf) is equal
        if equal:
            np.testing.assert_array_equal(found.weights, np.full(1000, 1e-3))
            assert found.khat_se == 0.0 and found.ess == 1000.0


def test_at_least_twenty_five_draws_of_positive_density() -> None:
    log_ratio = np.random.default_rng(0).normal(size=200)
    assert psis(log_ratio[:24]) is None
    assert psis(log_ratio[:25]) is not None
    few = np.where(np.arange(30) < 25, log_ratio[:30], -np.inf)
    assert psis(few) is not None
    few[0] = -np.inf
    assert psis(few) is None


@pytest.mark.parametrize("level", [-1e14, -1e5, 500.0])
def test_draws_without_density_have_no_weight(level: float) -> None:
    log_ratio = np.random.default_rng(0).normal(size=1000) + level
    log_ratio[::10] = -np.inf
    found = psis(log_ratio)
    assert found is not None
    assert found.weights[::10].max() == 0.0 and found.weights[1::10].min() > 0


def test_weights_that_differ_by_just_a_thousandth_are_not_equal() -> None:
    found = psis(-1e-3 * np.linspace(0, 1, 1000))
    assert found is not None and found.khat > -math.inf


def test_exactly_the_least_share_of_effective_draws_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 1,024 draws, so that the share times the draws is the effective number to the last digit."""
    log_ratio = np.where(np.arange(1024) < 2, 4.0, 0.0)
    found = psis(log_ratio)
    assert found is not None
    monkeypatch.setattr(psis_module, "LEAST_SHARE", found.ess / 1024)
    assert psis(log_ratio) is not None
    monkeypatch.setattr(psis_module, "LEAST_SHARE", math.nextafter(found.ess / 1024, 1))
    assert psis(log_ratio) is None


def test_one_draw_of_hardly_any_density_leaves_the_others_as_they_are() -> None:
    """A log ratio of -1e20 is a weight of zero, as is one of -inf."""
    log_ratio = np.random.default_rng(0).normal(size=1000)
    log_ratio[3] = -np.inf
    expected = psis(log_ratio)
    log_ratio[3] = -1e20
    found = psis(log_ratio)
    assert found is not None and expected is not None
    assert found.khat == pytest.approx(expected.khat)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-12)


def test_weights_beyond_the_range_of_a_float() -> None:
    """log w = 0 and 2,000: a quarter of the weights carries the evidence."""
    found = evidence(np.array([0.0, 0.0, 0.0, 2000.0]))
    assert found["log_evidence"] == pytest.approx(2000 - math.log(4))
    assert found["log_evidence_se"] == pytest.approx(1.0)
    assert found["elbo"] == pytest.approx(500.0)


def test_equal_weights_are_the_posterior() -> None:
    found = psis(np.full(1000, -31.3))
    assert found is not None and found.khat == -math.inf and found.ess == 1000
    np.testing.assert_allclose(found.weights, 1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_densities_say_nothing(bad: float) -> None:
    log_ratio = np.random.default_rng(0).normal(size=1000)
    log_ratio[3] = bad
    assert psis(log_ratio) is None
    assert psis(np.random.default_rng(0).normal(size=24)) is None


def test_zero_density_has_zero_weight() -> None:
    log_ratio = np.random.default_rng(0).normal(size=1000)
    log_ratio[:10] = -np.inf
    found = psis(log_ratio)
    assert found is not None and found.weights[:10].max() < 1e-300 and np.isfinite(found.khat)


# weights that are nearly equal -------------------------------------------------------------------


def spread(a: float) -> np.ndarray:
    """Half 1 + a, half 1 - a: the share 1 / (1 + a^2) of the draws is effective."""
    return np.repeat([1 + a, 1 - a], 500)


def topped(t: float) -> np.ndarray:
    """One weight is t and 999 are 1: 1000 t / (999 + t) times the mean."""
    return np.append(np.ones(999), t)


@pytest.mark.parametrize(
    ("weights", "even"),
    [
        (spread(0.1003), True),  # 0.99004
        (spread(0.1008), False),  # 0.98994
        (topped(1.99), True),  # 1.988
        (topped(2.01), False),  # 2.008
        (np.append(np.ones(900), np.full(100, 0.1)), False),  # none above twice the mean
    ],
)
@pytest.mark.parametrize("khat", [0.66, None, 1.5])
def test_nearly_equal_weights_need_no_tail(
    weights: np.ndarray, even: bool, khat: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """99 % of the draws effective, none above twice the mean, and k-hat at its limit of 2 / 3 or above."""
    khat = khat_limit(1000) if khat is None else khat
    share = weights / weights.sum()
    monkeypatch.setattr(psis_module.array_stats, "psislw", lambda x, r_eff: (np.log(share), khat))
    found = psis(np.log(weights) - 7.0)
    assert found is not None
    if even and khat > 0.66:
        assert (found.khat, found.khat_se) == (-math.inf, 0.0)
        assert found.ess == pytest.approx(weights.sum() ** 2 / np.square(weights).sum())
    else:
        assert found.khat == khat and found.khat_se > 0
    np.testing.assert_allclose(found.weights, share)
