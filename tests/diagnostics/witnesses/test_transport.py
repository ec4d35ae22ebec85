"""The Hamiltonian run on closed-form densities: errors, their errors, directions and limits."""

import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Whole
from guidebook.diagnostics.numerics import drift
from guidebook.diagnostics.numerics.drift import Transport
from guidebook.diagnostics.witnesses import transport as room
from guidebook.programs.potential import Potential
from guidebook.scope import precision


class Density:
    """Of one posterior, in closed form: log_density(u), u (C, n, D), summed over the last axis."""

    dtype = torch.float64
    device = torch.device("cpu")
    cost = 10

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            free = u.detach().requires_grad_()
            value = self.log_density(free)
            (grad,) = torch.autograd.grad(value.sum(), free)
        return value.detach(), grad

    def values(self, u: Tensor) -> np.ndarray:
        return u.numpy()

    def ordered(self, u: Tensor) -> Tensor:
        return u


def alone(found: Transport | None) -> Transport | None:
    """The numbers of the one posterior, (M,)."""
    if found is None:
        return None
    return Transport(**{one.name: np.asarray(getattr(found, one.name))[0] for one in fields(found)})


def transport(
    density: Density, u: np.ndarray, covariance: np.ndarray, seed: int = 0
) -> Transport | None:
    return alone(room.transport(density, u[:, None], covariance[None], seed))


SD = np.array([0.01, 1.0, 50.0])


def normal() -> Density:
    """N(0, SD^2)."""
    scale = torch.as_tensor(SD)
    return Density(lambda u: -0.5 * (u / scale).square().sum(-1))


def run(shift: float = 0.0, factor: float = 1.0, size: int = 1000, seed: int = 0) -> Transport:
    """Draws of N(shift SD, (factor SD)^2) against N(0, SD^2)."""
    z = np.random.default_rng(seed).standard_normal((size, 3))
    found = transport(normal(), SD * (shift + factor * z), np.diag(SD**2), seed)
    assert found is not None
    return found


@pytest.mark.parametrize(("shift", "factor"), [(0.5, 1.0), (-0.5, 1.0), (0.0, 0.6), (0.0, 1.5)])
def test_error_and_direction(shift: float, factor: float) -> None:
    """Six estimates within five standard errors: a false alarm below 1e-5."""
    found = run(shift, factor, 4000)
    assert found.able.all() and 0.6 < found.acceptance <= 1.0
    assert (np.abs(found.shift - shift) < 5 * found.shift_se + 0.01).all()
    assert (np.abs(np.log(found.sd_ratio / factor)) < 5 * found.sd_ratio_se + 0.03).all()
    assert (np.abs(found.mean) < 5 * SD / math.sqrt(4000) / 0.5).all()
    assert (np.abs(found.sd / SD - 1) < 0.1).all()


def test_stated_errors_are_those_of_replications() -> None:
    """40 runs of 256 chains started in the posterior, three marginals each. A standard deviation over 120
    estimates has an error of 6.5 %: the ratio to the stated one lies within 0.65 and 1.45, five times
    that on either side and the bias of few chains.
    """
    found = [run(0.0, 1.0, 256, seed) for seed in range(40)]
    shifts = np.array([f.shift for f in found])
    ratios = np.log([f.sd_ratio for f in found])
    for estimates, stated in (
        (shifts, [f.shift_se for f in found]),
        (ratios, [f.sd_ratio_se for f in found]),
    ):
        assert 0.65 < estimates.std() / np.sqrt(np.square(stated).mean()) < 1.45


def test_the_run_leaves_the_posterior_where_it_is() -> None:
    """The kernel is reversible: means and variances of 2,000 chains stay, and draws move."""
    u = SD * np.random.default_rng(5).standard_normal((2000, 3))
    found = transport(normal(), u, np.diag(SD**2), 1)
    assert found is not None
    np.testing.assert_allclose(found.sd / SD, 1.0, atol=5 / math.sqrt(2 * 2000))
    again = transport(normal(), u, np.diag(SD**2), 1)
    other = transport(normal(), u, np.diag(SD**2), 2)
    assert again is not None and other is not None
    np.testing.assert_array_equal(again.shift, found.shift)  # the seed decides
    assert (other.shift != found.shift).all()


def test_a_heavy_quartic_density_is_left_alone() -> None:
    """Where leapfrog has an error the acceptance must mend it: p ~ exp(-u^4 / 4), var 2 G(3/4) / G(1/4)."""
    rng = np.random.default_rng(0)
    z = rng.gamma(0.25, 1.0, 6000)
    u = (rng.choice([-1.0, 1.0], 6000) * (4 * z) ** 0.25)[:, None]
    found = transport(Density(lambda v: -0.25 * v.pow(4).sum(-1)), u, np.atleast_2d(u.var()))
    assert found is not None and found.able.all()
    variance = 2 * math.gamma(0.75) / math.gamma(0.25)
    assert abs(found.sd[0] ** 2 / variance - 1) < 5 * math.sqrt(2 / 6000)
    assert abs(found.shift[0]) < 5 * found.shift_se[0]
    assert abs(math.log(found.sd_ratio[0])) < 5 * found.sd_ratio_se[0]


def test_draws_without_a_density_are_refused() -> None:
    """More than one in a hundred without a finite density: nothing is said; fewer stay where they are."""

    def half_line(u: Tensor) -> Tensor:
        return torch.where(u[..., 0] > -3, -0.5 * u.square().sum(-1), -math.inf)

    u = np.random.default_rng(0).standard_normal((1000, 1)).clip(-2.9)
    u[:9] = -5.0
    assert transport(Density(half_line), u, np.eye(1)) is not None
    u[:11] = -5.0
    assert transport(Density(half_line), u, np.eye(1)) is None


