"""Mass beyond all draws along random lines: two scales at one mode in closed form, and what draws fill."""

import math

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.numerics.shells import _log_ratio, shells
from tests.diagnostics.numerics.normals import draws, normal


@pytest.mark.parametrize("D", [1, 2, 10, 50])
def test_a_normal_has_no_mass_beyond_its_draws_and_integrates_to_one(D: int) -> None:
    found = shells(normal, draws(D))
    assert found is not None and found.beyond < 1e-3 and -1e-3 < found.log_ratio <= 0
    assert abs(found.log_mass) < 0.15


@pytest.mark.parametrize("D", [1, 2, 10, 50])
@pytest.mark.parametrize(("share", "wide"), [(0.5, 30.0), (0.1, 100.0)])
def test_a_shelf_below_the_peak_is_measured(D: int, share: float, wide: float) -> None:
    """(1 - a) N(0, 1) + a N(0, s^2), draws of the peak: E r^2 / D is 1 - a + a s^2."""

    def both(u: np.ndarray) -> np.ndarray:
        parts = math.log1p(-share) + normal(u), math.log(share) + normal(u, wide)
        found: np.ndarray = np.logaddexp(*parts)
        return found

    found = shells(both, draws(D))
    assert found is not None
    far2 = np.square(1.05) * np.square(draws(D)).sum(1).max()
    inside = stats.chi2(D).cdf(far2 / wide**2)
    assert found.beyond == pytest.approx(share * (1 - inside), rel=0.05)
    second = share * wide**2 * stats.chi2(D + 2).cdf(far2 / wide**2)
    near = (1 - share + second) / (1 - share + share * inside)
    expected = 0.5 * math.log(near / (1 - share + share * wide**2))
    assert found.log_ratio == pytest.approx(expected, abs=0.1)
    assert found.log_ratio_se < 0.01


def test_a_plain_without_end_is_all_beyond() -> None:
    """A density that does not fall has all of its mass far away, as far as anyone looks."""
    found = shells(lambda u: np.logaddexp(normal(u), np.full(len(u), -12.0)), draws(2))
    assert found is not None and found.beyond > 0.99 and found.log_ratio < -6
    assert abs(found.log_mass) < 0.05  # of the peak alone


@pytest.mark.parametrize("D", [1, 3])
def test_the_lines_run_both_ways_from_0_02_sqrt_d_to_ten_thousand(D: int) -> None:
    """32 pairs of directions with 160 radii each, in units of the covariance of the draws."""
    asked: list[np.ndarray] = []

    def log_p(u: np.ndarray) -> np.ndarray:
        asked.append(u)
        return normal(u)

    u = 30 + draws(D)
    shells(log_p, u)
    white = np.linalg.solve(
        np.linalg.cholesky(np.atleast_2d(np.cov(u.T))), (asked[0] - u.mean(0)).T
    )
    radii = np.linalg.norm(white, axis=0)
    assert len(radii) == 2 * 32 * 160
    assert radii.min() == pytest.approx(0.02 * math.sqrt(D), rel=1e-6)
    assert radii.max() == pytest.approx(1e4, rel=1e-6)
    np.testing.assert_allclose(white.sum(1), 0, atol=1e-4)


def test_mass_on_one_side_is_measured_wherever_the_draws_lie() -> None:
    """Half of the mass at 400 +- 60 on the right of draws N(0, 1), and both moved by 10,000."""

    def both(u: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.logaddexp(normal(u), normal(u - 400, 60.0)) - math.log(2)
        return found

    found, away = shells(both, draws(1)), shells(lambda u: both(u - 1e4), draws(1) + 1e4)
    assert found is not None and found.beyond == pytest.approx(0.5, rel=0.01)
    assert away is not None and away.beyond == pytest.approx(found.beyond, rel=1e-6)


def test_correlated_and_shifted_draws_are_their_own_unit() -> None:
    root = np.linalg.cholesky(np.array([[1.0, 0.99], [0.99, 1.0]])) * 50
    u = 7 + draws(2) @ root.T
    inverse, log_det = np.linalg.inv(root), np.linalg.slogdet(root)[1]
    found = shells(lambda v: normal((v - 7) @ inverse.T) - log_det, u)
    assert found is not None and abs(found.log_mass) < 0.05 and found.log_ratio > -1e-3


def test_heavy_tails_that_the_draws_reach_are_no_error() -> None:
    t = stats.t(4)
    u = t.rvs((50_000, 3), random_state=0)
    found = shells(lambda v: t.logpdf(v).sum(1), u)
    assert found is not None and found.log_ratio > -0.02


def test_draws_without_a_volume_and_densities_of_nothing_say_nothing() -> None:
    assert shells(normal, np.zeros((100, 2))) is None
    assert shells(lambda u: np.full(len(u), -np.inf), draws(2)) is None
    found = shells(lambda u: np.where(u[:, 0] > 5, np.nan, normal(u)), draws(1))
    assert found is not None and abs(found.log_mass) < 0.05


def test_the_error_of_the_ratio_is_that_of_the_jackknife() -> None:
    """sqrt((K - 1) / K sum_k (r_k - mean r)^2), r_k without the k-th of K directions; of any scale."""
    parts = np.random.default_rng(0).uniform(1, 2, size=(4, 6))
    parts[1] += parts[0]
    parts[3] += parts[2]

    def ratio(kept: np.ndarray) -> float:
        near, total, near2, total2 = kept.sum(1)
        return 0.5 * math.log((near2 / near) / (total2 / total))

    without = np.array([ratio(np.delete(parts, k, axis=1)) for k in range(6)])
    error = math.sqrt(5 / 6 * np.square(without - without.mean()).sum())
    for scale in (1.0, 1e-6):
        assert _log_ratio(scale * parts) == pytest.approx((ratio(parts), error), rel=1e-9)
