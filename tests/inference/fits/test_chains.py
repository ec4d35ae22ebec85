"""R-hat and effective sample sizes against processes whose values are known."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from guidebook.inference.fits.chains import ESS_PER_CHAIN, RHAT_LIMIT, agree, convergence

CHAINS, DRAWS = 4, 4000


def independent(D=1):
    return np.random.default_rng(0).standard_normal((CHAINS, DRAWS, D))


def autoregressive(rho):
    """Stationary, with standard normal marginals: ESS = S (1 - rho) / (1 + rho)."""
    noise = np.random.default_rng(1).standard_normal((CHAINS, DRAWS)) * math.sqrt(1 - rho**2)
    noise[:, 0] /= math.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise)[..., None]


def test_independent_draws_agree_and_count_in_full():
    rhat, ess = convergence(independent(3))
    assert 0.99 < rhat < 1.005
    # the smallest of six: the tails' ESS has a relative standard error of about 5 % here
    assert 0.75 < ess / (CHAINS * DRAWS) < 1.1


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_autocorrelated_draws_count_for_less(rho):
    """The tails of an autoregressive process mix no slower than its bulk; estimates within 30 %."""
    _, ess = convergence(autoregressive(rho))
    assert ess == pytest.approx(CHAINS * DRAWS * (1 - rho) / (1 + rho), rel=0.3)


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_chains_at_two_places_have_the_r_hat_of_their_variances(shift):
    """Half of the chains moved by d sd: R-hat = sqrt(1 + B / W) with B / W = d^2 / 4 * 8 / 7.

    Eight half-chains; the ranks' normal scores distort it by a few per cent.
    """
    u = independent()
    u[:2] += shift
    rhat, ess = convergence(u)
    assert rhat == pytest.approx(math.sqrt(1 + shift**2 / 4 * 8 / 7), rel=0.03)
    assert ess < 100


def test_the_worst_coordinate_counts():
    u = independent(3)
    u[0, :, 1] += 1.0
    alone, _ = convergence(u[..., 1:2])
    assert convergence(u)[0] == pytest.approx(alone)
    assert alone > 1.05


def test_chains_of_different_spread_disagree():
    """Rank R-hat is folded, so that it sees scales where the means are equal."""
    u = independent()
    u[:2] *= 3
    assert convergence(u)[0] > 1.1


def test_discrete_values_are_judged_by_their_bulk():
    rng = np.random.default_rng(2)
    u = (rng.random((CHAINS, DRAWS, 2)) < 0.3).astype(float)
    u[..., 1] = 1.0  # the same in all draws: nothing to compare
    rhat, ess = convergence(u, discrete=True)
    assert rhat < 1.005 and ess / (CHAINS * DRAWS) > 0.8
    u[0, :, 0] = 1 - u[0, :, 0]
    assert convergence(u, discrete=True)[0] > 1.05
    assert convergence(u[..., 1:], discrete=True) == (1.0, CHAINS * DRAWS)


def test_a_coordinate_that_is_the_same_in_each_chain_but_not_across_never_agrees():
    u = np.repeat(np.arange(4.0)[:, None, None], 100, 1)
    rhat, ess = convergence(u)
    assert not agree(rhat, ess, 4)


def test_the_limits_of_vehtari_et_al_are_inclusive():
    assert (RHAT_LIMIT, ESS_PER_CHAIN) == (1.01, 100)
    assert agree(1.01, 400.0, 4)
    assert not agree(math.nextafter(1.01, 2), 400.0, 4)
    assert not agree(1.01, math.nextafter(400.0, 0), 4)
    assert not agree(math.nan, 1e6, 4)
    assert not agree(1.0, math.nan, 4)
