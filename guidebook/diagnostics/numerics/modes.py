"""Where are the modes of log p(x, u)?

Optimisers started far from the draws, around the origin, from the prior and from bumps of the density
along lines find the modes around them; each has a mass by Laplace's method.

Source: Yao, Vehtari and Gelman 2022, "Stacking for non-mixing Bayesian computations" (why diagnostics
at the draws do not see a mode that they never visit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from guidebook.programs.labels import canonical_positions, log_labellings
from guidebook.programs.potential import Potential
from guidebook.programs.start.gaussian import Start
from guidebook.programs.start.mode import Climb

STARTS = {"full": 36, "quick": 9}
"""By the effort; beside those at draws and on lines."""
GRADIENTS_PER_START, ITERATIONS = 80, 60
PATIENCE = 10
"""Climbs without a mode after which there is taken to be none."""
TOGETHER, LEAP, ARRIVED = 60, 3.0, 1e-3
"""Steps that all starts make at once at most, each of at most so many standard deviations a coordinate;
until no step is longer than the last."""
AT_DRAWS = 4
"""Further starts, at draws: the modes that the draws lie around are among those found."""
FIRST_STEP = 0.1
AT_MODE = 0.5
"""Standard deviations of a mode: a climb that ends so near has ended there."""
WORK = 4e8
"""Numbers computed in the search, at single positions: some seconds."""


LINE = np.sinh(np.linspace(-math.asinh(60.0), math.asinh(60.0), 161))
"""Standard deviations of the draws, along each coordinate: closer near them, to 60 away."""
PRIOR_DRAWS, PRIOR_POINTS, MOST_LINES, DIP = 64, 80, 12, 0.5
LINE_WORK = 1e10
RANDOM_LINES = 128
"""Lines of random directions, on which a narrow mode is a bump where they come near enough."""


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
    potential: Potential,
    u: np.ndarray,
    seed: int = 0,
    known: Sequence[Mode] = (),
    starts: int = STARTS["full"],
) -> list[Mode]:
    """Distinct modes reached from `starts` at and around the draws u (S, D), the origin and the prior, and
    from bumps of the density along lines; after those that are known, whose search began at the origin and
    from the prior.
    """
    rng = np.random.default_rng(seed)
    climb = Climb(potential)
    found = list(known)
    begin = np.concatenate([
        _starts(potential, u, rng, starts, not found), line_starts(potential, u, seed),
        random_line_starts(potential, u, seed),
    ])  # fmt: skip
    together = False
    for i in range(len(begin)):
        if i == PATIENCE and not found:  # a density without a maximum, such as a funnel's
            break
        if found and not together:
            begin[i:], together = _ascended(potential, begin[i:], found[0].factor), True
        metric = found[0].factor if found else np.maximum(u.std(0), 1e-300)
        mode = _climbed(climb, begin[i], found, metric, log_labellings(potential.model))
        if mode is None or not math.isfinite(mode.log_mass):
            continue
        if not any(other.distance(mode.center[None])[0] < 1.0 for other in found):
            found.append(mode)
    return found


def _ascended(potential: Potential, starts: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The starts (n, D) moved uphill all at once, by the gradient in the metric of a mode's covariance.

    Around a mode of that covariance a step is Newton's, and most starts are there after a few; a step
    that does not lead up is taken again a third as long. Where they go is climbed on from.
    """
    if not potential.vectorised or not len(starts):
        return starts
    u, L = (torch.as_tensor(a, dtype=potential.dtype, device=potential.device)
            for a in (starts, np.diag(factor) if factor.ndim == 1 else factor))  # fmt: skip
    try:
        height, slope = potential.value_and_grad(u)
        rate = torch.ones_like(height)
        for _ in range(TOGETHER):
            white = slope @ L
            length = white.norm(dim=1) / math.sqrt(u.shape[1])
            scale = rate * (LEAP / length).clamp(max=1.0)
            if float((scale * length).nan_to_num().max()) < ARRIVED:
                break
            white = white * scale[:, None]
            trial = u + white @ L.T
            up, steep = potential.value_and_grad(trial)
            better = (up > height) & up.isfinite() & steep.isfinite().all(1)
            u, slope = (torch.where(better[:, None], a, b) for a, b in ((trial, u), (steep, slope)))
            height = torch.where(better, up, height)
            rate = torch.where(better, (2 * rate).clamp(max=1.0), rate / 3)
    except RuntimeError:  # a matrix that is not positive definite so far out
        return starts
    moved = u.double().cpu().numpy()
    return np.where(np.isfinite(moved).all(1, keepdims=True), moved, starts)


