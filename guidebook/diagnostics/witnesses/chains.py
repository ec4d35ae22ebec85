"""R-hat and effective sample size of draws that come as chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from guidebook.diagnostics.witnesses.testimony import _attribute
from guidebook.inference.fits.chains import agree
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status

if TYPE_CHECKING:
    import xarray as xr


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
    good = agree(worst, least, chains_of(tree)) and diverged == 0
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


# the witnesses -----------------------------------------------------------------------------------


def _convergence(
    tree: xr.DataTree, fit: Fit | None, absent: list[str]
) -> tuple[bool, bool | None, str, str]:
    """(is a sampler, has converged, status in words, why nothing of it may be used)."""
    stats = tree.children.get("sample_stats")
    has_q = stats is not None and "log_q" in stats.data_vars
    name = fit.status.name if fit else _attribute(tree, "status")
    status = Status[name] if name in Status.__members__ else None
    kind = _attribute(tree, "kind")
    sampler = kind == "chains" or (not kind and not has_q and chains_of(tree) > 1)
    if sampler:
        if status is not None:
            return True, status.good, status.value, ""
        good, words = sampler_convergence(tree)
        return True, good, words, ""
    if status is None:
        absent.append("convergence of the fit (the file does not say how it ended)")
        return False, None, "", ""
    vetoes = (Status.RESTARTS_DISAGREE, Status.STOPPED_BY_NAN, Status.NO_MODE)
    vetoed = status.value if status in vetoes else ""
    return False, status.good, status.value, vetoed
