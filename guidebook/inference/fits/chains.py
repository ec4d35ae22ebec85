"""NEEDS A DOCSTRING: guidebook.inference.fits.chains."""

from __future__ import annotations

import math

import numpy as np

RHAT_LIMIT = 1.01


ESS_PER_CHAIN = 100


def convergence(u: np.ndarray, discrete: bool = False) -> tuple[float, float]:
    """The largest rank R-hat and the smallest of bulk and tail ESS over the coordinates.

    Of discrete values, which have no tails, the bulk alone, and a coordinate that has the same value
    in all draws of all chains is left out.
    """
    from arviz_stats.base import array_stats

    rhats, sizes = [], []
    for column in range(u.shape[-1]):
        chain = u[..., column]
        if discrete and not np.ptp(chain) > 0:
            continue
        # folded ranks of two values are all one: nothing to compare
        method = "split" if discrete else "rank"
        rhats.append(float(array_stats.rhat(chain, chain_axis=0, draw_axis=1, method=method)))
        sizes.append(float(array_stats.ess(chain, chain_axis=0, draw_axis=1, method="bulk")))
        if discrete:
            continue
        tail = array_stats.ess(chain, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
        sizes.append(float(tail))
    worst = max(rhats, default=1.0)
    return worst if math.isfinite(worst) else math.inf, min(sizes, default=float(u[..., 0].size))
