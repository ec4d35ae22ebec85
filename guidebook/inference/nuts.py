"""NUTS: nutpie's sampler on the captured potential.

Sources: Hoffman and Gelman 2014, "The No-U-Turn sampler"; Seyboldt, Carlson and Carpenter 2024,
"Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence" (nutpie's adaptation);
Vehtari et al. 2021, "Rank-normalization, folding, and localization: an improved R-hat".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.inference.fits.chains import agree, convergence
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import check_whole
from guidebook.inference.fits.status import Status
from guidebook.programs.check import check_model
from guidebook.programs.data import arguments, as_tensors, check, find_device
from guidebook.programs.gaussian import Start
from guidebook.programs.graph import CannotRecord, compile_graph, worth_compiling
from guidebook.programs.mode import find_start
from guidebook.programs.owned import Joined, copied, working_precision
from guidebook.programs.potential import Potential
from guidebook.programs.scope import local_parameters, precision, quiet, random_state
from guidebook.programs.sites import Site, latent_sites

GRADIENTS_PER_DRAW = 10


def nuts(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    seed: int = 0,
    target_accept: float = 0.9,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Draws of the posterior by NUTS, (chains, draws), after `tune` steps of adaptation each.

    Divergences, the largest R-hat and the smallest effective sample size (bulk and tail) enter the
    status and `notes`. Chains start from draws around the Gaussian that `svi` starts from, spread
    twice as wide. R-hat must be at most 1.01 and the effective sample size at least 100 a chain.

    Raises:
        ModelError: the model cannot be recorded, or its density is zero everywhere tried.
        DataError, SettingError: as `svi`.
    """
    started = time.perf_counter()
    check_whole(draws=(draws, 4), tune=(tune, 10), chains=(chains, 1))
    if not 0 < target_accept < 1:
        raise SettingError(f"target_accept={target_accept} is out of range: give 0.6 to 0.999.")
    where = find_device(device, data)
    data = arguments(model, data)
    check(data)
    story = model
    model, sites, u, diverging, dtype = working_precision(
        story,
        None,
        lambda dtype: _sampled(
            story, data, where, dtype, draws, tune, chains, seed, target_accept, progress
        ),
    )
    rhat, ess = convergence(u)
    notes = {
        "rhat": rhat,
        "ess": ess,
        "divergences": int(diverging.sum()),
        "diverging": diverging.astype(int).tolist(),
        "draws": draws,
        "tune": tune,
        "chains": chains,
    }
    status = Status.CONVERGED
    if diverging.any():
        status = Status.DIVERGENCES
    elif not agree(rhat, ess, chains):
        status = Status.CHAINS_DISAGREE
    seconds = time.perf_counter() - started
    position = torch.as_tensor(u, dtype=dtype, device=where)
    return Fit(
        model, None, data, np.empty(0), status, seed, seconds, "nuts", sites, position, notes
    )


def _sampled(
    story: Any, data: dict[str, Any], where: torch.device, dtype: torch.dtype, draws: int,
    tune: int, chains: int, seed: int, target_accept: float, progress: bool,
) -> tuple[Any, tuple[Site, ...], np.ndarray, np.ndarray, torch.dtype]:  # fmt: skip
    model, _ = copied(story, Joined(story, story))
    with local_parameters(), precision(dtype), random_state(seed):
        tensors = as_tensors(data, dtype, where)
        check_model(model, tensors)
        with torch.no_grad():
            sites = latent_sites(model, tensors)
        potential = Potential(model, tensors, sites)
        start = find_start(potential)
        gradient = _gradient(potential, draws, tune, chains)
    u, diverging = _sample(
        gradient, potential, start, draws, tune, chains, seed, target_accept, progress
    )
    return model, sites, u, diverging, dtype


def _gradient(
    potential: Potential, draws: int, tune: int, chains: int
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    try:
        graph = potential.single()
    except CannotRecord as error:
        from guidebook.errors import ModelError

        raise ModelError(
            f"nuts needs a model that can be recorded, and this one reads values ({error}). Write "
            "it without .item() and without control flow that depends on latent values."
        ) from error
    calls = chains * (draws + tune) * GRADIENTS_PER_DRAW
    if not worth_compiling(graph, calls, potential.device):
        return graph
    example = torch.zeros(potential.dimension, dtype=potential.dtype, device=potential.device)
    return compile_graph(graph, [example])


def _sample(
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]], potential: Potential, start: Start,
    draws: int, tune: int, chains: int, seed: int, target_accept: float, progress: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """u (chain, draw, D) and whether each draw diverged, (chain, draw)."""
    with quiet():  # nutpie imports arviz, which warns of its own refactoring
        import nutpie

    dimension = potential.dimension

    def make_logp() -> Callable[..., tuple[float, np.ndarray]]:
        def logp(u: np.ndarray, **_: Any) -> tuple[float, np.ndarray]:
            position = torch.from_numpy(np.array(u)).to(potential.device, potential.dtype)
            with torch.no_grad():
                value, grad = gradient(position)
            return float(value), grad.double().cpu().numpy()

        return logp

    def make_expand(*_: Any) -> Callable[..., dict[str, np.ndarray]]:
        return lambda u, **kw: {"u": np.array(u, dtype=np.float64)}

    center = start.center.double().cpu().numpy()
    factor = start.factor.double().cpu().numpy()

    def initial(seed_of_chain: Any) -> np.ndarray:
        noise = np.random.default_rng(seed_of_chain).standard_normal(dimension)
        return center + 2 * (factor * noise if factor.ndim == 1 else factor @ noise)

    compiled = nutpie.compiled_pyfunc.from_pyfunc(
        dimension, make_logp, make_expand, [np.dtype(np.float64)], [(dimension,)], ["u"],
        make_initial_point_fn=initial,
    )  # fmt: skip
    with quiet():
        trace = nutpie.sample(
            compiled, draws=draws, tune=tune, chains=chains, cores=min(chains, 2), seed=seed,
            progress_bar=progress, target_accept=target_accept, save_warmup=False,
        )  # fmt: skip
    u = np.asarray(trace.posterior["u"].values)
    return u, np.asarray(trace.sample_stats["diverging"].values).astype(bool)
