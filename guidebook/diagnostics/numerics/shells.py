r"""Mass beyond all draws: the density integrated along straight lines out of them.

A density may have one mode and two scales: a peak that q fits, and a shelf below it that is far wider and
holds as much. There is no second mode to be found, the weights at the draws are even, and short chains stay
in the peak. With m the mean and L L' the covariance of the draws, v_k random directions of length 1 in D
dimensions and S_D the surface of the unit sphere,

.. math:: \log p(x, u) \text{ at } u = m + r L v_k, \qquad
    Z = |L|\, S_D\, \mathrm{mean}_k \int p(x, m + r L v_k)\, r^{D} \, d \log r,

and the same integral of r^2 / D gives the second moment in units of the draws'. What lies at radii
beyond every draw is what the draws miss, with or without weights; its effect on standard deviations is

.. math:: \tfrac12 \log \frac{M_2(r \le R)}{M_2}, \qquad
    M_2 = \int r^2 p \Big/ \int p,

with an error from the spread over directions. Where directions differ so much that few of them hold the
mass, the integral up to R does not give the evidence that the draws themselves bound from below, and
nothing is said. A shelf along few of many directions is seen by no random line; along a coordinate it is
seen by a Gibbs step (`along`), which crosses any distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from guidebook.diagnostics.numerics.psis import weighted_moments

DIRECTIONS, RADII = 32, 160
"""Pairs of opposite directions, and radii along each: some ten thousand densities."""
NEAREST, FARTHEST = 0.02, 1e4
"""Of the radii, in units of the draws' covariance; the first times sqrt D."""
MARGIN = 1.05
"""Times the largest radius of a draw: what is beyond it is beyond all draws."""


class Shells(NamedTuple):
    """Along the lines: log of the integral up to the farthest draw, `log_mass`; the share of the mass
    beyond it, `beyond`; the log of the factor by which standard deviations are too small without that
    mass, `log_ratio`, at most 0, and its standard error.
    """

    log_mass: float
    beyond: float
    log_ratio: float
    log_ratio_se: float


def shells(
    log_p: Callable[[np.ndarray], np.ndarray], u: np.ndarray, seed: int = 0
) -> Shells | None:
    """The density integrated along lines through draws u (S, D); None where it cannot be.

    `log_p`: log p(x, u) at positions (n, D), on the unconstrained scale.
    """
    D = u.shape[1]
    mean, covariance = u.mean(0), np.atleast_2d(np.cov(u, rowvar=False))
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    white = np.linalg.solve(factor, (u - mean).T)
    farthest = MARGIN * float(np.sqrt(np.square(white).sum(0).max()))
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((DIRECTIONS, D))
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    radii = np.exp(np.linspace(math.log(NEAREST * math.sqrt(D)), math.log(FARTHEST), RADII))
    places = mean + radii[:, None, None] * (np.concatenate([half, -half]) @ factor.T)
    value = log_p(places.reshape(-1, D)).reshape(RADII, 2, DIRECTIONS)
    value = np.where(np.isnan(value), -math.inf, value)
    log_w = np.logaddexp(value[:, 0], value[:, 1]) + D * np.log(radii)[:, None]
    top = log_w.max()
    if not math.isfinite(top):
        return None
    w = np.exp(log_w - top)  # (radii, pairs of directions)
    inside = radii <= farthest
    square = np.square(radii)[:, None]
    parts = [w[inside].sum(0), w.sum(0), (square * w)[inside].sum(0), (square * w).sum(0)]
    found = _log_ratio(np.stack(parts))
    constant = (
        top + math.log(math.log(radii[1] / radii[0]) / (2 * DIRECTIONS))
        + math.log(2) + 0.5 * D * math.log(math.pi) - gammaln(0.5 * D)
        + float(np.log(np.diagonal(factor)).sum())
    )  # fmt: skip
    near, total = parts[0].sum(), parts[1].sum()
    return Shells(constant + math.log(max(near, 1e-300)), float(1 - near / total), *found)


def _log_ratio(parts: np.ndarray) -> tuple[float, float]:
    """log of sd inside over sd, from sums (4, K) of mass and second moment inside and in all; jackknife."""

    def ratio(sums: np.ndarray) -> np.ndarray:
        near, total, near2, total2 = np.maximum(sums, 1e-300)
        value: np.ndarray = 0.5 * (np.log(near2 / near) - np.log(total2 / total))
        return value

    whole = parts.sum(1)
    K = parts.shape[1]
    without = ratio(whole[:, None] - parts)
    error = math.sqrt((K - 1) * float(np.var(without)))
    return float(ratio(whole)), error


# along the coordinates ---------------------------------------------------------------------------

PLACES, STEPS, CLOSEST = 256, 64, 1e-3
"""Draws through which lines run along every coordinate; places on either side, and the first of them, in
standard deviations of the draws."""
MOST_LINES = 2048
"""Lines, of as many draws as that allows; fewer than 8 draws are too few."""
FIRST, NOTHING = 16, 0.05
"""Lines that are looked at first along a coordinate; where the mean second moment that they add is below
this share of the variance, the others are left out: a harmful one adds 0.44 of it."""


