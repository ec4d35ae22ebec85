"""Gibbs sampling: every block of variables drawn from its complete conditional, chains in parallel.

The guide knows the conditionals of the model; chains are the leading dimension of its state, so a
sweep of many chains is one sequence of tensor operations.

Sources: Geman and Geman 1984, "Stochastic relaxation, Gibbs distributions, and the Bayesian
restoration of images"; Vehtari et al. 2021, "Rank-normalization, folding, and localization: an
improved R-hat"; label switching: Stephens 2000, "Dealing with label switching in mixture models".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from guidebook.inference.fits.chains import agree, convergence
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, model_runs, opened
from guidebook.inference.fits.running import MOST, check_whole
from guidebook.inference.fits.status import Status
from guidebook.inference.protocols.conditionals import REMEDY, CompleteConditionals, State
from guidebook.inference.protocols.require import require
from guidebook.programs.labels import in_canonical_order
from guidebook.programs.potential import Potential


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
    check_whole(draws=(draws, 4, MOST), tune=(tune, 0))
    check_whole(chains=(chains, 1, MOST // draws))
    require(guide, CompleteConditionals, "gibbs", REMEDY)
    with opened(
        "gibbs", model, guide, data, seed=seed, device=device, dtype=torch.float64,
        check=model_runs,
    ) as run, torch.no_grad():  # fmt: skip
        sites = run.latent_sites(discrete=True)
        kept = _swept(run, [site.name for site in sites], draws, tune, chains, progress)
        if len(kept) < 4:
            raise KeyboardInterrupt
        values = {s.name: torch.stack([state[s.name] for state in kept], 1) for s in sites}
        values, relabelled = in_canonical_order(run.model, values)
        flat = {name: v.flatten(0, 1) for name, v in values.items()}
        potential = Potential(run.model, run.tensors, sites)
        u = potential.unconstrain(flat).unflatten(0, (chains, -1))
    rhat, ess = convergence(u.cpu().numpy(), any(site.discrete for site in sites))
    notes = {"rhat": rhat, "ess": ess, "draws": len(kept), "tune": tune, "chains": chains,
             "relabelled": relabelled}  # fmt: skip
    run.guide = None  # the draws are the approximation
    status = Status.CONVERGED if agree(rhat, ess, chains) else Status.CHAINS_DISAGREE
    return run.fit(status, sites=sites, draws=u, notes=notes)


def _swept(
    run: Run, names: list[str], draws: int, tune: int, chains: int, progress: bool
) -> list[State]:
    """The states after each sweep beyond the first `tune`, of the sites alone."""
    generator = torch.Generator(run.device).manual_seed(run.seed)
    state = run.guide.initial(run.tensors, chains, generator)
    kept = []
    with run.steps(tune + draws, shown=progress, unit="sweep") as sweeps:
        for number in sweeps:
            state = run.guide.sweep(state, run.tensors, generator)
            if number >= tune:
                kept.append({name: state[name] for name in names})
    return kept
