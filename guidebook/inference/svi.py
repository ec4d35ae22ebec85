"""Stochastic variational inference with Pyro's objectives, captured into one graph per step.

    maximise ELBO(phi) = E_q[log p(x, z) - log q_phi(z)]     by Adam on averaged noisy gradients.

A fit starts at the mode and curvature of the posterior (`guidebook.programs.start.mode`), in whose units
the guide's parameters are measured; the step size is constant for 30 % of the steps and then falls
to a hundredth along a cosine; the result is the average of the iterates of the last fifth.
The reference path, compile=False, is `pyro.infer.SVI` itself with the same schedule.

How many steps: with N planned, whose first h = 0.3 N have the constant rate, the phase of constant rate
has L = h steps and goes on by L / 3 at a time while the objective f (minus the ELBO) truly falls,

    mean f(3 L / 4 to L)  <  mean f(L / 2 to 3 L / 4) - max(0.1 + 0.0001 |mean f|, 4 standard errors),

with standard errors of 20 batch means; then the rate falls in the other 0.7 N steps. A fit that is flat
from the start takes N steps exactly. One that moves at the end of the fall begins another round, once,
and the budget is 10 N. Where the model has trained parameters and the latents belong to rows, the rule
is that of rows held out: a tenth of them, whose bound says when to go on, and which parameters are
best (`guidebook.inference.gradient.held_out`).

A plate with `subsample_size` draws rows anew at every step, so the objective is an unbiased estimate; with a
guide over one vector and latents in that plate the vector has those of all rows, and steps take all rows;
so do those of Pyro's AutoStructured and AutoGaussian.

Sources: Hoffman et al. 2013, "Stochastic variational inference"; Kingma and Ba 2015, "Adam"; Polyak
and Juditsky 1992, "Acceleration of stochastic approximation by averaging"; Dhaka et al. 2020,
"Robust, accurate stochastic optimization for variational inference"; Welandawe et al. 2022, "Robust,
automated, and accurate black-box variational inference" (a constant rate until the objective is
stationary); Prechelt 1998, "Early stopping - but when?".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from guidebook.inference.fits.files import usable
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import said
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.problem import Outcome, Problem, Settings, prepare
from guidebook.inference.gradient.run import climb
from guidebook.inference.normals.laplace import laplace_of_point
from guidebook.inference.objectives.given import objective_of
from guidebook.inference.protocols.mode import EndsAtMode, defaults_of
from guidebook.programs.batches.source import admitted
from guidebook.programs.rows import Rows
from guidebook.programs.sites import Site


def svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any] | Rows | Iterable[Mapping[str, Any]],
    *,
    objective: Any = None,
    optim: Any = None,
    steps: int | Literal["auto"] = "auto",
    batch_size: int | None = None,
    size: int | None = None,
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
        guide: any Pyro guide of the same arguments; one of gb.guides starts at the posterior. Pyro's
            AutoLaplaceApproximation is trained as a point and becomes the Gaussian of the curvature there.
        data: the model's keyword arguments, numbers in whatever holds them and anything else
            (`guidebook.programs.values.arrays`); a tuple of positional ones, or a pandas DataFrame whose
            columns they are. Or, for data that no dict holds: an iterable of dicts or tuples, one a batch,
            that starts anew whenever it is iterated (a torch DataLoader), with `size`; or rows that are
            read, an object with `len`, `names` and `take` (`guidebook.programs.rows.Rows`), with
            `batch_size`. A fit on these holds no data: what needs log p of all rows asks for them,
            dataclasses.replace(fit, data={...}).
        objective: a Pyro ELBO object, one of guidebook.inference.objectives, or a function of model, guide
            and data whose result is differentiated; docs/optimisers.md says which are recorded. None:
            Trace_ELBO, or TraceEnum_ELBO where the model marks a discrete site for enumeration; in the
            captured path averaged over 16 draws for guides of gb.guides on full data, over one otherwise.
        optim: a pyro.optim optimiser, used as it is: options by name, clipping, and a schedule
            (pyro.optim.ExponentialLR, ...), which advances once a step, not once an epoch. Adam, AdamW,
            ClippedAdam, SGD, RMSprop and AdagradRMSProp are recorded, others take the reference path; a
            schedule that waits for a metric is refused. It begins anew, and is left as it was. None: Adam
            with the schedule above, step size 0.01 in units of the posterior's standard deviation for
            gb.guides (flow: 0.005), 0.01 for other guides without networks, 0.001 with networks.
        steps: updates, exactly so many. "auto": as many as the objective truly falls, by the rule above.
            N is then 2,000 for Gaussian guides of gb.guides, which start near their optimum, 4,000 for
            flow, 5,000 for others; notes has `steps`, those taken, and `ended`, why there are no more.
            Schedules of the objective run over N steps, before the phase of constant rate. Rows are held
            out of a dict or of `Rows` of at least 200, with restarts=1, for guides with one posterior a
            row, and are not given back: notes has `held_out_rows` and, in nats a row, `held_out_bound`,
            `held_out_error`, `training_bound`; and `overfitting` where the bound of the rows held out
            fell while the other rose, which warns.
        batch_size: rows per update; the model must take `size`, the number of all rows.
        size: the number of all rows that an iterable of batches stands for. Batches must have the
            same names and shapes; they are checked as they come, and read pass after pass.
        device: "cpu", "cuda", "cuda:1", ...; None: where the data are.
        seed: decides the result alone; the caller's random state is left as it was.
        restarts: independent fits from scattered starts in one vectorised step; the best is kept
            and R-hat across them enters the status.
        compile: "auto" compiles the captured step where that pays, by the number of steps, the size of its
            tensors and the threads of torch: into a loop in C of many steps, without Python between them, on
            one core (`guidebook.programs.native.loop`; its first steps are checked against single ones and
            against the recorded operations, and so are positions around where it ended), or, where no such
            loop can be made or the tensors are large and torch has several threads, into kernels that are
            called step by step. True does so always; "native" too, and warns where there is no loop; "graph"
            never but captures; False takes the reference path, pyro.infer.SVI. notes has `compiled` and
            `native`.
        progress: a bar with the objective and, for guides of a normal q(z | x), how many of its
            dimensions are active; a fit that ends without any warns, notes['active_dimensions'] has
            the number and that of all.
        checkpoint: a file written about every ten seconds, on Ctrl-C and at the end; if it is there, the
            fit continues from it, to the same result as if never interrupted. It must be of the same model,
            guide, settings and data (`guidebook.inference.gradient.checkpoint` says how they are told).
            A disk that fills, or a folder that goes, warns once, and the fit goes on.

    Raises:
        DataError, ModelError, GuideError: inputs that do not fit together.
        SettingError: an argument out of range.
        FileError: a checkpoint that is unreadable or of another fit.
    """
    objective = objective_of(objective)
    path = None if checkpoint is None else usable(checkpoint, "checkpoint='{}'")
    planned = defaults_of(guide).steps if steps == "auto" else steps
    settings = Settings(planned, steps == "auto", optim, restarts, compile, progress, path)
    source = admitted(model, data, batch_size=batch_size, size=size)
    problems: list[Problem] = []

    def put(run: Run) -> None:
        given = run.model, run.guide, source, objective, run.device, run.dtype, run.seed
        with said("svi: finding where to start", shown=progress):
            problems.append(prepare(*given, hold_out=settings.holds_out))

    with opened("svi", model, guide, source, seed=seed, device=device, check=put) as run:
        outcome = climb(problems[-1], settings)
        run.model, run.guide = outcome.model, outcome.guide
        if isinstance(run.guide, EndsAtMode) and outcome.status is not Status.STOPPED_BY_NAN:
            outcome = _with_curvature(run, outcome, problems[-1].sites)
    _end_training(run)
    notes = {"steps": len(outcome.history), "batch_size": batch_size, **outcome.notes}
    if size is not None:
        notes["size"] = size
    for told in ("collapsed", "support", "overfitting", "no_curvature"):
        if told in notes:
            warnings.warn(notes[told], stacklevel=2)
    fit = run.fit(outcome.status, outcome.history, sites=problems[-1].sites, notes=notes)
    fit.approximation.keep(problems[-1].joint)
    return fit


def _end_training(run: Run) -> None:
    """What is for training alone, as a denoiser's corruption, ends with it."""
    for part in (run.model, run.guide):
        if isinstance(part, torch.nn.Module):
            part.eval()


def _with_curvature(run: Run, outcome: Outcome, sites: tuple[Site, ...]) -> Outcome:
    """The outcome of a guide that was trained as a point, which becomes the Gaussian there."""
    guide = laplace_of_point(run, sites) if run.data is not None else None
    if guide is not None:
        run.guide = guide
        told = {"laplace_approximation": "the Gaussian of the curvature at the point of the guide"}
        return replace(outcome, guide=guide, notes=outcome.notes | told)
    why = (
        "the Hessian of log p there is not negative definite. Raise steps, or use gb.svi with another guide"
        if run.data is not None
        else "it needs log p of all rows. Give the data as a dict"
    )
    told = {
        "no_curvature": "The fit is a point: AutoLaplaceApproximation has no Gaussian where it ended, since "
        f"{why}."
    }
    return replace(outcome, status=Status.NO_MODE, notes=outcome.notes | told)
