r"""Importance-weighted moment matching: draws of q moved to where the posterior is.

With draws u_s of q and their smoothed weights w_s (`psis`), an affine map T with T(u) = M u + b gives
draws T(u_s) the weighted moments: their mean; mean and marginal variances; mean and covariance. The moved
draws have the density q(T^{-1} v) / |det M|, so that their weights are

.. math:: w_s \propto \frac{p(x, T(u_s))\, |\det M|}{q(u_s)}.

A map is taken where it lowers k-hat, and the next one is found from the moved draws. Where that is not
enough, the draws are split: every other one is moved and the rest stay, and all are weighted by the
density of the mixture,

.. math:: r(v) = \tfrac12 q(v) + \tfrac12 q(T^{-1} v) / |\det M|,

which has the tails of both: w = p / r is at most 2 p / q_T, so that its k-hat is low wherever that of the
moved draws is, but for mass that they leave out and the draws as they came have seen.

Source: Paananen, Piironen, Bürkner and Vehtari 2021, "Implicitly adaptive importance sampling".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guidebook.diagnostics.numerics.psis import Importance, khat_limit, khat_of_moment, psis

ENOUGH, ENOUGH_DRAWS = 0.5, 0.5
"""No further map is looked for where k-hat is below the first (raw importance sampling has then finite
variance) and so large a share of the draws is effective."""
MOST_ROUNDS = 30
"""Evaluations of log p at all draws; two to six are usual."""
DRAWS_PER_DIMENSION = 10
"""As many draws for every dimension are needed for a covariance."""
MOST_COLUMNS = 40

MOMENTS = (
    "mean", "mean and variances", "mean and covariance", "mean and covariance by gradients",
)  # fmt: skip

Density = Callable[[np.ndarray], np.ndarray]
"""Positions (S, D) on the unconstrained scale to log densities (S,)."""


@dataclass(frozen=True)
class Affine:
    """T(u) = M u + b of rows u (S, D): `matrix` (D, D), `shift` (D,)."""

    matrix: np.ndarray
    shift: np.ndarray

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return u @ self.matrix.T + self.shift

    def inverse(self, v: np.ndarray) -> np.ndarray:
        """T^{-1}(v), (S, D)."""
        return np.linalg.solve(self.matrix, (v - self.shift).T).T

    @property
    def log_det(self) -> float:
        """log |det M|."""
        return float(np.linalg.slogdet(self.matrix)[1])

    def after(self, first: Affine) -> Affine:
        """The map that does `first` and then this one."""
        return Affine(self.matrix @ first.matrix, self(first.shift[None])[0])


def identity(dimension: int) -> Affine:
    """The map that leaves draws where they are."""
    return Affine(np.eye(dimension), np.zeros(dimension))


@dataclass(frozen=True)
class Matching:
    """What was found: the maps that the draws go through in turns, and what they did.

    Attributes:
        maps: one, or the identity and one (a split). steps: the moments that were matched, in order.
        khat_before, khat: of the draws as they came, and of the moved ones (those that the maps were
            found from: fresh draws have another).
        together: k-hat of moved draws and draws as they came, half of each: high where the moved ones
            leave out what the others saw, as those that shrink into a peak do. Infinite without log q.
        rounds: evaluations of log p at all draws.
    """

    maps: tuple[Affine, ...]
    steps: tuple[str, ...]
    khat_before: float
    khat: float
    together: float
    rounds: int

    @property
    def words(self) -> str:
        """The richest moments that were matched, and in how many steps."""
        richest = max(self.steps, key=MOMENTS.index)
        split = ", of half of the draws" if len(self.maps) > 1 else ""
        return f"{richest}{split}, in {len(self.steps)} step{'s' if len(self.steps) > 1 else ''}"


def moved(maps: Sequence[Affine], u: np.ndarray) -> np.ndarray:
    """The draws u (S, D), each through one of the maps in turns."""
    v = np.empty_like(u)
    for k, one in enumerate(maps):
        v[k :: len(maps)] = one(u[k :: len(maps)])
    return v


def log_mixture(
    maps: Sequence[Affine], log_q: Density, v: np.ndarray, known: np.ndarray | None = None
) -> np.ndarray:
    """log r(v) (S,): the density of draws of q that go through the maps in turns, at v (S, D).

    Arguments:
        known: log q (S,) of the draws that became v by `moved`, so that every map but the own one of each
            draw is inverted alone.
    """
    parts = np.empty((len(maps), len(v)))
    for k, one in enumerate(maps):
        fresh = np.ones(len(v), bool)
        if known is not None:
            fresh[k :: len(maps)] = False
            parts[k, ~fresh] = known[~fresh]
        if fresh.any():
            parts[k, fresh] = log_q(one.inverse(v[fresh]))
        parts[k] -= one.log_det
    total: np.ndarray = np.logaddexp.reduce(parts) - math.log(len(maps))
    return total


def match(
    log_p: Density,
    u: np.ndarray,
    log_ratio: np.ndarray,
    log_q: Density | None = None,
    first: Affine | None = None,
    fresh: int | None = None,
) -> Matching | None:
    """Moves draws u (S, D) with log ratios log p - log q (S,) until their weights can be used.

    Arguments:
        log_p: log p(x, u) on the unconstrained scale, at fresh positions.
        log_q: log q(u) at fresh positions; without it draws are neither split nor looked at together.
        first: a map to the moments that the gradients at the draws point at, tried before any other: in
            many dimensions one draw may hold all the weight, and weighted moments are then worth nothing.
        fresh: evaluations of log q that are affordable. Where they are fewer than draws, the draws are
            not split, and as many as it says are looked at together.

    None where there are no weights to begin with, or no map lowers k-hat.
    """
    best = psis(log_ratio)
    if best is None:
        return None
    before, known_q = best.khat, log_p(u) - log_ratio
    whole, v, ratio, rounds = identity(u.shape[1]), u, log_ratio, 1
    steps: tuple[str, ...] = ()
    while not _enough(best) and rounds < MOST_ROUNDS:
        steps_now = _steps(v, best.weights)
        # covariances that can be estimated come first; few weights give but a mean
        steps_now = steps_now[::-1] if best.khat < ENOUGH else steps_now
        if first is not None and rounds == 1:
            steps_now = [(MOMENTS[3], first), *steps_now]
        for name, step in steps_now:
            trial = step.after(whole)
            at = trial(u)
            found_ratio = log_p(at) - known_q  # up to log |det M|, the same for every draw
            rounds += 1
            found = psis(found_ratio)
            if found is not None and found.khat < best.khat:
                whole, v, ratio, best, steps = trial, at, found_ratio, found, (*steps, name)
                break
        else:
            break
    if not steps:
        return None
    if log_q is None:
        return Matching((whole,), steps, before, best.khat, math.inf, rounds)
    maps = (identity(u.shape[1]), whole)
    size = len(u) if fresh is None else min(fresh, len(u))
    half = moved(maps, u[:size])
    half_ratio = log_p(half) - log_mixture(maps, log_q, half, known_q[:size])
    found = psis(half_ratio)
    together = math.inf if found is None else found.khat
    fine = size < len(u) or (_enough(best) and _worst_moment(ratio, v) < khat_limit(len(u)))
    if fine or found is None or _merit(found, half_ratio, half) <= _merit(best, ratio, v):
        return Matching((whole,), steps, before, best.khat, together, rounds + 1)
    return Matching(maps, steps, before, found.khat, together, rounds + 1)


def _merit(found: Importance, log_ratio: np.ndarray, v: np.ndarray) -> float:
    """Effective draws of weights that can be used; of others -k-hat: more is better."""
    worst = max(found.khat, _worst_moment(log_ratio, v))
    return found.ess if worst < khat_limit(len(v)) else -worst


def between(
    mean: np.ndarray, covariance: np.ndarray, target: np.ndarray, wanted: np.ndarray
) -> Affine | None:
    """The map from a mean (D,) and covariance (D, D) to others, by Cholesky factors; None where it has
    none, because a covariance is singular.
    """
    try:
        factor, inner = np.linalg.cholesky(wanted), np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    matrix = np.linalg.solve(inner.T, factor.T).T
    return Affine(matrix, target - matrix @ mean)


def _enough(found: Importance) -> bool:
    return found.khat < ENOUGH and found.ess >= ENOUGH_DRAWS * len(found.weights)


def _worst_moment(log_ratio: np.ndarray, v: np.ndarray) -> float:
    """The largest k-hat of second moments over coordinates."""
    khats = [khat_of_moment(log_ratio, column) for column in v[:, :MOST_COLUMNS].T]
    return max(khats) if not np.isnan(khats).any() else math.inf


def _steps(v: np.ndarray, weights: np.ndarray) -> list[tuple[str, Affine]]:
    """Maps to the weighted moments of draws v (S, D), the simplest first."""
    size, dimension = v.shape
    mean, target = v.mean(0), weights @ v
    variance = np.square(v - mean).mean(0)
    wanted = weights @ np.square(v - target)
    steps = [(MOMENTS[0], Affine(np.eye(dimension), target - mean))]
    if (variance > 0).all() and (wanted > 0).all():
        scale = np.sqrt(wanted / variance)
        steps.append((MOMENTS[1], Affine(np.diag(scale), target - scale * mean)))
    if size >= DRAWS_PER_DIMENSION * dimension and dimension > 1:
        own = (v - mean).T @ (v - mean) / size
        theirs = (weights[:, None] * (v - target)).T @ (v - target)
        whole = between(mean, own, target, theirs)
        if whole is not None:  # else few draws carry the weights
            steps.append((MOMENTS[2], whole))
    return steps
