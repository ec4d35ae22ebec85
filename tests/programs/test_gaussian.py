"""A Gaussian and its ELBO: closed forms, too high and too low."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from guidebook.programs.gaussian import Start, elbo, fitted
from guidebook.programs.potential import Potential

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
FACTOR = torch.tensor([[2.0, 0.0], [0.6, 0.5]], dtype=torch.float64)
NOISE = torch.zeros(1, dtype=torch.float64)


def gaussian(noise):
    """z ~ N(MEAN, FACTOR FACTOR'): log evidence 0."""
    pyro.sample("z", dist.MultivariateNormal(MEAN, scale_tril=FACTOR))


def start(center, factor, log_density=0.0):
    return Start(
        torch.as_tensor(center).double(), torch.as_tensor(factor).double(), log_density, False
    )


def kl(center, factor):
    q = dist.MultivariateNormal(center, scale_tril=factor)
    return float(
        torch.distributions.kl_divergence(q, dist.MultivariateNormal(MEAN, scale_tril=FACTOR))
    )


@pytest.mark.parametrize(
    ("center", "factor"),
    [
        (MEAN, FACTOR),
        (MEAN + torch.tensor([1.0, 0.3]), FACTOR),
        (MEAN, 1.7 * FACTOR),
        (torch.zeros(2).double(), torch.eye(2).double()),
    ],
)
def test_the_elbo_is_minus_the_divergence(center, factor):
    """ELBO = log Z - KL, log Z = 0. Antithetic noise makes the linear part exact; the quadratic has
    the error sqrt(2 trace(A^2)) / 2 over 512 draws, A = L' P L: 4 of these, false alarm 6e-5.
    """
    found = elbo(Potential(gaussian, {"noise": NOISE}), start(center, factor))
    A = factor.T @ torch.linalg.inv(FACTOR @ FACTOR.T) @ factor
    spread = A - torch.eye(2)  # the entropy is estimated with the same noise
    error = 0.5 * math.sqrt(2 * float((spread @ spread).trace()) / 256)
    assert found == pytest.approx(-kl(center, factor), abs=4 * error + 1e-9)


def test_a_diagonal_factor_is_its_diagonal_matrix():
    potential = Potential(gaussian, {"noise": NOISE})
    scale = torch.tensor([0.7, 1.3])
    flat, full = start(MEAN, scale), start(MEAN, torch.diag(scale))
    assert elbo(potential, flat) == pytest.approx(elbo(potential, full), rel=1e-12)
    assert flat.log_mass == pytest.approx(full.log_mass, rel=1e-6)


def test_the_mass_of_a_gaussian_is_its_integral():
    """Laplace's estimate is exact: log p(mode) + D/2 log 2 pi + log |L| = 0."""
    height = float(dist.MultivariateNormal(MEAN, scale_tril=FACTOR).log_prob(MEAN))
    assert start(MEAN, FACTOR, height).log_mass == pytest.approx(0.0, abs=1e-9)


def test_the_fitted_gaussian_is_the_posterior_of_a_gaussian_model():
    potential = Potential(gaussian, {"noise": NOISE})
    found = fitted(potential, start([4.0, 4.0], 0.2 * torch.eye(2)))
    np.testing.assert_allclose(found.center, MEAN, atol=2e-3)
    np.testing.assert_allclose(found.factor @ found.factor.T, FACTOR @ FACTOR.T, atol=5e-3)
    assert elbo(potential, found) == pytest.approx(0.0, abs=1e-4)


def test_the_elbo_where_the_density_is_no_number_is_minus_infinity():
    def undefined(noise):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", (z + 5.0).log())

    assert elbo(Potential(undefined, {"noise": NOISE}), start([0.0], [[10.0]])) == -math.inf