def test_a_density_that_accepts_nothing_is_refused() -> None:
    """A wall so narrow that every step ends outside: no step size is found."""

    def needle(u: Tensor) -> Tensor:
        return torch.where(u.abs().amax(-1) < 1e-9, 0.0 * u.sum(-1), -1e9)

    assert transport(Density(needle), np.zeros((600, 1)), np.eye(1)) is None


def test_one_marginal_of_a_slow_run_is_not_told() -> None:
    """Preconditioned for a scale a hundredth of its own, a coordinate moves too little to tell."""
    u = np.random.default_rng(0).standard_normal((1000, 2))
    found = transport(Density(lambda v: -0.5 * v.square().sum(-1)), u, np.diag([1.0, 1e-4]))
    assert found is not None
    assert found.able.tolist() == [True, False]


def compared(before: np.ndarray, after: np.ndarray, acceptance: float = 0.9) -> Transport:
    found = alone(drift.compared(before[:, None], after[:, None], np.array([acceptance])))
    assert found is not None
    return found


def pair(correlation: float, size: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal columns of this correlation."""
    z = np.random.default_rng(3).standard_normal((size, 2))
    return z[:, :1], correlation * z[:, :1] + math.sqrt(1 - correlation**2) * z[:, 1:]


@pytest.mark.parametrize(
    ("correlation", "acceptance", "able"),
    [
        (0.57, 0.9, True),
        (0.66, 0.9, False),
        (-0.66, 0.9, False),
        (0.2, 0.41, True),
        (0.2, 0.39, False),
    ],
)
def test_what_the_run_can_tell(correlation: float, acceptance: float, able: bool) -> None:
    """Rank correlation (6 / pi) asin(r / 2): 0.55, 0.64, limit 0.6; acceptance above 0.4."""
    assert compared(*pair(correlation), acceptance).able.tolist() == [able]


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_a_drift_is_divided_by_what_was_forgotten(correlation: float) -> None:
    """After a run that keeps r of an error, 0.2 sd too high shows as (1 - r) 0.2."""
    before, after = pair(correlation, 20_000)
    rank = 6 / math.pi * math.asin(correlation / 2)
    found = compared(before + 0.2, after + 0.2 * rank)
    drift = (before - after).mean() + 0.2 * (1 - rank)
    assert found.shift[0] == pytest.approx(drift / (1 - rank), abs=0.02)
    assert found.shift[0] == pytest.approx(0.2, abs=5 * found.shift_se[0])
    expected = (before - after).std() / after.std() / (1 - rank) / math.sqrt(20_000)
    assert found.shift_se[0] == pytest.approx(expected, rel=0.03)
    assert found.mean[0] == pytest.approx(0.2 - found.shift[0] + before.mean(), abs=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_ratio_of_standard_deviations(factor: float) -> None:
    before, after = pair(0.0, 20_000)
    found = compared(factor * before, after)
    assert math.log(found.sd_ratio[0]) == pytest.approx(
        math.log(factor), abs=5 * found.sd_ratio_se[0]
    )
    assert found.sd[0] == pytest.approx(after.std())


def test_rank_correlation_in_closed_form() -> None:
    a = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 9.0]])
    b = np.array([[10.0, 1.0], [30.0, 2.0], [20.0, 3.0]])
    np.testing.assert_allclose(drift.rank_correlation(a, b), [0.5, 1.0])
    np.testing.assert_allclose(drift.rank_correlation(b[:, :1], -b[:, :1]), [-1.0])


def test_a_column_that_never_moves_cannot_be_judged() -> None:
    """Ranked by place, ties before and after correlate fully."""
    before, after = pair(0.0)
    still = np.ones_like(before)
    found = compared(np.hstack([before, still]), np.hstack([after, still]))
    assert found.able.tolist() == [True, False]


# on models ------------------------------------------------------------------------------------------


def wide_scales(sd: torch.Tensor) -> None:
    pyro.sample("x", dist.Normal(torch.zeros_like(sd), sd).to_event(1))


def log_normal(scale: torch.Tensor) -> None:
    pyro.sample("x", dist.LogNormal(torch.zeros_like(scale), scale))


def potential_of(model: object, **data: np.ndarray | float) -> Potential:
    with precision(torch.float64):
        tensors = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in data.items()}
        return Potential(model, tensors)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.8, 0.0), (1.25, 0.0), (1.0, 0.15)])
def test_the_run_measures_the_error_of_the_draws(factor: float, shift: float) -> None:
    """Within five of its own standard errors, on scales that differ by 10^7."""
    scales = np.array([1e-3, 1.0, 1e4])
    potential = potential_of(wide_scales, sd=scales)
    rng = np.random.default_rng(0)
    u = scales * (shift + factor * rng.standard_normal((20_000, 3)))
    found = room.transport(Whole(potential), u[:, None], np.diag((factor * scales) ** 2)[None])
    assert found is not None and found.able.all()
    assert (np.abs(found.shift - shift) < 5 * found.shift_se).all()
    assert (np.abs(np.log(found.sd_ratio / factor)) < 5 * found.sd_ratio_se + 0.01).all()


def test_it_reports_on_the_constrained_scale() -> None:
    potential = potential_of(log_normal, scale=0.5)
    u = 0.5 * np.random.default_rng(0).standard_normal((20_000, 1))
    found = room.transport(Whole(potential), u[:, None], np.array([[[0.25]]]))
    assert found is not None
    mean = math.exp(0.125)
    sd = mean * math.sqrt(math.expm1(0.25))
    assert abs(found.mean[0] - mean) < 5 * sd * found.shift_se[0]
    assert abs(found.sd[0] / sd - 1) < 0.05