def reached(potential: Potential, modes: Sequence[Mode], u: np.ndarray) -> float:
    """The share of climbs from draws u (S, D) that end at one of these modes."""
    climb = Climb(potential)
    tops = [_climbed(climb, start, modes, modes[0].factor, 0.0) for start in u]
    known = [
        top is not None and any(mode.distance(top.center[None])[0] < 1.0 for mode in modes)
        for top in tops
    ]
    return sum(known) / len(tops)


def _climbed(
    climb: Climb, start: np.ndarray, known: Sequence[Mode], metric: np.ndarray, log_copies: float
) -> Mode | None:
    """The mode above a start; one of those known where the climb ends at it. None where there is none.

    The unit of the climb is a tenth of the standard deviations of its `metric` (those of the first mode
    that was found, before that of the draws), which the first step does not exceed: it must not leap out
    of a narrower mode's basin.
    """
    there = _at(known, start)
    if there is not None:
        return there
    end = climb.from_point(start, ITERATIONS, FIRST_STEP * metric, partial(_at, known))[-1]
    there = _at(known, end)
    if there is not None:
        return there
    top = climb.mode_at(end)
    return None if top is None else _as_mode(_labelled(climb, top), log_copies)


def _at(known: Sequence[Mode], point: np.ndarray) -> Mode | None:
    """The known mode that a climb has come to."""
    return next((mode for mode in known if mode.distance(point[None])[0] < AT_MODE), None)


def affordable(potential: Potential, most: int) -> int:
    """How many starts of `most` are made, besides those at draws and on lines."""
    return int(np.clip(WORK / (potential.cost * GRADIENTS_PER_START), 4, most))


def _starts(
    potential: Potential,
    u: np.ndarray,
    rng: np.random.Generator,
    most: int = STARTS["full"],
    everywhere: bool = True,
) -> np.ndarray:
    """Starts (n, D), at most so many beside those at draws, at several distances: modes lie at the scale
    of the draws and, where they are looked for everywhere, of 1, or of the prior.
    """
    count = affordable(potential, most)
    middle, spread = u.mean(0), u.std(0)
    noise = rng.standard_normal((count, u.shape[1]))
    distance = np.array([3.0, 6.0, 12.0, 25.0])[np.arange(count) % 4, None]
    around = middle + distance * spread * noise / np.sqrt(np.square(noise).mean(1, keepdims=True))
    third = count // 3
    if not everywhere:
        return np.concatenate([u[:AT_DRAWS], around[:third]])
    origin = (
        rng.standard_normal((count, u.shape[1])) * np.array([2.0, 5.0])[np.arange(count) % 2, None]
    )
    prior = potential.prior_positions(count, int(rng.integers(2**31)))
    # in turn, so that the first ones are of every kind
    others = np.stack([around[:third], origin[:third], prior[:third]], axis=1)
    return np.concatenate([u[:AT_DRAWS], others.reshape(-1, u.shape[1])])


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
    lines = np.repeat(middle[None], D * steps.shape[1], axis=0)
    columns = np.repeat(np.arange(D), steps.shape[1])
    lines[np.arange(len(lines)), columns] += (steps * spread[:, None]).reshape(-1)
    return _highest_bumps(potential, lines.reshape(D, -1, D), steps)


def random_line_starts(potential: Potential, u: np.ndarray, seed: int) -> np.ndarray:
    """The same along lines of directions that are uniform where the draws' covariance is the unit matrix.

    The density rises towards a mode narrower than the others only in a cone of directions: where one of the
    lines passes through it, it is a bump.
    """
    D, count = u.shape[1], min(RANDOM_LINES, int(LINE_WORK / potential.cost) // len(LINE))
    if not count or not potential.vectorised:
        return np.zeros((0, D))
    v = np.random.default_rng(seed).standard_normal((count, D))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    try:
        v = v @ np.linalg.cholesky(np.atleast_2d(np.cov(u, rowvar=False))).T
    except np.linalg.LinAlgError:
        v = v * u.std(0)
    lines = u.mean(0) + LINE[:, None] * v[:, None]
    return _highest_bumps(potential, lines, np.broadcast_to(LINE, lines.shape[:2]))


def _highest_bumps(potential: Potential, lines: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Of the bumps on lines (n, T, D), at distances (n, T) from their middle, the highest: (m, D)."""
    D = lines.shape[2]
    height = log_density(potential, lines.reshape(-1, D)).reshape(steps.shape)
    found: list[tuple[float, np.ndarray]] = []
    for line, distance, value in zip(lines, steps, height, strict=True):
        found += [(float(value[place]), line[place]) for place in _bumps(distance, value)]
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
