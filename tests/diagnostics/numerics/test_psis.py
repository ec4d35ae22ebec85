"""Importance weights: closed forms, thresholds at their value, stated errors against replications.

A standard deviation over R = 200 replications has a relative error of 1 / sqrt(2 R) = 5 %, so a ratio to the
stated error outside 0.75 to 1.25 is a false alarm below 1e-6.
"""

import math

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.numerics import psis as psis_module
from guidebook.diagnostics.numerics.psis import (
    Importance,
    khat_limit,
    khat_of_moment,
    psis,
    tail_inflation,
    weighted_moments,
)
from guidebook.diagnostics.witnesses.importance import evidence

LOW, HIGH = 0.75, 1.25


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


def test_weights_are_usable_below_the_limit() -> None:
    weights = np.full(100, 0.01)  # a limit of 1 - 1 / log10 100
    for khat, usable in ((0.4999, True), (0.5, False), (0.5001, False), (-math.inf, True)):
        assert Importance(weights, khat, 0.1, 100.0).usable is usable


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


def test_weights_beyond_the_range_of_a_float() -> None:
    """log w = 0 and 2,000: a quarter of the weights carries the evidence."""
    found = evidence(np.array([0.0, 0.0, 0.0, 2000.0]))
    assert found["log_evidence"] == pytest.approx(2000 - math.log(4))
    assert found["log_evidence_se"] == pytest.approx(1.0)
    assert found["elbo"] == pytest.approx(500.0)


def test_the_smoothed_tail_is_three_roots_of_the_draws() -> None:
    """M = min(S / 5, 3 sqrt S) = 190 of 4,000: all other weights keep their ratios."""
    log_ratio = np.random.default_rng(0).normal(0, 1.5, 4000)
    found = psis(log_ratio)
    assert found is not None
    off = np.log(found.weights) - log_ratio
    assert 188 <= (np.abs(off - np.median(off)) > 1e-9).sum() <= 190


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_heavy_tails_widen_in_any_unit(unit: float) -> None:
    """A Student t of 2 degrees of freedom has the shape 1/2: 1 + 4 (0.5 - 0.15) = 2.4."""
    rng = np.random.default_rng(0)
    values = unit * np.column_stack([rng.normal(size=50_000), rng.standard_t(2, size=50_000)])
    light, heavy = tail_inflation(values)
    assert light == pytest.approx(1, abs=0.2) and heavy == pytest.approx(2.4, abs=0.6)


def log_ratio_of_normals(scale: float, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws of q = N(0, scale^2) and log p - log q for p = N(0, 1)."""
    z = np.random.default_rng(seed).normal(0, scale, size)
    return z, stats.norm.logpdf(z) - stats.norm.logpdf(z, scale=scale)


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


def test_limit() -> None:
    assert khat_limit(4000) == pytest.approx(0.7)
    assert khat_limit(1000) == pytest.approx(1 - 1 / 3)


def test_elbo_and_evidence_of_a_gaussian() -> None:
    """p(x) = exp(5): ELBO = 5 - KL(q || p), log evidence = 5, within five standard errors."""
    _, log_ratio = log_ratio_of_normals(1.3, 50_000)
    found = evidence(log_ratio + 5)
    divergence = 0.5 * (1.3**2 - 1 - 2 * math.log(1.3))
    assert abs(found["elbo"] - (5 - divergence)) < 5 * found["elbo_se"]
    assert abs(found["log_evidence"] - 5) < 5 * found["log_evidence_se"]


def test_second_moments_need_lighter_weights_than_first() -> None:
    z, log_ratio = log_ratio_of_normals(0.8, 20_000)
    joint = psis(log_ratio)
    assert joint is not None
    assert khat_of_moment(log_ratio, z) > joint.khat - joint.khat_se


def test_tails_widen_errors() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=20_000), rng.standard_t(3, size=20_000)])
    light, heavy = tail_inflation(values)
    assert light == pytest.approx(1, abs=0.3) and heavy > 1.5


# weights that are nearly equal ---------------------------------------------------------------------


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


@pytest.mark.parametrize("side", [-1, 1])
def test_within_its_error_of_the_limit_khat_is_undecided(side: int) -> None:
    weights = np.full(1000, 1e-3)
    off = abs(khat_limit(1000) + side * 0.25 - khat_limit(1000))
    for error, undecided in ((off * 1.001, True), (off, False), (off * 0.999, False)):
        one = Importance(weights, khat_limit(1000) + side * 0.25, error, 500.0)
        assert one.undecided is undecided
