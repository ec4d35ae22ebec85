"""Missing modes on two bumps in closed form, with every limit at its value."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.witnesses.modes import Mode, missing_modes

AWAY = np.array([8.0, 0.0])


class Bumps:
    """A mixture of equal normal bumps, log p raised to `floor` where it is lower."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(
        self,
        floor: float = -math.inf,
        centers: tuple[np.ndarray, ...] = (0 * AWAY, AWAY),
        sd: float = 1.0,
    ) -> None:
        self.floor, self.centers, self.sd = floor, centers, sd

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        squares = [((u - torch.as_tensor(c)) / self.sd).square().sum(-1) for c in self.centers]
        value = (-0.5 * torch.stack(squares)).logsumexp(0)
        return value.clamp(min=self.floor), torch.zeros_like(u)


def modes(share: float, factor: np.ndarray | None = None) -> list[Mode]:
    """Two modes whose masses add up to 1, the second at AWAY holding this share."""
    factor = np.eye(2) if factor is None else factor
    return [
        Mode(0 * AWAY, factor, math.log(1 - share)),
        Mode(AWAY, factor, math.log(share)),
    ]


def draws(inside: int, size: int = 1000) -> np.ndarray:
    """Draws at the origin, `inside` of them at the second mode."""
    u = 0.1 * np.random.default_rng(0).standard_normal((size, 2))
    u[size - inside :] += AWAY
    return u


@pytest.mark.parametrize(("share", "missing"), [(0.0101, True), (0.0099, False)])
def test_a_mode_counts_from_one_in_a_hundred(share: float, missing: bool) -> None:
    found = missing_modes(Bumps(), modes(share), draws(0), -math.inf)  # type: ignore[arg-type]
    assert bool(found) is missing
    if missing:
        ((mode, expected, seen),) = found
        assert mode.center[0] == 8.0 and seen == 0.0 and expected == pytest.approx(share)


@pytest.mark.parametrize(("inside", "missing"), [(119, True), (121, False)])
def test_a_mode_with_three_tenths_of_its_draws_is_there(inside: int, missing: bool) -> None:
    """A share of 0.4 with less than 0.12 of the draws."""
    found = missing_modes(Bumps(), modes(0.4), draws(inside), -math.inf)  # type: ignore[arg-type]
    assert bool(found) is missing
    if found:
        assert found[0][1:] == (pytest.approx(0.4), inside / 1000)


def test_the_total_is_a_lower_bound_of_the_evidence_where_that_is_larger() -> None:
    """Masses 0.98 and 0.02 of an evidence of e: shares are divided by e."""
    found = modes(0.02)
    assert len(missing_modes(Bumps(), found, draws(0), 0.0)) == 1  # type: ignore[arg-type]
    assert missing_modes(Bumps(), found, draws(0), 1.0) == []  # type: ignore[arg-type]
    assert len(missing_modes(Bumps(), found, draws(0), -1.0)) == 1  # type: ignore[arg-type]
    assert missing_modes(Bumps(), [], draws(0), 0.0) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "missing"), [(1.1, True), (0.9, False)])
def test_a_valley_is_one_nat_deep(depth: float, missing: bool) -> None:
    u = np.zeros((1000, 2))
    density = Bumps(floor=-depth)
    assert bool(missing_modes(density, modes(0.4), u, -math.inf)) is missing  # type: ignore[arg-type]


@pytest.mark.parametrize(("distance", "inside"), [(3.40, True), (3.43, False)])
def test_a_draw_belongs_within_sqrt_d_plus_two(distance: float, inside: bool) -> None:
    """sqrt 2 + 2 = 3.414 standard deviations in the plane, with a valley on the way."""
    there = AWAY + np.array([distance, 0.0])
    density = Bumps(centers=(AWAY, there), sd=0.2)
    found = missing_modes(density, modes(0.3)[1:], np.tile(there, (500, 1)), 0.0)  # type: ignore[arg-type]
    assert bool(found) is not inside


def test_distances_are_in_the_modes_own_standard_deviations() -> None:
    full = Mode(AWAY, np.array([[2.0, 0.0], [1.0, 3.0]]), 0.0)
    u = AWAY + np.array([[2.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(full.distance(u), [1.0, 1.0, 0.0])
    diagonal = Mode(AWAY, np.array([2.0, 3.0]), 0.0)
    np.testing.assert_allclose(diagonal.distance(AWAY + np.array([[2.0, 3.0]])), [math.sqrt(2)])
