"""Gibbs sampling: every block of variables drawn from its complete conditional, chains in parallel.

The guide knows the conditionals of the model; chains are the leading dimension of its state, so a
sweep of many chains is one sequence of tensor operations.

Sources: Geman and Geman 1984, "Stochastic relaxation, Gibbs distributions, and the Bayesian
restoration of images"; Vehtari et al. 2021, "Rank-normalization, folding, and localization: an
improved R-hat"; label switching: Stephens 2000, "Dealing with label switching in mixture models".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from guidebook.errors import GuideError
from guidebook.inference.fits.chains import agree, convergence
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import bar_of, check_whole, stoppable
from guidebook.inference.fits.status import Status
from guidebook.inference.protocols.conditionals import CompleteConditionals, State
from guidebook.programs.check import check_model
from guidebook.programs.data import arguments, as_tensors, check, find_device
from guidebook.programs.labels import in_canonical_order
from guidebook.programs.owned import copied
from guidebook.programs.potential import Potential
from guidebook.programs.scope import local_parameters, precision, random_state
from guidebook.programs.sites import latent_sites


def gibbs(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    draws: int = 1000,
    tune: int = 500,
    chains: int = 4,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Draws of the posterior, (chains, draws), after `tune` sweeps that are thrown away.

    The largest R-hat and the smallest effective sample size enter the status and `notes`, as for
    `nuts`. Where the model names a canonical order of exchangeable components, every draw is put
    into it; notes['relabelled'] is the share of draws that were not.

    Ctrl-C keeps the draws made so far.

    Raises:
        GuideError: the guide lacks `sites`, `initial` or `sweep`.
        DataError, ModelError, SettingError: as `svi`.
    """
    started = time.perf_counter()
    check_whole(draws=(draws, 4), tune=(tune, 0), chains=(chains, 1), seed=(seed, 0))
    if not isinstance(guide, CompleteConditionals):
        missing = [n for n in ("sites", "initial", "sweep") if not hasattr(guide, n)]
        name = getattr(guide, "__name__", type(guide).__name__)
        raise GuideError(
            f"gibbs needs a guide that knows its complete conditionals, and {name} lacks "
            f"{', '.join(missing)}. For a Gaussian mixture there is gb.guides.MixtureMeanField; "
            "sample other models with nuts."
        )
    where = find_device(device, data)
    data = arguments(model, data)
    check(data)
    story, conditionals = copied(model, guide)
    for part in (story, conditionals):
        if isinstance(part, torch.nn.Module):
            part.double().to(where)
    with local_parameters(), precision(torch.float64), random_state(seed), stoppable() as stop:
        tensors = as_tensors(data, torch.float64, where)
        check_model(story, tensors)
        with torch.no_grad():
            sites = latent_sites(story, tensors, discrete=True)
            generator = torch.Generator(where).manual_seed(seed)
            state = conditionals.initial(tensors, chains, generator)
            kept: list[State] = []
            with bar_of("gibbs", tune + draws, progress) as bar:
                for number in range(tune + draws):
                    if stop.is_set():
                        break
                    state = conditionals.sweep(state, tensors, generator)
                    if number >= tune:
                        kept.append({site.name: state[site.name] for site in sites})
                    bar(float("nan"))
            if len(kept) < 4:
                raise KeyboardInterrupt
            values = {s.name: torch.stack([k[s.name] for k in kept], 1) for s in sites}
            values, relabelled = in_canonical_order(story, values)
            flat = {name: v.flatten(0, 1) for name, v in values.items()}
            u = Potential(story, tensors, sites).unconstrain(flat).unflatten(0, (chains, -1))
    rhat, ess = convergence(u.cpu().numpy(), any(site.discrete for site in sites))
    status = Status.CONVERGED
    if stop.is_set():
        status = Status.INTERRUPTED
    elif not agree(rhat, ess, chains):
        status = Status.CHAINS_DISAGREE
    notes = {"rhat": rhat, "ess": ess, "draws": len(kept), "tune": tune, "chains": chains,
             "relabelled": relabelled}  # fmt: skip
    seconds = time.perf_counter() - started
    return Fit(
        story, None, data, np.empty(0), status, seed, seconds, "gibbs", sites, u, notes=notes
    )
