"""A posterior known in closed form, checked on draws rather than believed.

If q(z) = p(z | x), then log p(x, z) - log q(z) = log p(x) at every z: a constant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from guidebook.errors import GuideError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.programs.check import check_pair
from guidebook.programs.data import arguments, as_tensors, check, find_device
from guidebook.programs.labels import log_labellings
from guidebook.programs.owned import copied, working_precision
from guidebook.programs.scope import local_parameters, precision, random_state
from guidebook.programs.sites import latent_sites

DRAWS = 256


def exact(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Fit:
    """A Fit of a guide that is the posterior; notes['log_evidence'] is log p(x).

    Raises:
        GuideError: log p(x, z) - log q(z) varies over draws, so the guide is not the posterior.
        DataError, ModelError, SettingError: as `svi`.
    """
    started = time.perf_counter()
    where = find_device(device, data)
    data = arguments(model, data)
    check(data)
    story, family = model, guide
    fit = working_precision(
        story, family, lambda dtype: _unchecked(story, family, data, where, dtype, seed)
    )
    dtype = fit.potential.dtype
    u, log_q = fit.approximation.draw(DRAWS, seed)
    if log_q is None:
        raise GuideError(
            "The guide fixes a site at one value (a Delta), so it is no posterior. Fit it with svi."
        )
    log_joint, log_det = fit.potential(u[0])
    weights = (log_joint + log_det - log_q[0]).double() + log_labellings(fit.model)
    spread, size = float(weights.std()), float(log_joint.abs().max())
    # rounding of a sum of size `size`, with room for the condition of the transforms
    allowed = 1e4 * torch.finfo(dtype).eps * max(1.0, size)
    if not spread <= allowed:
        raise GuideError(
            f"The guide is not the posterior: log p(x, z) - log q(z) varies by {spread:.3g} (standard "
            f"deviation over {DRAWS} draws), where rounding allows {allowed:.1g}. Fit it with svi."
        )
    notes = {"log_evidence": float(weights.mean())}
    seconds = time.perf_counter() - started
    return replace(fit, seconds=seconds, notes=notes)


def _unchecked(
    story: Any,
    family: Any,
    data: dict[str, Any],
    where: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> Fit:
    model, guide = copied(story, family)
    with local_parameters(), precision(dtype), random_state(seed), torch.no_grad():
        tensors = as_tensors(data, dtype, where)
        check_pair(model, guide, tensors)
        sites = latent_sites(model, tensors, discrete=True)
    return Fit(model, guide, data, np.empty(0), Status.EXACT, seed, 0.0, "exact", sites)
