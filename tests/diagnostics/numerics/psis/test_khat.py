"""k-hat: its limit, its error, and tails that have no shape."""

import math

import numpy as np
import pytest

from guidebook.diagnostics.numerics import psis as psis_module
from guidebook.diagnostics.numerics.psis import (
    Importance,
    khat_limit,
    khat_of_moment,
    psis,
    weighted_moments,
)
from tests.diagnostics.numerics.psis.ratios import log_ratio_of_normals


@pytest.mark.parametrize(
    ("draws", "limit"),
    [(100, 0.5), (1000, 2 / 3), (2000, 1 - 1 / math.log10(2000)), (4000, 0.7), (10**6, 0.7)],
)
def test_the_limit_of_khat(draws: int, limit: float) -> None:
    assert khat_limit(draws) == pytest.approx(limit, rel=1e-12)


def test_the_limit_of_very_few_draws_is_that_of_eleven() -> None:
    assert khat_limit(2) == khat_limit(11) == pytest.approx(1 - 1 / math.log10(11))
    assert khat_limit(12) > khat_limit(11)


def test_khat_within_its_error_of_the_limit_is_undecided() -> None:
    weights = np.full(100, 0.01)  # a limit of 1 - 1 / log10 100
    for khat, undecided in ((0.39, False), (0.41, True), (0.5, True), (0.59, True), (0.61, False)):
        assert Importance(weights, khat, 0.1, 100.0).undecided is undecided
    assert not Importance(weights, -math.inf, 0.0, 100.0).undecided


@pytest.mark.parametrize(("size", "tail"), [(100, 20.0), (4000, 3 * math.sqrt(4000))])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_error_of_khat_is_that_of_maximum_likelihood(
    size: int, tail: float, scale: float
) -> None:
    """(1 + k) / sqrt(M), and 1 / sqrt(M) for bounded weights (scale 2: k < 0)."""
    z = np.random.default_rng(1).normal(0, scale, size)
    found = psis(-0.5 * z**2 * (1 - 1 / scale**2))
    assert found is not None
    assert found.khat_se == pytest.approx((1 + max(found.khat, 0)) / math.sqrt(tail))
    assert (found.khat > 0) is (scale < 1)
    assert found.ess == pytest.approx(1 / np.square(found.weights).sum())
    assert found.weights.sum() == pytest.approx(1) and found.weights.min() > 0


@pytest.mark.parametrize(
    ("gap", "said"), [(4.35, True), (4.38, False), (8.0, False), (20.0, False)]
)
def test_ties_without_a_tail_need_a_tenth_of_the_draws(gap: float, said: bool) -> None:
    """Two of 1,000 draws stand out by e^gap and the others are tied: no tail can be fitted.

    Effective draws are (2 e^gap + 998)^2 / (2 e^(2 gap) + 998): 102, 97.5, 2 and 2.
    """
    found = psis(np.where(np.arange(1000) < 2, gap, 0.0))
    assert (found is not None) is said
    if found is not None:
        expected = (2 * math.exp(gap) + 998) ** 2 / (2 * math.exp(2 * gap) + 998)
        assert found.ess == pytest.approx(expected)


def test_a_tail_of_one_value_has_no_shape_and_bounded_weights() -> None:
    """Half of 1,000 draws weigh 1 and half 1 / e: the largest 94 are one value."""
    found = psis(np.where(np.arange(1000) < 500, 2.0, 1.0))
    assert found is not None and found.khat == -math.inf
    np.testing.assert_allclose(
        found.weights[[0, 999]], np.array([1, math.exp(-1)]) / total_of_halves()
    )
    assert found.ess == pytest.approx(total_of_halves() ** 2 / (500 * (1 + math.exp(-2))))


def total_of_halves() -> float:
    """Of 500 weights of 1 and 500 of 1 / e."""
    return 500 * (1 + math.exp(-1))


