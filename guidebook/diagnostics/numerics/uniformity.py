r"""Are N numbers p_1, ..., p_N uniform on (0, 1)? Three exact tests, and the band of their ECDF.

**Band.** With F_N the empirical distribution function at the grid points z_k, the smallest tail probability

.. math:: T = \min_k \min\{P(C_k \le N F_N(z_k)),\ P(C_k \ge N F_N(z_k))\}, \quad
    C_k \sim \mathrm{Bin}(N, z_k),

is compared with its own distribution. The counts C_k are a Poisson process of mean N given N points, so the
probability of a path within bounds is a product of truncated convolutions, without simulation. The band of
a level is that of all paths whose T is above the quantile of T.

**Asymmetry.** The largest difference between the distribution functions of p and of 1 - p,

.. math:: D = \max_x \big| \#\{p_i \le x\} - \#\{p_i \ge 1 - x\} \big| / N ,

is max |S_k| / N of the walk S_k of the signs of p - 1/2, those farthest from 1/2 first. Under symmetry it
is a simple random walk, which gives the exact distribution. (That of two independent samples, the usual
Kolmogorov-Smirnov table, would reject about twice as often as it says: 1 - p is no second sample.)

**Width.** |2 p - 1| is uniform where p is, larger where p lies at the ends; by Kolmogorov's test.

Sources: Säilynoja, Bürkner and Vehtari 2022, "Graphical test for discrete uniformity and its applications
in goodness-of-fit evaluation and multiple sample comparison" (the band); Yao, Vehtari, Simpson and Gelman
2018, "Yes, but did it work? Evaluating variational inference" (asymmetry as bias); Butler 1969, "A test
for symmetry using the sample distribution function".
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, kstest, poisson

MOST_POINTS, MOST_TAILS = 500, 2_000_000
"""Of the grid on which an ECDF is held against its band; points times numbers."""
SAME = 1e-9
"""Tail probabilities of mirrored points are equal, and computed equal up to such a share."""


class Uniformity(NamedTuple):
    """p-values of the three tests, and the signed direction: mean of p - 1/2, of |2 p - 1| - 1/2."""

    band: float
    asymmetry: float
    width: float
    tilt: float
    ends: float

    @property
    def least(self) -> float:
        """The smallest of the three p-values."""
        return min(self.band, self.asymmetry, self.width)


def uniformity(p: np.ndarray) -> Uniformity:
    """The tests of p (N,), each number in (0, 1)."""
    folded = np.abs(2 * p - 1)
    return Uniformity(
        band_test(p),
        asymmetry_test(p),
        float(kstest(folded, "uniform").pvalue),
        float(p.mean() - 0.5),
        float(folded.mean() - 0.5),
    )


def grid(count: int) -> np.ndarray:
    """The points k / K, k = 1..K - 1, at which N numbers are counted: K = N, 500 at most, fewer for many."""
    points = max(2, min(count, MOST_POINTS, MOST_TAILS // count))
    return np.arange(1, points) / points


def counts(p: np.ndarray) -> np.ndarray:
    """How many of p (N,) are at most each point of the grid."""
    return np.searchsorted(np.sort(p), grid(len(p)), side="right")


def band_test(p: np.ndarray) -> float:
    """The probability that N uniform numbers leave narrower bounds than p does somewhere."""
    low, high = _tails(len(p))
    seen = counts(p)
    places = np.arange(len(seen))
    worst = float(np.minimum(low[places, seen], high[places, seen]).min())
    return max(0.0, 1 - _inside(len(p), worst))


@lru_cache(maxsize=64)
def band(count: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest share of N numbers at or below each point of the grid, at all points at once
    with probability at least `level`.
    """
    # logs of tail probabilities: the first by Bonferroni's inequality is wide enough, the second is not
    above, below = math.log((1 - level) / (2 * len(grid(count)))), math.log(1 - level)
    for _ in range(30):
        middle = 0.5 * (above + below)
        if _inside(count, math.exp(middle)) >= level:
            above = middle
        else:
            below = middle
    low, high = _bounds(count, math.exp(above))
    return low / count, high / count


def _bounds(count: int, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each point the lowest and the highest count both of whose tails are above `tail`."""
    low, high = _tails(count)
    tail *= 1 + SAME
    return (low > tail).argmax(1), count - (high > tail)[:, ::-1].argmax(1)


@lru_cache(maxsize=8)
def _tails(count: int) -> tuple[np.ndarray, np.ndarray]:
    """P(C <= c) and P(C >= c) at every point and count, (K - 1, N + 1)."""
    every, points = np.arange(count + 1), grid(count)[:, None]
    return binom.cdf(every, count, points), binom.sf(every - 1, count, points)


def _inside(count: int, tail: float) -> float:
    """The probability that the counts of N uniform numbers have both tails above `tail` at every point."""
    low, high = _bounds(count, tail)
    if bool((low > high).any()):
        return 0.0
    mean = count / (len(low) + 1)
    increments = poisson.pmf(np.arange(count + 1), mean)
    increments = increments[: int(np.flatnonzero(increments > 1e-300)[-1]) + 1]
    start, alive = (
        0,
        np.ones(1),
    )  # probability of each count from `start` on, all bounds kept so far
    for least, most in zip(low, high, strict=True):
        reached = np.convolve(alive, increments)
        alive = np.zeros(most - least + 1)
        last = min(most, start + len(reached) - 1)
        alive[: last - least + 1] = reached[least - start : last - start + 1]
        start = int(least)
    missing = count - start - np.arange(len(alive))  # what the last interval must hold
    total = float(alive @ poisson.pmf(missing, mean))
    return total / float(poisson.pmf(count, count))


def asymmetry_test(p: np.ndarray) -> float:
    """The probability that a random walk of N steps reaches as far as the signs of p - 1/2 do."""
    signs = np.sign(p - 0.5)[np.argsort(-np.abs(p - 0.5), kind="stable")]
    return reaching(len(p), int(np.abs(np.cumsum(signs)).max()))


def reaching(steps: int, far: int) -> float:
    """P(max_k |S_k| >= far) of a simple random walk of so many steps."""
    if far <= 1:
        return 1.0
    alive = np.zeros(2 * far + 1)  # the ends absorb
    alive[far] = 1.0
    for _ in range(steps):
        alive[1:-1] = 0.5 * (alive[:-2] + alive[2:])
    return float(max(0.0, 1 - alive.sum()))
