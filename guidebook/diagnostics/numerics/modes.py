"""Where are the modes of log p(x, u)?

Optimisers started far from the draws, around the origin and from the prior find the modes around
them; each has a mass by Laplace's method.

Source: Yao, Vehtari and Gelman 2022, "Stacking for non-mixing Bayesian computations" (why diagnostics
at the draws do not see a mode that they never visit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guidebook.programs.gaussian import Start
from guidebook.programs.labels import canonical_positions, log_labellings
from guidebook.programs.mode import Climb
from guidebook.programs.potential import Potential

STARTS, GRADIENTS_PER_START, ITERATIONS = 36, 80, 200
AT_DRAWS = 4
"""Further starts, at draws: the modes that the draws lie around are among those found."""
WORK = 4e8
"""Numbers computed in the search, at single positions: some seconds."""


LINE = np.sinh(np.linspace(-math.asinh(60.0), math.asinh(60.0), 161))
"""Standard deviations of the draws, along each coordinate: closer near them, to 60 away."""
PRIOR_DRAWS, PRIOR_POINTS, MOST_LINES, DIP = 64, 80, 12, 0.5
LINE_WORK = 1e10


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


def find_modes(
    potential: Potential, u: np.ndarray, seed: int = 0, known: Sequence[Mode] = ()
) -> list[Mode]:
    """Distinct modes reached from starts at and around the draws u (S, D), the origin and the prior, and
    from bumps of the density along each coordinate; after those that are known.
    """
    rng = np.random.default_rng(seed)
    climb = Climb(potential)
    found = list(known)
    starts = np.concatenate([_starts(potential, u, rng), line_starts(potential, u, seed)])
    for start in starts:
        top = climb.mode_at(climb.from_point(start, ITERATIONS)[-1])
        if top is None or not math.isfinite(top.log_mass):
            continue
        top = _labelled(climb, top)
        mode = _as_mode(top, log_labellings(potential.model))
        if not any(other.distance(mode.center[None])[0] < 1.0 for other in found):
            found.append(mode)
    return found


def reached(potential: Potential, modes: Sequence[Mode], u: np.ndarray) -> float:
    """The share of climbs from draws u (S, D) that end at one of these modes."""
    climb = Climb(potential)
    ends = [climb.mode_at(climb.from_point(start, ITERATIONS)[-1]) for start in u]
    tops = [_as_mode(_labelled(climb, top), 0.0).center[None] for top in ends if top is not None]
    known = [any(mode.distance(top)[0] < 1.0 for mode in modes) for top in tops]
    return sum(known) / len(ends)


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
    return np.concatenate([u[:AT_DRAWS], around[:third], origin[:third], prior[:third]])


def line_starts(potential: Potential, u: np.ndarray, seed: int) -> np.ndarray:
    """Bumps of log p along each coordinate through the mean of the draws u (S, D): (n, D), the highest.

    A narrow mode among wide ones has a small basin in many dimensions, which no random start may hit;
    along a coordinate that leads to it, it is a bump with a valley before it.
    """
    D = u.shape[1]
    middle, spread = u.mean(0), np.maximum(u.std(0), 1e-300)
    if D * len(LINE) > LINE_WORK / potential.cost or not potential.vectorised:
        return np.zeros((0, D))
    prior = potential.prior_positions(PRIOR_DRAWS, seed)
    steps = np.sort(
        np.concatenate([
            np.broadcast_to(LINE, (D, len(LINE))),
            np.linspace(prior.min(0), prior.max(0), PRIOR_POINTS).T / spread[:, None]
            - (middle / spread)[:, None],
        ], axis=1), axis=1,
    )  # fmt: skip
    points = np.repeat(middle[None], D * steps.shape[1], axis=0)
    columns = np.repeat(np.arange(D), steps.shape[1])
    points[np.arange(len(points)), columns] += (steps * spread[:, None]).reshape(-1)
    height = log_density(potential, points).reshape(steps.shape)
    found: list[tuple[float, np.ndarray]] = []
    for column in range(D):
        for place in _bumps(steps[column], height[column]):
            found.append((float(height[column, place]), points[column * steps.shape[1] + place]))
    found.sort(key=lambda one: one[0], reverse=True)
    return np.array([point for _, point in found[:MOST_LINES]]).reshape(-1, D)


def _bumps(steps: np.ndarray, height: np.ndarray) -> list[int]:
    """Local maxima of a line with a dip of half a nat and more between them and its middle, at 0."""
    middle = int(np.argmin(np.abs(steps)))
    found: list[int] = []
    inside = (height[1:-1] > height[:-2]) & (height[1:-1] >= height[2:])
    for place in map(int, np.flatnonzero(inside) + 1):
        between = height[min(place, middle) : max(place, middle) + 1]
        if np.isfinite(height[place]) and between.min() < height[place] - DIP:
            found.append(place)
    return found


def log_density(potential: Potential, u: np.ndarray) -> np.ndarray:
    """log p(x, u), (S,), at u (S, D); -inf where it is not a number."""
    position = torch.as_tensor(u, dtype=potential.dtype, device=potential.device)
    log_joint, log_det = potential(position)
    value = (log_joint + log_det).double().cpu().numpy()
    return np.where(np.isnan(value) | np.isposinf(value), -np.inf, value)


def _as_mode(top: Start, log_copies: float) -> Mode:
    center, factor = (t.double().cpu().numpy() for t in (top.center, top.factor))
    return Mode(center, factor, top.log_mass + log_copies)


def _labelled(climb: Climb, top: Start) -> Start:
    """The copy of this mode whose components are in the model's order."""
    center = canonical_positions(climb.potential, top.center[None])[0]
    if torch.equal(center, top.center):
        return top
    return climb.mode_at(center.double().cpu().numpy()) or top
