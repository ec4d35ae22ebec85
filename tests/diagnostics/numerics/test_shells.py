"""Mass beyond all draws: two scales at one mode in closed form, and densities that their draws fill."""

import math

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.numerics.shells import shells


def normal(u: np.ndarray, sd: float = 1.0) -> np.ndarray:
    D = u.shape[1]
    found: np.ndarray = -0.5 * np.square(u / sd).sum(1) - D * (
        math.log(sd) + 0.5 * math.log(2 * math.pi)
    )
    return found


def draws(D: int, size: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((size, D))


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


def test_a_shelf_along_one_of_many_directions_is_not_seen() -> None:
    """No random line in twenty dimensions runs along it: what is integrated is the peak alone."""

    def long(u: np.ndarray) -> np.ndarray:
        wide = u.copy()
        wide[:, 0] /= 300
        found: np.ndarray = np.logaddexp(normal(u), normal(wide) - math.log(300))
        return found

    found = shells(long, draws(20))
    assert found is not None and abs(found.log_ratio) < 1e-3


def test_draws_without_a_volume_and_densities_of_nothing_say_nothing() -> None:
    assert shells(normal, np.zeros((100, 2))) is None
    assert shells(lambda u: np.full(len(u), -np.inf), draws(2)) is None
    found = shells(lambda u: np.where(u[:, 0] > 5, np.nan, normal(u)), draws(1))
    assert found is not None and abs(found.log_mass) < 0.05
