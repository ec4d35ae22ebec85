"""A Gaussian and its ELBO: closed forms, too high and too low."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from guidebook.programs.potential import Potential
from guidebook.programs.start import gaussian as module
from guidebook.programs.start.gaussian import Start, _draws, _stepped, elbo, fitted

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
    for factor in (FACTOR, 1.7 * FACTOR, torch.diag(torch.tensor([0.3, 5.0]).double())):
        height = float(dist.MultivariateNormal(MEAN, scale_tril=factor).log_prob(MEAN))
        assert start(MEAN, factor, height).log_mass == pytest.approx(0.0, abs=1e-9)


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


@pytest.mark.parametrize(
    ("vectorised", "dimension", "size"),
    [(True, 2, 512), (True, 64, 512), (True, 100, 800), (False, 2, 32), (False, 20, 80)],
)
def test_antithetic_draws_four_for_each_dimension_at_least(vectorised, dimension, size):
    """256 pairs, more for more than 64 dimensions; sixteen pairs where each costs a run of the model."""
    one = Start(torch.ones(dimension).double(), 2 * torch.ones(dimension).double(), 0.0, False)
    u, noise = _draws(SimpleNamespace(vectorised=vectorised), one)
    assert u.shape == noise.shape == (size, dimension)
    torch.testing.assert_close(u, 1 + 2 * noise)
    assert torch.equal(noise[: size // 2], -noise[size // 2 :])


def precise(found):
    """Within rounding of the posterior."""
    np.testing.assert_allclose(found.center, MEAN, atol=1e-5)
    np.testing.assert_allclose(found.factor @ found.factor.T, FACTOR @ FACTOR.T, atol=1e-5)


@pytest.mark.parametrize(
    ("center", "factor"),
    [
        (MEAN + FACTOR @ torch.tensor([1.0, 0.0]).double(), FACTOR),
        (MEAN, FACTOR @ torch.diag(torch.tensor([1.5, 1.0]).double())),
        (MEAN, 0.7 * FACTOR),
        (MEAN + FACTOR @ torch.tensor([0.0011, 0.0]).double(), FACTOR),
    ],
)
def test_one_step_is_exact_for_a_gaussian(center, factor):
    """Gradients are linear: their mean over antithetic draws and their slope have no error."""
    precise(fitted(Potential(gaussian, {"noise": NOISE}), start(center, factor), iterations=1))


def test_a_gaussian_that_is_fitted_to_a_thousandth_is_left_as_it_is():
    potential = Potential(gaussian, {"noise": NOISE})
    for off in (0.0, 0.00095):
        there = start(MEAN + FACTOR @ torch.tensor([off, 0.0]).double(), FACTOR)
        assert fitted(potential, there) is there
    beyond = start(MEAN + FACTOR @ torch.tensor([0.00105, 0.0]).double(), FACTOR)
    assert fitted(potential, beyond) is not beyond


def test_a_step_moves_the_precision_and_the_mean_by_its_rate():
    """In whitened coordinates precision (1 - r) + r a and mean r g / that, a at most tenfold."""
    one = start(MEAN, FACTOR)
    slopes = torch.tensor([100.0, 0.02], dtype=torch.float64)
    for rate in (1.0, 0.5):
        precision = (1 - rate) + rate * torch.tensor([10.0, 0.1], dtype=torch.float64)
        move = torch.tensor([2.0, 0.1], dtype=torch.float64)
        found = _stepped(one, move, torch.diag(slopes), rate)
        torch.testing.assert_close(found.center, MEAN + FACTOR @ (rate * move / precision))
        expected = FACTOR @ torch.diag(1 / precision) @ FACTOR.T
        torch.testing.assert_close(found.factor @ found.factor.T, expected)
        assert found.log_density == -math.inf and not found.mode
    # three standard deviations at most, as a mean over coordinates
    far = _stepped(one, torch.tensor([30.0, 40.0]).double(), torch.eye(2).double(), 1.0)
    expected = MEAN + FACTOR @ (torch.tensor([0.6, 0.8]).double() * 3 * math.sqrt(2))
    torch.testing.assert_close(far.center, expected)


def test_steps_are_halved_until_one_climbs_and_lengthened_by_half_after(monkeypatch):
    potential, away = Potential(gaussian, {"noise": NOISE}), start([4.0, 4.0], torch.eye(2))
    rates, measured = [], module._at

    def stepped(one, mean, curvature, rate):
        rates.append(rate)
        return away

    monkeypatch.setattr(module, "_stepped", stepped)
    for heights, expected in (
        ([0, -1, -1, 1, 2, 3, 4, 5], [1, 1 / 2, 1 / 4, 3 / 8, 9 / 16, 27 / 32, 1]),
        # 0.00110 is not less than a thousandth
        (
            [0, -1, -1, 1, 2] + [-1] * 20,
            [1, 1 / 2, 1 / 4, 3 / 8, *(9 / 16 / 2**k for k in range(10))],
        ),
        ([0] + [-1] * 20, [2.0**-k for k in range(10)]),  # at less than a thousandth it stops
        (list(range(70)), [1.0] * 60),
    ):
        rates.clear()
        told = iter(heights)

        def at(potential, one, told=told):
            return measured(potential, one)._replace(elbo=float(next(told)))

        monkeypatch.setattr(module, "_at", at)
        fitted(potential, away, **({"iterations": 5} if len(heights) == 8 else {}))
        assert rates == expected


def test_every_gaussian_that_is_tried_is_evaluated_once(monkeypatch):
    """Its ELBO and the gradients for the step from it come from the same draws."""
    calls, tried = [], []
    potential = Potential(gaussian, {"noise": NOISE})
    evaluate, stepped = potential.value_and_grad, module._stepped
    monkeypatch.setattr(potential, "value_and_grad", lambda u: calls.append(u) or evaluate(u))
    monkeypatch.setattr(module, "_stepped", lambda *a: tried.append(a) or stepped(*a))
    fitted(potential, start([4.0, 4.0], torch.eye(2)))
    assert len(calls) == 1 + len(tried) > 2


def test_where_gradients_are_not_finite_nothing_is_fitted():
    def half(noise):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", (z + 5.0).sqrt())

    one = start([0.0], [[10.0]])
    assert fitted(Potential(half, {"noise": NOISE}), one) is one