@pytest.mark.parametrize("shape", [math.nan, math.inf])
def test_a_tail_without_a_fit_says_nothing(shape: float, monkeypatch: pytest.MonkeyPatch) -> None:
    log_ratio = np.random.default_rng(0).normal(size=1000)
    monkeypatch.setattr(psis_module.array_stats, "psislw", lambda *_, **__: (-log_ratio, shape))
    assert psis(log_ratio) is None


def test_khat_of_a_moment_is_that_of_the_tilted_weights() -> None:
    """w (1 + z^2), z standardised: neither the unit nor the origin of the values matters."""
    rng = np.random.default_rng(2)
    z = rng.normal(0, 0.8, 4000)
    log_ratio = -0.5 * z**2 * (1 - 1 / 0.64)
    tilted = psis(log_ratio + np.log1p(np.square((z - z.mean()) / z.std())))
    assert tilted is not None
    for values in (z, 7 - 1000 * z):
        assert khat_of_moment(log_ratio, values) == pytest.approx(tilted.khat, abs=1e-9)
    assert khat_of_moment(log_ratio, np.ones(4000)) == -math.inf
    assert math.isnan(khat_of_moment(log_ratio[:20], z[:20]))


def test_the_smoothed_tail_is_three_roots_of_the_draws() -> None:
    """M = min(S / 5, 3 sqrt S) = 190 of 4,000: all other weights keep their ratios."""
    log_ratio = np.random.default_rng(0).normal(0, 1.5, 4000)
    found = psis(log_ratio)
    assert found is not None
    off = np.log(found.weights) - log_ratio
    assert 188 <= (np.abs(off - np.median(off)) > 1e-9).sum() <= 190


def test_too_narrow_is_not_an_all_clear() -> None:
    """The sign trap: with the wrong sign k-hat is about -1.75 here; theory says 1 - 0.3^2 = 0.91."""
    _, log_ratio = log_ratio_of_normals(0.3, 20_000)
    found = psis(log_ratio)
    assert found is not None and found.khat > 0.7
    assert abs(found.khat - 0.91) < 4 * found.khat_se


@pytest.mark.parametrize("scale", [1.1, 1.5, 2.0])
def test_too_wide_has_bounded_weights(scale: float) -> None:
    """p / q is bounded, so k <= 0 in theory, and importance sampling gives p's moments."""
    z, log_ratio = log_ratio_of_normals(scale, 20_000)
    found = psis(log_ratio)
    assert found is not None and found.usable
    mean, sd = weighted_moments(z[:, None], found.weights)
    # five standard errors of a self-normalised estimate: false alarm below 1e-6
    assert abs(mean[0]) < 5 / math.sqrt(found.ess)
    assert abs(sd[0] - 1) < 5 / math.sqrt(2 * found.ess)


def test_the_stated_error_of_khat_is_that_of_replications() -> None:
    """sd of k-hat over 60 replications within a factor 1.6 of the stated one (chi-square, 1e-6)."""
    found = [psis(log_ratio_of_normals(0.7, 4000, seed)[1]) for seed in range(60)]
    khats = [f.khat for f in found if f is not None]
    stated = np.mean([f.khat_se for f in found if f is not None])
    assert len(khats) == 60
    assert 1 / 1.6 < np.std(khats, ddof=1) / stated < 1.6


def test_limit() -> None:
    assert khat_limit(4000) == pytest.approx(0.7)
    assert khat_limit(1000) == pytest.approx(1 - 1 / 3)


def test_second_moments_need_lighter_weights_than_first() -> None:
    z, log_ratio = log_ratio_of_normals(0.8, 20_000)
    joint = psis(log_ratio)
    assert joint is not None
    assert khat_of_moment(log_ratio, z) > joint.khat - joint.khat_se


@pytest.mark.parametrize("side", [-1, 1])
def test_within_its_error_of_the_limit_khat_is_undecided(side: int) -> None:
    weights = np.full(1000, 1e-3)
    off = abs(khat_limit(1000) + side * 0.25 - khat_limit(1000))
    for error, undecided in ((off * 1.001, True), (off, False), (off * 0.999, False)):
        one = Importance(weights, khat_limit(1000) + side * 0.25, error, 500.0)
        assert one.undecided is undecided
