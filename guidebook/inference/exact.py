"""A posterior known in closed form, checked on draws rather than believed.

If q(z) = p(z | x), then log p(x, z) - log q(z) = log p(x) at every z: a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from guidebook.errors import GuideError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import opened
from guidebook.inference.fits.status import Status
from guidebook.programs.labels import log_labellings

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
    with opened("exact", model, guide, data, seed=seed, device=device) as run:
        sites = run.latent_sites(discrete=True)
        log_evidence = _checked(run.fit(Status.EXACT, sites=sites))
    return run.fit(Status.EXACT, sites=sites, notes={"log_evidence": log_evidence})


def _checked(fit: Fit) -> float:
    """The log evidence, the mean of log p(x, z) - log q(z); GuideError where that is no constant."""
    u, log_q = fit.approximation.draw(DRAWS, fit.seed)
    if log_q is None:
        raise GuideError(
            "The guide puts all mass of a site on one value (a Delta), and gb.exact needs the log density "
            "of the posterior: fit it with svi."
        )
    log_joint, log_det = fit.potential(u[0])
    weights = (log_joint + log_det - log_q[0]).double() + log_labellings(fit.model)
    spread, size = float(weights.std()), float(log_joint.abs().max())
    # rounding of a sum of size `size`, with room for the condition of the transforms
    allowed = 1e4 * torch.finfo(fit.potential.dtype).eps * max(1.0, size)
    if not spread <= allowed:
        raise GuideError(
            f"The guide is not the posterior: log p(x, z) - log q(z) varies by {spread:.3g} (standard "
            f"deviation over {DRAWS} draws), where rounding allows {allowed:.1g}. Fit it with svi."
        )
    return float(weights.mean())
