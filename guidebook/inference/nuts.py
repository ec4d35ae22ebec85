"""NUTS: nutpie's sampler on the captured potential.

Sources: Hoffman and Gelman 2014, "The No-U-Turn sampler"; Seyboldt, Carlson and Carpenter 2024,
"Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence" (nutpie's adaptation);
Vehtari et al. 2021, "Rank-normalization, folding, and localization: an improved R-hat".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import ModelError, SettingError
from guidebook.inference.fits.chains import agree, convergence
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, model_runs, opened
from guidebook.inference.fits.running import MOST, check_whole, said
from guidebook.inference.fits.status import Status
from guidebook.programs.graphs.compiled import compile_graph, worth_compiling
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.programs.native.algebra import CannotLower
from guidebook.programs.native.density import NativeDensity, in_nutpie
from guidebook.programs.native.library import CannotCompile
from guidebook.programs.potential import Potential
from guidebook.programs.start.gaussian import Start
from guidebook.programs.start.mode import find_start
from guidebook.scope import quiet

DRAWS, MORE_DRAWS = 1000, 4000
LEAST_DRAWS = 4
"""Of each chain, which R-hat splits in two."""
ACCEPT, CAREFUL = 0.9, 0.99
GRADIENTS_PER_DRAW = 10
NO_START = (
    "nuts finds no place to begin: near the start log p(x, u) or its gradient is not finite, or the density "
    "is flat in a direction. Give every latent site a prior, and a density that is finite around it."
)
PATIENCE = 0.2
"""Seconds between two looks at whether Ctrl-C was pressed."""


def nuts(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    draws: int | None = None,
    tune: int = 1000,
    chains: int = 4,
    seed: int = 0,
    target_accept: float | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Draws of the posterior by NUTS, (chains, draws), after `tune` steps of adaptation each.

    Divergences, the largest R-hat and the smallest effective sample size (bulk and tail) enter the
    status and `notes`. Chains start from draws around the Gaussian that `svi` starts from, spread
    twice as wide. R-hat must be at most 1.01 and the effective sample size at least 100 a chain.

    What is left to the engine (None) is 1,000 draws at target_accept 0.9. Where these do not pass, it
    samples once more: with 4,000 draws where chains disagree or are too short, with shorter steps
    (0.99) and twice the adaptation where some diverged. `notes['runs']` says how often it sampled.

    A latent value that the model masks and nothing else reads (of rows that obs_mask= observes, of steps
    after the end of a sequence) has no posterior: on the unconstrained scale its density is multiplied by
    N(0, 1), of which lp has no part. `notes['without_density']` counts such numbers.

    Where that pays density and gradient are C functions, checked against the recorded operations, and
    chains run on all cores; what has no kernels (`guidebook.programs.native`) or no compiler runs through
    Python, to the same draws up to rounding. `notes['native']` says which.

    Ctrl-C keeps the draws made so far, as many of each chain as chains of equal length have, of the run
    that made more; before there are four of each it raises KeyboardInterrupt.

    The model's own parameters (pyro.param, networks) stay at their values: those of their statements,
    or those of a trained model, `svi(model, guide, data).model`; notes['held_parameters'] names them.

    Raises:
        ModelError: the model cannot be recorded; its density is zero everywhere tried, or flat in a
            direction.
        DataError, SettingError: as `svi`.
    """
    check_whole(tune=(tune, 10, MOST))
    if draws is not None:
        check_whole(draws=(draws, LEAST_DRAWS, MOST))
    check_whole(chains=(chains, 1, MOST // (draws or MORE_DRAWS)))
    if target_accept is not None and not _is_share(target_accept):
        raise SettingError(f"target_accept={target_accept!r} is out of range: give 0.6 to 0.999.")
    with opened("nuts", model, None, data, seed=seed, device=device, check=model_runs) as run:
        run.hold_parameters()
        sites = run.latent_sites()
        potential = Potential(run.model, run.tensors, sites)
        calls = chains * ((draws or DRAWS) + tune) * GRADIENTS_PER_DRAW
        with said("nuts: finding where to start", shown=progress):
            start, native = _begun(potential, calls)
        density, told = _density(potential, start, native, calls)
    settings = {
        "draws": draws or DRAWS,
        "tune": tune,
        "chains": chains,
        "target_accept": target_accept or ACCEPT,
        "progress_bar": progress,
        # Python runs one at a time
        "cores": min(chains, (os.cpu_count() or 1) if told["native"] else 2),
    }
    given = {"draws": draws, "target_accept": target_accept}
    free = {name for name, value in given.items() if value is None}
    u, diverging, made = _run_or_two(run, density, settings, free)
    if u.shape[1] < LEAST_DRAWS:
        raise KeyboardInterrupt
    status, notes = _ended(u, diverging)
    notes |= made | told
    position = torch.as_tensor(u, dtype=run.dtype, device=run.device)
    return run.fit(status, sites=sites, draws=position, notes=notes)


def _is_share(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and 0 < float(value) < 1


def _run_or_two(
    run: Run, density: Any, settings: dict[str, Any], free: set[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Draws u (chain, draw, D), whether each diverged, and the notes on the run that made them.

    After Ctrl-C in the second run those of the run that made more.
    """
    u, diverging = _sampled(run, density, **settings)
    first = u, diverging, {"tune": settings["tune"], "runs": 1}
    again = None if run.interrupted else _again(settings, free, u, diverging)
    if again is None:
        return first
    more, diverged = _sampled(run, density, **again)
    if run.interrupted and more.size < u.size:
        return first
    return more, diverged, {"tune": again["tune"], "runs": 2}


def _ended(u: np.ndarray, diverging: np.ndarray) -> tuple[Status, dict[str, Any]]:
    """How the run that left draws u (chain, draw, D) ended, and the numbers that say so."""
    rhat, ess = convergence(u)
    notes = {
        "rhat": rhat,
        "ess": ess,
        "divergences": int(diverging.sum()),
        "diverging": diverging.astype(int).tolist(),
        "draws": u.shape[1],
        "chains": u.shape[0],
    }
    if diverging.any():
        return Status.DIVERGENCES, notes
    return Status.CONVERGED if agree(rhat, ess, len(u)) else Status.CHAINS_DISAGREE, notes


def _again(
    settings: dict[str, Any], free: set[str], u: np.ndarray, diverging: np.ndarray
) -> dict[str, Any] | None:
    """The settings of a second run; None where the first passed, or has no setting left to the engine
    (`free`) that would help.
    """
    if diverging.any():
        careful = settings | {"target_accept": CAREFUL, "tune": 2 * settings["tune"]}
        return careful if "target_accept" in free else None
    if "draws" not in free or agree(*convergence(u), len(u)):
        return None
    return settings | {"draws": MORE_DRAWS}


def _begun(potential: Potential, calls: int) -> tuple[Start, NativeDensity | None]:
    """Where chains begin, and the density in C, where that pays and can be.

    The search for the start evaluates it at tens of thousands of positions, before it is known where the
    density is finite; functions that fail the check there have found nothing.
    """
    native = _native(potential, calls)
    if native is not None:
        start = find_start(potential.computed_by(native.rows))
        try:
            native.check(start.center)
            return start, native
        except CannotLower:
            pass
    return find_start(potential), None


def _density(
    potential: Potential, start: Start, native: NativeDensity | None, calls: int
) -> tuple[Any, dict[str, Any]]:
    """The density as nutpie takes it, in C where there is one, and the notes on it."""
    flat = without_density(potential, start.center)
    native = None if bool(flat.any()) else native
    gradient = native or _gradient(potential, calls)
    density = _for_nutpie(potential, *_bounded(start, gradient, flat))
    held = {"without_density": int(flat.sum())} if bool(flat.any()) else {}
    return in_nutpie(density, native) if native else density, {"native": native is not None, **held}


def _native(potential: Potential, calls: int) -> NativeDensity | None:
    """The density in C, where that pays and can be."""
    try:
        graph = potential.single()
        if worth_compiling(graph, calls, potential.device):
            example = torch.zeros(potential.dimension, dtype=potential.dtype)
            return NativeDensity(graph, example)
    except (CannotRecord, CannotLower, CannotCompile):
        pass
    return None


def _gradient(potential: Potential, calls: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    try:
        graph = potential.single()
    except CannotRecord as error:
        raise ModelError(
            f"nuts needs a model that can be recorded, and this one cannot be: {error}. Write it "
            "without .item() and without control flow that depends on latent values."
        ) from error
    if not worth_compiling(graph, calls, potential.device):
        return potential.run_single()
    example = torch.zeros(potential.dimension, dtype=potential.dtype, device=potential.device)
    return compile_graph(graph, [example])


def without_density(potential: Potential, at: Tensor) -> Tensor:
    """Which coordinates (D,) of sites that the model masks log p(x, z) does not depend on, at a position."""
    masks = [potential.nodes[site.name]["mask"] for site in potential.sites]
    masked = [mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks]
    sizes = torch.tensor([site.size for site in potential.sites])
    places = torch.tensor(masked).repeat_interleave(sizes).to(at.device)
    if bool(places.any()):
        steps = torch.eye(len(at), dtype=at.dtype, device=at.device)[places]
        log_joint = potential(torch.cat([at[None], at + steps]))[0]
        rounding = 100 * torch.finfo(at.dtype).eps  # rows of a batch may be summed in another order
        places[places.clone()] = log_joint[1:].isclose(log_joint[0], rtol=rounding, atol=rounding)
    return places


def _bounded(
    start: Start, gradient: Callable[[Tensor], tuple[Tensor, Tensor]], flat: Tensor
) -> tuple[Start, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Start and density times N(0, 1) in the coordinates that are flat; as they are without such ones."""
    if not bool(flat.any()):
        return start, gradient

    def bounded(u: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = gradient(u)
        held = u * flat
        return value - 0.5 * held.square().sum(), grad - held

    center = start.center.where(~flat, start.center.new_zeros(()))
    if start.factor.dim() == 1:
        factor = start.factor.where(~flat, start.factor.new_ones(()))
    else:
        eye = torch.eye(len(flat), dtype=center.dtype, device=center.device)
        factor = start.factor.where(~(flat[:, None] | flat), eye)
    return replace(start, center=center, factor=factor), bounded


def _for_nutpie(
    potential: Potential, start: Start, gradient: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Any:
    """The density as nutpie's model; chains start around the Gaussian, spread twice as wide."""
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

    return _nutpie().compiled_pyfunc.from_pyfunc(
        dimension, make_logp, make_expand, [np.dtype(np.float64)], [(dimension,)], ["u"],
        make_initial_point_fn=initial,
    )  # fmt: skip


def _sampled(run: Run, compiled: Any, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """u (chain, draw, D) and whether each draw diverged, (chain, draw); at Ctrl-C those there are."""
    chains, draws = settings["chains"], settings["draws"]
    with run.steps(chains * draws, shown=False, unit="draw") as steps, quiet():
        sampler = _nutpie().sample(
            compiled, **settings, seed=run.seed, save_warmup=False, blocking=False,
        )  # fmt: skip
        try:
            trace = None
            while trace is None:
                try:
                    trace = sampler.abort() if steps.stopped else sampler.wait(timeout=PATIENCE)
                except TimeoutError:
                    continue
        except RuntimeError as error:
            sampler.cancel()
            if "initial" not in str(error):
                raise
            raise ModelError(NO_START) from error
        except BaseException:
            sampler.cancel()
            raise
        u = np.asarray(trace.posterior["u"].values)
        diverging = np.asarray(trace.sample_stats["diverging"].values).astype(bool)
        kept, length = _whole_chains(np.isfinite(u).all(-1).sum(1))
        steps.advance(len(kept) * length)
    return u[kept, :length], diverging[kept, :length]


def _whole_chains(lengths: np.ndarray) -> tuple[np.ndarray, int]:
    """Which chains to keep, and how many draws of each: the rectangle with the most draws."""
    order = np.argsort(-lengths, kind="stable")
    number = int(np.argmax(lengths[order] * np.arange(1, len(lengths) + 1))) + 1
    return np.sort(order[:number]), int(lengths[order[number - 1]])


def _nutpie() -> Any:
    with quiet():  # nutpie imports arviz, which warns of its own refactoring
        import nutpie
    return nutpie
