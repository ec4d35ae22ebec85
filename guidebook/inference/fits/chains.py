"""Whether the chains of a sampler agree: rank R-hat and effective sample sizes.

Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, "Rank-normalization, folding, and
localization: an improved R-hat"; its sections 4 and 5 recommend the limits.
"""

from __future__ import annotations

import math

import numpy as np

RHAT_LIMIT = 1.01
"""The largest R-hat of chains that agree."""

ESS_PER_CHAIN = 100
"""The smallest effective sample size per chain, below which R-hat and ESS are themselves unsure."""


def agree(rhat: float, ess: float, chains: int) -> bool:
    """Whether both are within their limits; NaN is not."""
    return rhat <= RHAT_LIMIT and ess >= ESS_PER_CHAIN * chains


def convergence(u: np.ndarray, discrete: bool = False) -> tuple[float, float]:
    """The largest rank R-hat and the smallest of bulk and tail ESS over the coordinates.

    Of u (chain, draw, D), `discrete` or not. Discrete values have no tails, so that the bulk alone
    counts, and a coordinate that has the same value in all draws of all chains is left out.
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
