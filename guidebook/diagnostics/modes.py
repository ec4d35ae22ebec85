"""Is there posterior mass where the draws never go?

Optimisers started far from the draws find the modes around them; each has a mass by Laplace's
method. A mode that should hold a share of the posterior and holds far fewer of the draws is missing
from the approximation: the one failure that importance weights, gradients and short Markov chains
at the draws are all blind to.

Source: Yao, Vehtari and Gelman 2022, "Stacking for non-mixing Bayesian computations" (why the local
diagnostics do not see it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from guidebook.inference.potential import Potential
from guidebook.inference.start import Climb, Start, elbo

STARTS = 10
LEAST_SHARE = 0.01
ITERATIONS = 200


@dataclass(frozen=True)
class Mode:
    """A local maximum: where (D,), the factor of its covariance, and its Laplace log mass."""

    center: np.ndarray
    factor: np.ndarray
    log_mass: float

    def distance(self, u: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of u (S, D) from the mode, in its own standard deviations."""
        if self.factor.ndim == 1:
            return np.linalg.norm((u - self.center) / self.factor, axis=-1)
        return np.linalg.norm(np.linalg.solve(self.factor, (u - self.center).T), axis=0)


def find_modes(potential: Potential, u: np.ndarray, seed: int = 0) -> list[Mode]:
    """Distinct modes reached from starts spread around the draws u (S, D) and around the origin."""
    rng = np.random.default_rng(seed)
    climb = Climb(potential)
    middle, spread = u.mean(0), u.std(0)
    draws = u[rng.integers(len(u), size=STARTS)]
    count = STARTS if potential.dimension <= 100 else 3
    found: list[Mode] = []
    for number in range(count):
        if number % 2 == 0:  # far out along the line through a draw
            start = middle + (4 + number) * (draws[number] - middle) / 2
        else:
            start = 2 * rng.standard_normal(len(middle))
        if number == 1:
            start = middle - 6 * spread * rng.choice([-1.0, 1.0], size=len(middle))
        top = climb.mode_at(climb.from_point(start, ITERATIONS)[-1])
        if top is None or not math.isfinite(top.log_mass):
            continue
        mode = _as_mode(top)
        if not any(other.distance(mode.center[None])[0] < 1.0 for other in found):
            found.append(mode)
    return found


def _as_mode(top: Start) -> Mode:
    return Mode(
        top.center.double().cpu().numpy(), top.factor.double().cpu().numpy(), top.log_mass
    )


def gaussian_elbo(potential: Potential, u: np.ndarray) -> float:
    """The ELBO of the Gaussian with the moments of the draws u (S, D); -inf where it has none."""
    covariance = np.atleast_2d(np.cov(u, rowvar=False))
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return -math.inf
    center, factor_ = (
        torch.as_tensor(a, dtype=potential.dtype, device=potential.device)
        for a in (u.mean(0), factor)
    )
    return elbo(potential, Start(center, factor_, -math.inf, mode=False))


def missing_modes(
    modes: list[Mode], u: np.ndarray, lower_bound: float
) -> list[tuple[Mode, float, float]]:
    """(mode, expected share, share of the draws in it) of modes that hold too few of the draws.

    A draw belongs to a mode within sqrt(D) + 2 of its standard deviations, where nearly all of its
    own mass lies. The total is the larger of the modes' sum and a lower bound of the log evidence.
    """
    if not modes:
        return []
    total = np.logaddexp.reduce([m.log_mass for m in modes])
    total = max(total, lower_bound)
    reach = math.sqrt(u.shape[1]) + 2
    missing = []
    for mode in modes:
        expected = math.exp(min(0.0, mode.log_mass - total))
        share = float((mode.distance(u) < reach).mean())
        if expected > LEAST_SHARE and share < 0.3 * expected:
            missing.append((mode, expected, share))
    return missing
