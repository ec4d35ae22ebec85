"""R-hat and effective sample size of draws that come as chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

RHAT_LIMIT = 1.01
ESS_PER_CHAIN = 100
"""Both: Vehtari et al. 2021, "Rank-normalization, folding, and localization"."""


def chains_of(tree: xr.DataTree) -> int:
    """The number of chains of the posterior group."""
    return int(tree["posterior"].sizes.get("chain", 1))


def sampler_convergence(tree: xr.DataTree) -> tuple[bool, str]:
    """Whether chains agree and did not diverge, and in words what they did."""
    from arviz_stats import ess, rhat

    posterior = tree["posterior"].to_dataset()
    worst = max(float(np.max(v)) for v in rhat(posterior).data_vars.values())
    least = min(float(np.min(v)) for v in ess(posterior).data_vars.values())
    stats = tree.children.get("sample_stats")
    diverged = 0
    if stats is not None and "diverging" in stats.data_vars:
        diverged = int(stats["diverging"].values.sum())
    good = worst <= RHAT_LIMIT and least >= ESS_PER_CHAIN * chains_of(tree) and diverged == 0
    words = (
        f"R-hat at most {worst:.3f}, effective draws at least {least:.0f}, {diverged} divergences."
    )
    return good, words


def effective_draws(tree: xr.DataTree) -> float:
    """The smallest ESS over marginals of chains; the number of draws where there is one chain."""
    from arviz_stats import ess

    posterior = tree["posterior"]
    if chains_of(tree) == 1:
        return float(posterior.sizes["draw"])
    sizes = ess(posterior.to_dataset()).data_vars.values()
    return min(float(np.nanmin(v)) for v in sizes)
