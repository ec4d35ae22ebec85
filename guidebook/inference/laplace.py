"""The Laplace approximation: a Gaussian at the mode, with the inverse curvature there.

    q(u) = N(u*, (-H)^-1),   u* = argmax log p(x, u),   H the Hessian of log p(x, u) at u*,

on the unconstrained scale. Source: Tierney and Kadane 1986, "Accurate approximations for posterior
moments and marginal densities".
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from guidebook.guides.autoguides.normal import FullRank
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.programs.check import check_pair
from guidebook.programs.data import arguments, as_tensors, check, find_device
from guidebook.programs.gaussian import Start
from guidebook.programs.mode import Climb
from guidebook.programs.owned import copied, working_precision
from guidebook.programs.potential import Potential
from guidebook.programs.scope import local_parameters, precision, random_state


def laplace(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Fit:
    """The Gaussian at the posterior mode.

    notes['log_evidence_laplace'] is log p(x, u*) + D/2 log(2 pi) - 1/2 log |-H|. Where no mode with
    positive curvature exists the status is NO_MODE and the guide a Gaussian where the search ended.

    Raises:
        DataError, ModelError, SettingError: as `svi`.
    """
    started = time.perf_counter()
    where = find_device(device, data)
    data = arguments(model, data)
    check(data)
    story = model
    model, guide, top = working_precision(
        story, None, lambda dtype: _at_the_mode(story, data, where, dtype, seed)
    )
    notes = {"log_evidence_laplace": top.log_mass} if top else {}
    status = Status.CONVERGED if top else Status.NO_MODE
    if not top:
        warnings.warn(Status.NO_MODE.value, stacklevel=2)
    seconds = time.perf_counter() - started
    return Fit(
        model, guide, data, np.empty(0), status, seed, seconds, "laplace", guide.sites, notes=notes
    )


def _at_the_mode(
    story: Callable[..., Any],
    data: dict[str, Any],
    where: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> tuple[Any, FullRank, Start | None]:
    model, guide = copied(story, FullRank(story))
    with local_parameters(), precision(dtype), random_state(seed):
        tensors = as_tensors(data, dtype, where)
        check_pair(model, guide, tensors)
        climb = Climb(Potential(model, tensors, guide.sites))
        end = climb.from_point(np.zeros(guide.latent_dim))[-1]
        top = climb.mode_at(end)
        found = top or climb.gaussian_at(end)
        guide.to(where)
        guide.start_at(found.center, found.factor)
    return model, guide, top
