"""Stochastic variational inference with Pyro's objectives, captured into one graph per step.

    maximise ELBO(phi) = E_q[log p(x, z) - log q_phi(z)]     by Adam on averaged noisy gradients.

A fit starts at the mode and curvature of the posterior (`guidebook.inference.start`), in whose units
the guide's parameters are measured; the step size is constant for 30 % of the steps and then falls
to a hundredth along a cosine; the result is the average of the iterates of the last fifth.
The reference path, compile=False, is `pyro.infer.SVI` itself with the same schedule.

Sources: Hoffman et al. 2013, "Stochastic variational inference"; Kingma and Ba 2015, "Adam"; Polyak
and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Dhaka et al. 2020,
"Robust, accurate stochastic optimization for variational inference".
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from guidebook.errors import SettingError
from guidebook.guides.families import Flow, Whitened
from guidebook.guides.unconstrained import Site, latent_sites
from guidebook.inference import checkpoint as checkpoints
from guidebook.inference.capture import CannotRecord, local_parameters, precision, random_state
from guidebook.inference.check import check_pair
from guidebook.inference.collapse import ROWS, activity
from guidebook.inference.data import Rows, arguments, as_tensors, check, find_device, takes
from guidebook.inference.fit import Fit, Status
from guidebook.inference.owned import Joined, copied, working_precision
from guidebook.inference.potential import Potential, enumeration_depth
from guidebook.inference.reference_path import run_reference
from guidebook.inference.settings import check_whole
from guidebook.inference.start import find_start
from guidebook.inference.step import Optimiser, Outcome, Step, adam_of, schedule

PARTICLES = 16
START_ROWS = 10_000


@dataclass
class Problem:
    """What both paths work on: copies of model and guide, tensors, and where batches come from."""

    model: Any
    guide: Any
    data: dict[str, Any]
    rows: Rows | None
    objective: Any
    particles: int
    device: torch.device
    dtype: torch.dtype
    seed: int

    def batch(self, step: int) -> dict[str, Any]:
        return self.rows.batch(step) if self.rows else self.data


def svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    objective: Any = None,
    optim: Any = None,
    steps: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    restarts: int = 1,
    compile: bool | str = "auto",
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Fit:
    """Fits the guide to the model's posterior.

    Arguments:
        model: any Pyro model, called model(**data).
        guide: any Pyro guide of the same arguments; one of gb.guides starts at the posterior.
        data: the model's keyword arguments: arrays, tensors, plain values.
        objective: a Pyro ELBO object. None: Trace_ELBO, or TraceEnum_ELBO where the model marks a
            discrete site for enumeration; in the captured path averaged over 16 draws for guides
            of gb.guides on full data, over one otherwise.
        optim: a pyro.optim optimiser, used as it is, without schedule. None: Adam with the
            schedule above, step size 0.01 in units of the posterior's standard deviation for
            gb.guides (flow: 0.005), 0.01 for other guides without networks, 0.001 with networks.
        steps: updates. None: 2,000 for Gaussian guides of gb.guides, which start near their optimum,
            4,000 for flow, 5,000 for others.
        batch_size: rows per update; the model must take `size`, the number of all rows.
        device: "cpu", "cuda", "cuda:1", ...; None: where the data are.
        seed: decides the result alone; the caller's random state is left as it was.
        restarts: independent fits from scattered starts in one vectorised step; the best is kept
            and R-hat across them enters the status.
        compile: "auto" compiles the captured step where that pays; True always; "graph" never but
            captures; False takes the reference path, pyro.infer.SVI.
        progress: a bar with the objective and, for guides of a normal q(z | x), how many of its
            dimensions are active; a fit that ends without any warns, notes['active_dimensions'] has
            the number and that of all.
        checkpoint: a file written about every ten seconds, on Ctrl-C and at the end; if it is there, the
            fit continues from it, to the same result as if never interrupted.

    Raises:
        DataError, ModelError, GuideError: inputs that do not fit together.
        SettingError: an argument out of range.
        FileError: a checkpoint that is unreadable or of another fit.
    """
    started = time.perf_counter()
    steps = default_steps(guide) if steps is None else steps
    _check_settings(steps, seed, restarts, compile)
    where = find_device(device, data)
    data = arguments(model, data)
    check(data)
    path = checkpoints.usable(checkpoint)
    outcome, sites = working_precision(
        model,
        guide,
        lambda dtype: _fitted(
            copied(model, guide), data, objective, optim, steps, batch_size, where, dtype, seed,
            restarts, compile, progress, path,
        ),
    )  # fmt: skip
    for part in (outcome.model, outcome.guide):
        if isinstance(part, torch.nn.Module):
            part.eval()  # what is for training alone, as a denoiser's corruption, ends with it
    notes = {"steps": steps, "batch_size": batch_size, **outcome.notes}
    if "collapsed" in notes:
        warnings.warn(notes["collapsed"], stacklevel=2)
    seconds = time.perf_counter() - started
    return Fit(
        outcome.model, outcome.guide, data, outcome.history, outcome.status, seed, seconds, "svi",
        sites, notes=notes,
    )  # fmt: skip


def _fitted(
    pair: tuple[Any, Any], data: dict[str, Any], objective: Any, optim: Any, steps: int,
    batch_size: int | None, device: torch.device, dtype: torch.dtype, seed: int, restarts: int,
    compile: bool | str, progress: bool, path: Path | None,
) -> tuple[Outcome, tuple[Site, ...]]:  # fmt: skip
    """One attempt in one precision: by the captured path, or the reference path where it must be."""
    with local_parameters(), precision(dtype), random_state(seed):
        problem, sites = _prepare(*pair, data, objective, batch_size, device, dtype, seed)
        default = default_optimiser(problem, steps)
        try:
            if compile is False:
                raise CannotRecord("compile=False asks for the reference path")
            optimiser = adam_of(optim)(steps) if optim is not None else default
            outcome = Step(problem, optimiser, steps, restarts, compile).run(progress, path)
            return _with_activity(outcome, problem), sites
        except CannotRecord as reason:
            if restarts > 1:
                raise SettingError(
                    f"restarts={restarts} needs the captured path, and this fit does not take it "
                    f"({reason}). Fit it with restarts=1 and several seeds."
                ) from reason
            if compile is not False:
                warnings.warn(
                    "svi runs on the reference path, pyro.infer.SVI, several times slower: "
                    f"{reason}",
                    stacklevel=4,
                )
            outcome = run_reference(problem, optim, default, steps, progress, path)
            return _with_activity(outcome, problem), sites


def _with_activity(outcome: Outcome, problem: Problem) -> Outcome:
    """The outcome with its active dimensions, and the words of a warning if there are none."""
    if outcome.status in (Status.STOPPED_BY_NAN, Status.INTERRUPTED):
        return outcome
    data = problem.data
    if problem.rows is not None:
        data = problem.rows.take(np.arange(min(problem.rows.count, ROWS)))
    found = activity(outcome.model, outcome.guide, data)
    if found is not None:
        outcome.notes["active_dimensions"] = [found.active, found.total]
        if found.collapsed:
            outcome.notes["collapsed"] = found.warning()
    return outcome


def _prepare(
    model: Any, guide: Any, data: dict[str, Any], objective: Any, batch_size: int | None,
    device: torch.device, dtype: torch.dtype, seed: int,
) -> tuple[Problem, tuple[Site, ...]]:  # fmt: skip
    for part in (model, guide):
        if isinstance(part, torch.nn.Module):
            part.to(device)
    rows = None
    if batch_size is not None:
        sized = takes(model, "size")
        rows = Rows(data, batch_size, seed, dtype, device, sized)
        if not sized and batch_size < rows.count:
            raise SettingError(
                "batch_size needs a model that takes size=None and gives it to its plate "
                '(pyro.plate("row", size, ...)): otherwise the ELBO of a batch is not an estimate '
                "of the full one."
            )
        tensors = rows.take(np.arange(min(batch_size, rows.count)))
    else:
        tensors = as_tensors(data, dtype, device)
    whitened = isinstance(guide, Whitened)
    joined = Joined(model, guide)
    check_pair(joined.model, joined.guide, tensors)
    particles = PARTICLES if whitened and objective is None and rows is None else 1
    if objective is None:
        depth = enumeration_depth(joined.model, tensors)
        objective = Trace_ELBO() if depth is None else TraceEnum_ELBO(max_plate_nesting=depth)
    problem = Problem(
        joined.model, joined.guide, tensors, rows, objective, particles, device, dtype, seed,
    )  # fmt: skip
    if whitened:
        guide.to(device)
        start = find_start(_start_potential(model, guide, problem))
        guide.start_at(start.center, start.factor)
        return problem, guide.sites
    with torch.no_grad():
        sites = latent_sites(joined.model, tensors, discrete=True)
    return problem, sites


def _start_potential(model: Any, guide: Any, problem: Problem) -> Potential:
    """The potential of all rows, or of a sample of them that stands for all."""
    data = problem.data
    if problem.rows is not None:
        count = min(problem.rows.count, max(START_ROWS, problem.rows.batch_size))
        chosen = np.random.default_rng(problem.seed).integers(problem.rows.count, size=count)
        if count == problem.rows.count:
            chosen = np.arange(count)
        data = problem.rows.take(chosen)
    return Potential(problem.model, data, guide.sites)


def default_steps(guide: Any) -> int:
    """Enough steps for the kind of guide, by where it starts."""
    if isinstance(guide, Flow):
        return 4000
    return 2000 if isinstance(guide, Whitened) else 5000


def default_optimiser(problem: Problem, steps: int) -> Optimiser:
    """Adam with a falling step size, its scale by the kind of parameters."""
    if isinstance(problem.guide, Whitened):
        rate = 0.005 if isinstance(problem.guide, Flow) else 0.01
    elif any(p.dim() > 1 for p in Joined(problem.model, problem.guide).parameters()):
        rate = 0.001
    else:
        rate = 0.01
    return Optimiser(schedule(rate, steps))


def _check_settings(steps: int, seed: int, restarts: int, compile: bool | str) -> None:
    check_whole(steps=(steps, 1), restarts=(restarts, 1), seed=(seed, 0))
    if compile not in (True, False, "auto", "graph"):
        raise SettingError(f"compile={compile!r} is unknown: give 'auto', True, 'graph' or False.")
