"""Where are the modes of log p(x, u)?

Optimisers started far from the draws, around the origin and from the prior find the modes around
them; each has a mass by Laplace's method.

Source: Yao, Vehtari and Gelman 2022, "Stacking for non-mixing Bayesian computations" (why diagnostics
at the draws do not see a mode that they never visit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from guidebook.programs.gaussian import Start
from guidebook.programs.labels import canonical_positions, log_labellings
from guidebook.programs.mode import Climb
from guidebook.programs.potential import Potential

STARTS, GRADIENTS_PER_START, ITERATIONS = 36, 80, 200
WORK = 4e8
"""Numbers computed in the search, at single positions: some seconds."""


@dataclass(frozen=True)
class Mode:
    """A local maximum: where (D,), the factor of its covariance, (D, D) or (D,), its Laplace log mass."""

    center: np.ndarray
    factor: np.ndarray
    log_mass: float

    def distance(self, u: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of u (S, D) from the mode, in its own standard deviations."""
        if self.factor.ndim == 1:
            return np.linalg.norm((u - self.center) / self.factor, axis=-1)
        return np.linalg.norm(np.linalg.solve(self.factor, (u - self.center).T), axis=0)

    @property
    def log_volume(self) -> float:
        """log det of the factor."""
        diagonal = self.factor if self.factor.ndim == 1 else np.diagonal(self.factor)
        return float(np.log(diagonal).sum())


def find_modes(potential: Potential, u: np.ndarray, seed: int = 0) -> list[Mode]:
    """Distinct modes reached from starts around the draws u (S, D), the origin and the prior."""
    rng = np.random.default_rng(seed)
    climb = Climb(potential)
    found: list[Mode] = []
    for start in _starts(potential, u, rng):
        top = climb.mode_at(climb.from_point(start, ITERATIONS)[-1])
        if top is None or not math.isfinite(top.log_mass):
            continue
        top = _labelled(climb, top)
        mode = _as_mode(top, log_labellings(potential.model))
        if not any(other.distance(mode.center[None])[0] < 1.0 for other in found):
            found.append(mode)
    return found


def _starts(potential: Potential, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Starts (n, D) at several distances: modes lie at the scale of the draws, of 1, or of the prior."""
    count = int(np.clip(WORK / (potential.cost * GRADIENTS_PER_START), 4, STARTS))
    middle, spread = u.mean(0), u.std(0)
    noise = rng.standard_normal((count, u.shape[1]))
    distance = np.array([3.0, 6.0, 12.0, 25.0])[np.arange(count) % 4, None]
    around = middle + distance * spread * noise / np.sqrt(np.square(noise).mean(1, keepdims=True))
    origin = (
        rng.standard_normal((count, u.shape[1])) * np.array([2.0, 5.0])[np.arange(count) % 2, None]
    )
    prior = potential.prior_positions(count, int(rng.integers(2**31)))
    third = count // 3
    return np.concatenate([around[:third], origin[:third], prior[:third]])


def _as_mode(top: Start, log_copies: float) -> Mode:
    center, factor = (t.double().cpu().numpy() for t in (top.center, top.factor))
    return Mode(center, factor, top.log_mass + log_copies)


def _labelled(climb: Climb, top: Start) -> Start:
    """The copy of this mode whose components are in the model's order."""
    center = canonical_positions(climb.potential, top.center[None])[0]
    if torch.equal(center, top.center):
        return top
    return climb.mode_at(center.double().cpu().numpy()) or top
