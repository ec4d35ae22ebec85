"""Models of expectation propagation, and their posteriors on a grid."""

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

BOTH = pytest.mark.parametrize("schedule", ["sequential", "parallel"])


def quadrature(log_factor, mean, variance):
    """log mass, mean and variance of exp(log_factor(s)) N(s; mean, variance), by Gauss-Kronrod."""
    sd = variance**0.5
    centre = np.linspace(-60, 60, 4001) * max(1.0, sd / 4) + mean
    top = centre[np.argmax(log_factor(centre) - 0.5 * (centre - mean) ** 2 / variance)]
    level = log_factor(top) - 0.5 * (top - mean) ** 2 / variance

    def integral(power):
        def integrand(s):
            log_density = log_factor(s) - 0.5 * (s - mean) ** 2 / variance - level
            return np.exp(log_density) * ((s - top) / sd) ** power

        edges = sorted(
            {top - 12 * sd, top - 3 * sd, -5.0, 0.0, 5.0, top, top + 3 * sd, top + 12 * sd}
        )
        pairs = list(itertools.pairwise(edges))
        return sum(
            scipy.integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-11, limit=300)[0]
            for a, b in pairs
            if top - 12 * sd <= a < b <= top + 12 * sd
        )

    mass, first, second = (integral(power) for power in range(3))
    first, second = first / mass, second / mass
    log_mass = np.log(mass) + level - 0.5 * np.log(2 * np.pi * variance)
    return log_mass, top + sd * first, variance * (second - first**2)


def one_column(n, seed, law):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return {"X": x[:, None], "y": (law.rvs(size=n, random_state=rng) < 0.5 + 1.5 * x) * 1.0}


def minka(n, D, seed=0):
    """Minka's setting: theta = 2, half of the points clutter of variance 10, prior N(0, 100)."""
    rng = np.random.default_rng(seed)
    seen = rng.random((n, 1)) < 0.5
    return np.where(seen, rng.normal(2, 1, (n, D)), rng.normal(0, 10**0.5, (n, D)))


def log_joint_of_clutter(theta, x):
    D = x.shape[1]
    squares = np.square(theta[:, None] - x).sum(-1)
    seen = np.log(0.5) - 0.5 * squares - D / 2 * np.log(2 * np.pi)
    apart = np.log(0.5) + scipy.stats.norm.logpdf(x, 0, 10**0.5).sum(-1)
    prior = scipy.stats.norm.logpdf(theta, 0, 10).sum(-1)
    return np.logaddexp(seen, apart).sum(1) + prior
