"""Moments of tilted densities against quadrature."""

import numpy as np
import pyro
import pytest
import scipy.integrate
import scipy.stats
import torch

from guidebook.guides.conjugate.moments import clutter_moments, logistic_moments, probit_moments
from guidebook.models.clutter import clutter
from guidebook.models.probit import probit_regression
from tests.inference.ep.stories import log_joint_of_clutter, quadrature


def numbers(*values):
    return tuple(torch.tensor([v], dtype=torch.float64) for v in values)


CAVITIES = [(0.25, 2.0), (-40.0, 200.0), (5.0, 0.125), (0.0, 194.0), (-3.0, 2000.0), (-12.0, 1.0)]


@pytest.mark.parametrize(("mean", "variance"), CAVITIES)
@pytest.mark.parametrize("kind", ["probit", "logistic"])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_tilted_moments_are_those_of_quadrature(kind, y, mean, variance):
    moments = {"probit": probit_moments, "logistic": logistic_moments}[kind]
    law = {"probit": scipy.stats.norm, "logistic": scipy.stats.logistic}[kind]
    found = moments(*numbers(y, mean, variance))
    truth = quadrature(lambda s: law.logcdf((2 * y - 1) * s), mean, variance)
    assert found.log_mass.item() == pytest.approx(truth[0], abs=1e-8)
    assert (found.mean.item() - truth[1]) / truth[2] ** 0.5 == pytest.approx(0, abs=1e-7)
    assert found.variance.item() == pytest.approx(truth[2], rel=1e-6)


@pytest.mark.parametrize(("x", "mean", "variance"), [(2.0, 0.5, 3.0), (-6.0, 4.0, 0.5)])
def test_tilted_moments_of_clutter_are_those_of_quadrature(x, mean, variance):
    (v,) = numbers(variance)
    found = clutter_moments(*(n[:, None] for n in numbers(x, mean)), v, 0.3, 10.0)

    def log_factor(s):
        seen = np.log(0.7) + scipy.stats.norm.logpdf(x, s, 1)
        return np.logaddexp(seen, np.log(0.3) + scipy.stats.norm.logpdf(x, 0, 10**0.5))

    truth = quadrature(log_factor, mean, variance)
    assert found.log_mass.item() == pytest.approx(truth[0], abs=1e-8)
    assert found.mean.item() == pytest.approx(truth[1], abs=1e-7)
    assert found.variance.item() == pytest.approx(truth[2], rel=1e-6)


# the models --------------------------------------------------------------------------------------


def test_probit_densities_are_scipys_far_into_the_tails():
    X = torch.tensor([[0.0], [3.0], [-30.0], [30.0]], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    at = {"intercept": torch.tensor(0.5).double(), "beta": torch.tensor([1.0]).double()}
    trace = pyro.poutine.trace(pyro.poutine.condition(probit_regression, at)).get_trace(X, y)
    trace.compute_log_prob()
    expected = scipy.stats.norm.logcdf([0.5, -3.5, -29.5, 30.5])
    np.testing.assert_allclose(trace.nodes["y"]["log_prob"], expected, rtol=1e-12, atol=1e-300)


def test_clutter_simulates_its_own_mixture():
    # Kolmogorov-Smirnov at a false-alarm rate of 1e-3, fixed seed
    pyro.set_rng_seed(0)
    at = {"theta": torch.tensor([4.0, 4.0])}
    x = pyro.poutine.condition(clutter, at)(size=4000, D=2).numpy()
    assert x.shape == (4000, 2)

    def cdf(v):
        return 0.5 * scipy.stats.norm.cdf(v, 4, 1) + 0.5 * scipy.stats.norm.cdf(v, 0, 10**0.5)

    assert scipy.stats.kstest(x[:, 1], cdf).pvalue > 1e-3
    theta = np.array([[0.3, -1.0]])
    at = {"theta": torch.from_numpy(theta[0])}
    data = torch.from_numpy(x[:50]).double()
    found = pyro.poutine.trace(pyro.poutine.condition(clutter, at)).get_trace(data).log_prob_sum()
    assert float(found) == pytest.approx(log_joint_of_clutter(theta, x[:50])[0], rel=1e-6)
