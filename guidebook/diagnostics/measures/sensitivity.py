r"""How much the posterior changes where the prior, or the likelihood, counts a little more or less.

With the prior raised to a power alpha near 1,

.. math:: p_\alpha(z \mid y) \propto p(z)^\alpha\, p(y \mid z), \qquad w_s \propto p(z_s)^{\alpha - 1},

the sensitivity of a marginal is the derivative of the cumulative Jensen-Shannon distance between it and
the unchanged one by log2 alpha, at alpha = 1 (of the likelihood the same). From 0.05 on, the threshold of
the source, it is called sensitive. A posterior that is sensitive to both may have a prior that contradicts
the data; to the prior alone, a strong prior or weak data.

Source: Kallioinen, Paananen, Bürkner and Vehtari 2024, "Detecting and diagnosing prior and likelihood
sensitivity with power-scaling".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from guidebook.diagnostics.measures.identities import prior_and_likelihood
from guidebook.inference.fits.fit import Fit

if TYPE_CHECKING:
    import xarray as xr

SENSITIVE = 0.05
MOST_MARGINALS = 500
PARTS = ("prior", "likelihood")
ROUNDED = 1e-10
"""Relatively, what the same density differs by from draw to draw."""


@dataclass(frozen=True)
class Sensitivity:
    """Of every scalar marginal (M): its name, and its sensitivity to prior and to likelihood (M,)."""

    names: tuple[str, ...]
    prior: np.ndarray
    likelihood: np.ndarray

    @property
    def conflict(self) -> np.ndarray:
        """(M,), sensitive to both: prior and data may contradict each other."""
        return (self.prior >= SENSITIVE) & (self.likelihood >= SENSITIVE)

    @property
    def by_prior(self) -> np.ndarray:
        """(M,), sensitive to the prior alone: it is strong, or the data say little."""
        return (self.prior >= SENSITIVE) & (self.likelihood < SENSITIVE)


def sensitivity(fit: Fit, tree: xr.DataTree) -> Sensitivity | None:
    """The sensitivities of equally weighted draws (1, S) of a fit, with their positions.

    To a part of the density that is the same at all draws it is 0. None where they do not apply: discrete
    sites that are summed out, more than 500 marginals, or both parts are the same.
    """
    import arviz_base
    import xarray as xr
    from arviz_stats import psense

    posterior = tree["posterior"].to_dataset()
    marginals = sum(v.size for v in posterior.data_vars.values()) // posterior.sizes["draw"]
    if not fit.approximation.has_joint or "unconstrained" not in tree.children:
        return None
    potential = fit.potential
    if potential.plate_nesting is not None or not potential.observed or marginals > MOST_MARGINALS:
        return None
    position = tree["unconstrained"]["position"].values[0]
    u = torch.as_tensor(position, dtype=potential.dtype, device=potential.device)
    latent = {site.name for site in potential.sites}
    parts = potential.replay(
        "prior and likelihood", lambda trace: prior_and_likelihood(trace, latent), u
    )
    given = xr.DataTree.from_dict({"/posterior": posterior})
    moving = []
    for part in PARTS:
        values = parts[part].double().cpu().numpy()[None]
        given[f"log_{part}"] = xr.DataTree(arviz_base.dict_to_dataset({"all": values}))
        if np.ptp(values) > ROUNDED * (1 + np.abs(values).max()):
            moving.append(part)
    if not moving:
        return None
    known = {part: psense(given, group=part) for part in moving}
    found = [known.get(part, xr.zeros_like(known[moving[0]])) for part in PARTS]
    table = arviz_base.dataset_to_dataframe(
        xr.concat(found, dim="component"), sample_dims=["component"]
    )
    prior, likelihood = table.to_numpy(dtype=float)
    return Sensitivity(tuple(map(str, table.columns)), prior, likelihood)
