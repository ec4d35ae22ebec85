"""The Laplace approximation: a Gaussian at the mode, with the inverse curvature there.

    q(u) = N(u*, (-H)^-1),   u* = argmax log p(x, u),   H the Hessian of log p(x, u) at u*,

on the unconstrained scale. Source: Tierney and Kadane 1986, "Accurate approximations for posterior
moments and marginal densities".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine

from guidebook.guides.autoguides.normal import FullRank
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.status import Status
from guidebook.programs.potential import Potential
from guidebook.programs.sites import Site
from guidebook.programs.start.mode import Climb


def laplace_of_point(run: Run, sites: tuple[Site, ...]) -> FullRank | None:
    """The Gaussian at the point that the run's guide samples; None where the curvature gives none."""
    potential = Potential(run.model, run.tensors, sites)
    with torch.no_grad(), poutine.block():
        nodes = poutine.trace(run.guide).get_trace(**run.tensors).nodes
        point = potential.unconstrain({s.name: nodes[s.name]["value"][None] for s in sites})[0]
    found = Climb(potential).laplace_at(point.double().cpu().numpy())
    if found is None:
        return None
    guide = FullRank(run.model)
    guide.restore(sites, like=point)
    guide.start_at(found.center, found.factor)
    return guide


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

    The model's own parameters (pyro.param, networks) stay at their values: those of their statements,
    or those of a trained model, `svi(model, guide, data).model`; notes['held_parameters'] names them.

    Raises:
        DataError, ModelError, SettingError: as `svi`.
    """
    with opened("laplace", model, FullRank(model), data, seed=seed, device=device) as run:
        run.hold_parameters()
        climb = Climb(Potential(run.model, run.tensors, run.guide.sites))
        end = climb.from_point(np.zeros(run.guide.latent_dim))[-1]
        top = climb.mode_at(end)
        found = top or climb.gaussian_at(end)
        run.guide.start_at(found.center, found.factor)
    if top is None:
        warnings.warn(Status.NO_MODE.value, stacklevel=2)
        return run.fit(Status.NO_MODE, sites=run.guide.sites)
    notes = {"log_evidence_laplace": top.log_mass}
    return run.fit(Status.CONVERGED, sites=run.guide.sites, notes=notes)