class Along(NamedTuple):
    """Of one coordinate: the mean share of its conditional distributions that lies beyond all draws, and the
    log of the factor, at most 0, by which the draws' standard deviation is too small without it; its error
    is in it: two standard errors of the added second moment are taken off.
    """

    coordinate: int
    beyond: float
    log_ratio: float


def along(
    log_p: Callable[[np.ndarray], np.ndarray],
    u: np.ndarray,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> Iterator[Along]:
    r"""One Gibbs step of each coordinate from some of the draws u (S, D), on a grid that reaches far.

    The posterior is invariant under it: with t distributed as p(u_j | the other coordinates of a draw),
    t has the posterior's moments. Where some of it lies beyond the farthest draw of coordinate j,

    .. math:: \tfrac12 \log \frac{v_j}{v_j + \mathrm{mean}_s E[(t - m_j)^2;\ t \text{ beyond}]},

    m_j and v_j the mean and variance of the draws. A step along a coordinate crosses any distance; what is
    narrower than a quarter of its distance falls between the places of the grid. With `weights` (S,), which
    sum to 1, draws are taken by them, and m_j and v_j are the weighted ones. Nothing where the lines would be
    too many. Coordinates come in the order of what the first lines add; those of which all lines are needed
    are evaluated as they are asked for.
    """
    start = _starts(u, seed, weights)
    if start is None:
        return
    mean, sd = weighted_moments(u, weights)

    def of_lines(some: np.ndarray, j: int) -> np.ndarray:
        places, w = _outside(log_p, some, u, j, sd[j])
        square = np.square(places[..., j] - mean[j])
        return np.stack([w.sum(1), (w * square).sum(1)])

    first = [of_lines(start[:FIRST], j) for j in range(u.shape[1])]
    added = np.array([found[1].mean() for found in first]) / np.square(sd)
    for j in map(int, np.argsort(-added, kind="stable")):
        found = first[j]
        if len(start) > FIRST and added[j] > NOTHING:
            found = np.concatenate([found, of_lines(start[FIRST:], j)], axis=1)
        error = found[1].std(ddof=1) / math.sqrt(found.shape[1])
        ratio = _too_small(found[1].mean(), error, sd[j])
        yield Along(j, float(found[0].mean()), float(ratio))


def along_in_marginals(
    log_p: Callable[[np.ndarray], np.ndarray],
    marginals: Callable[[np.ndarray], np.ndarray],
    u: np.ndarray,
    own: np.ndarray,
    j: int,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """`log_ratio` (M,) of the marginals z(u) by a Gibbs step of coordinate j alone: what lies far out on the
    unconstrained scale may be near on the model's own.

    `marginals`: z at positions (n, D), (n, M); `own`: those of the draws u (S, D), (S, M).
    """
    start = _starts(u, seed, weights)
    mean, sd = weighted_moments(own, weights)
    if start is None:
        return np.zeros(len(mean))
    width = weighted_moments(u[:, j : j + 1], weights)[1]
    places, w = _outside(log_p, start, u, j, float(width[0]))
    added = np.zeros((len(start), len(mean)))
    for line, (at, share) in enumerate(zip(places, w, strict=True)):
        seen = share > 0
        if seen.any():
            square = np.nan_to_num(np.square(marginals(at[seen]) - mean), posinf=1e300)
            added[line] = share[seen] @ square
    error = added.std(0, ddof=1) / math.sqrt(len(start))
    return _too_small(added.mean(0), error, np.maximum(sd, 1e-300))


def _too_small(added: np.ndarray, error: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """log of the factor by which sds are too small without second moments `added`, less two errors."""
    ratio: np.ndarray = -0.5 * np.log1p(np.maximum(added - 2 * error, 0.0) / np.square(sd))
    return ratio


def _starts(u: np.ndarray, seed: int, weights: np.ndarray | None) -> np.ndarray | None:
    """The draws through which lines run; None where they would be too few."""
    size, D = u.shape
    lines = min(PLACES, MOST_LINES // D, size)
    if lines < 8:
        return None
    rng = np.random.default_rng(seed)
    chosen: np.ndarray = u[rng.choice(size, lines, replace=weights is not None, p=weights)]
    return chosen


def _outside(
    log_p: Callable[[np.ndarray], np.ndarray], start: np.ndarray, u: np.ndarray, j: int, sd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places (lines, T, D) along coordinate j, and p(u_j | the others) there (lines, T) where they lie
    beyond all draws u, else 0.
    """
    away = np.exp(np.linspace(math.log(CLOSEST), math.log(FARTHEST), STEPS))
    steps = np.concatenate([-away[::-1], [0.0], away])
    log_width = np.log(np.concatenate([away[::-1], [2 * CLOSEST], away]))
    log_width[np.arange(len(steps)) != STEPS] += math.log(math.log(away[1] / away[0]))
    places = np.repeat(start[:, None], len(steps), axis=1)
    places[..., j] += sd * steps
    value = log_p(places.reshape(-1, start.shape[1])).reshape(len(start), len(steps)) + log_width
    value = np.where(np.isnan(value), -math.inf, value)
    w = np.exp(value - value.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    low, high = u[:, j].min(), u[:, j].max()
    edge = 0.5 * (MARGIN - 1) * (high - low)
    t = places[..., j]
    return places, w * ((t < low - edge) | (t > high + edge))
