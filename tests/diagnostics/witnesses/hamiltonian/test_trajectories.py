"""Trajectories of the Hamiltonian run in closed form, and where density or gradient is not finite."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.witnesses import transport as room
from tests.diagnostics.witnesses.hamiltonian.posteriors import COVARIANCES, Gaussian, start


def run_of(density: Any, covariance: np.ndarray = COVARIANCES, seed: int = 0) -> Any:
    return room._Hamiltonian(density, covariance, seed)


@pytest.mark.parametrize("step", [0.4, 1.1])
def test_a_trajectory_in_a_gaussian_is_a_rotation(step: float) -> None:
    """In whitened coordinates leapfrog steps of size h turn by theta, cos theta = 1 - h^2 / 2:

        q_L = q cos(L theta) + p sin(L theta) / s,  p_L = p cos(L theta) - q s sin(L theta),

    with s^2 = 1 - h^2 / 4; the proposal is taken with probability exp(H_0 - H_L), H = (q^2 + p^2) / 2.
    """
    run, u = run_of(Gaussian(), seed=4), start()
    state = run.begin(u)
    moved, rate = run.transition(state, step)
    random = torch.Generator().manual_seed(4)  # the same numbers: length, momenta, acceptance
    leaps = round(1.5 * (0.8 + 0.4 * float(torch.rand((), generator=random))) / step)
    p = torch.randn(u.shape, generator=random, dtype=torch.float64)
    uniform = torch.rand(u.shape[:2], generator=random, dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.as_tensor(COVARIANCES))
    q = torch.einsum("cnj,nij->cni", u, torch.linalg.inv(factor))
    turn, s = leaps * math.acos(1 - step**2 / 2), math.sqrt(1 - step**2 / 4)
    new_q = q * math.cos(turn) + p * math.sin(turn) / s
    new_p = p * math.cos(turn) - q * s * math.sin(turn)
    energy = [0.5 * (a.square() + b.square()).sum(-1) for a, b in ((q, p), (new_q, new_p))]
    chance = (energy[0] - energy[1]).exp().clamp(max=1.0)
    taken = uniform < chance
    assert taken.any() and (step < 1 or not taken.all())
    new_u = torch.einsum("cnj,nij->cni", new_q, factor)
    torch.testing.assert_close(moved[0], torch.where(taken[..., None], new_u, u))
    value, grad = Gaussian().value_and_grad(moved[0])
    torch.testing.assert_close(moved[1], value)
    torch.testing.assert_close(moved[2], grad)
    np.testing.assert_allclose(rate, chance.mean(0).numpy())


@pytest.mark.parametrize("step", [0.01, 0.061, 0.5, 2.0, 4.0])
def test_a_trajectory_lasts_between_1_2_and_1_8_of_at_most_thirty_steps(step: float) -> None:
    """Uniformly, by the first number of the generator; a quarter turn of a Gaussian is pi / 2."""
    for seed in range(8):
        density = Gaussian()
        run = run_of(density, seed=seed)
        state = run.begin(start(2))
        run.transition(state, step)
        first = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        asked = len(density.asked) - 1
        assert asked == max(1, min(30, round((1.2 + 0.6 * first) / step)))


class Walled(Gaussian):
    """What it gives at every place but the first that it is asked of."""

    def __init__(self, spoil: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.spoil = spoil

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = super().value_and_grad(u)
        if len(self.asked) > 1:
            self.spoil(value, grad)
        return value, grad


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value, grad: value.fill_(math.inf),
        lambda value, grad: value.fill_(math.nan),
        lambda value, grad: grad[..., 1].fill_(math.nan),
    ],
)
def test_where_density_or_gradient_is_not_finite_nothing_moves(spoil: Any) -> None:
    run, u = run_of(Walled(spoil)), start()
    state = run.begin(u)
    moved, rate = run.transition(state, 0.1)
    torch.testing.assert_close(moved[0], u)
    assert rate.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("what", ["value", "grad"])
def test_a_hundredth_of_the_draws_may_lack_a_density(what: str) -> None:
    """Of 50 chains of two posteriors: one of a hundred draws may, two may not."""

    def begin(lacking: int) -> Any:
        def spoil(value: Tensor, grad: Tensor) -> None:
            spoiled = value if what == "value" else grad[..., 2]
            spoiled[:lacking, 0] = math.nan

        density = Walled(spoil)
        density.asked.append(0)
        return run_of(density).begin(start(50))

    state = begin(1)
    assert begin(2) is None and state is not None
    u, value, grad = state
    torch.testing.assert_close(u, start(50))
    assert value.isfinite().all() and grad.isfinite().all()
    if what == "value":
        assert value[0, 0] == -1e300 and (value[1:] > -100).all()
    else:
        assert grad[0, 0, 2] == 0.0 and (grad[1:] != 0.0).all()
    value, grad = (torch.full((100, 1), math.inf), torch.full((100, 1, 1), math.inf))
    value[1:], grad[1:] = 0.0, 1.0
    grad[0] = -math.inf
    run = run_of(Gaussian())
    run.density = type("Given", (), {"value_and_grad": lambda self, u: (value, grad)})()
    assert run.begin(torch.zeros(100, 1, 1))[2][0] == 0.0
    grad[0] = math.inf
    assert run.begin(torch.zeros(100, 1, 1))[2][0] == 0.0


def test_a_whole_run_of_two_posteriors_in_single_precision() -> None:
    """Moments of posteriors apart, in the density's own precision; labels are put in order after it."""

    class Single(Gaussian):
        dtype = torch.float32
        cost = 1

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            assert u.dtype == torch.float32
            value, grad = super().value_and_grad(u.double())
            return value.float(), grad.float()

        def values(self, u: Tensor) -> np.ndarray:
            return u.double().numpy()

        def ordered(self, u: Tensor) -> Tensor:
            return u + 1000.0

    density: Any = Single()
    u = start(400).numpy()
    found = room.transport(density, u, COVARIANCES)
    assert found is not None and found.acceptance.shape == (2,)
    assert found.acceptance.dtype == np.float64
    assert ((found.acceptance > 0.6) & (found.acceptance <= 1)).all()
    sd = np.sqrt(np.diagonal(COVARIANCES, axis1=1, axis2=2))
    np.testing.assert_allclose(found.sd / sd, 1.0, atol=5 / math.sqrt(2 * 400))
    drift = u.mean(0) - 1000.0
    np.testing.assert_allclose(found.shift, drift / found.sd / 1.0, rtol=0.5)
    assert (found.shift < 0).all()
    run = run_of(density)
    assert run.factor.dtype == torch.float32


def test_a_place_without_a_whole_gradient_is_not_gone_to() -> None:
    class Torn(Gaussian):
        """One number of the gradient is missing on one side of zero."""

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            value, grad = super().value_and_grad(u)
            grad[..., 2] = torch.where(u[..., 2] > 0, math.nan, grad[..., 2])
            return value, grad

    run, u = run_of(Torn()), -start(400).abs()
    state = run.begin(u)
    moved, rate = run.transition(state, 0.9, length=0.5)  # one step, so that no momentum is lost
    assert (moved[0] != u).any() and (rate > 0).all()
    assert moved[2].isfinite().all() and (moved[0][..., 2] <= 0).all()
