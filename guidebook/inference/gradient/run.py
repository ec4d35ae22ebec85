"""The loop of svi: steps with a bar, checkpoints and Ctrl-C, and how the fit ended."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.errors import SettingError
from guidebook.inference.fits.running import Steps, counted
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient import checkpoint as checkpoints
from guidebook.inference.gradient.activity import ROWS, activity, watch
from guidebook.inference.gradient.adam import AVERAGED, adam_of
from guidebook.inference.gradient.arrival import cause_of_nan, converged, restarts_rhat
from guidebook.inference.gradient.problem import (
    LOOK_EVERY,
    Outcome,
    Problem,
    Settings,
    default_optimiser,
)
from guidebook.inference.gradient.reference import run_reference
from guidebook.inference.gradient.step import Step
from guidebook.programs.check import outside_support
from guidebook.programs.graphs.recorded import CannotRecord

SECONDS_BETWEEN_CHECKPOINTS = 10.0
RESTARTS_RHAT = 1.05
"""Restarts whose draws differ by more were not fitted to the same approximation. It is above the
1.01 of one sampler's chains (Vehtari et al. 2021): these are fits, each with an error of its own."""


def climb(problem: Problem, settings: Settings) -> Outcome:
    """All steps by the captured path, or by the reference path where the step cannot be recorded.

    Raises:
        SettingError: restarts, or a checkpoint, where the step cannot be recorded.
        FileError: a checkpoint that is unreadable or of another fit.
    """
    default = default_optimiser(problem, settings.steps)
    try:
        if settings.compile is False:
            raise CannotRecord("compile=False was given")
        chosen = default if settings.optim is None else adam_of(settings.optim)(settings.steps)
        step = Step(problem, chosen, settings.steps, settings.restarts, settings.compile)
        outcome = run_captured(step, settings)
    except CannotRecord as reason:
        if settings.restarts > 1:
            raise SettingError(
                f"restarts={settings.restarts} needs a step that is recorded, and this one is "
                f"not ({reason}). Call svi with restarts=1 and several seeds."
            ) from reason
        if settings.compile is not False:
            warnings.warn(
                f"svi runs by pyro.infer.SVI, several times slower than its recorded step: {reason}",
                stacklevel=3,
            )
        outcome = run_reference(problem, settings, default)
    return _with_warnings(outcome, problem)


def run_captured(step: Step, settings: Settings) -> Outcome:
    """All steps (or those still missing from the checkpoint), then the averaged result."""
    problem, path = step.problem, settings.checkpoint
    torch.manual_seed(problem.seed)  # so that the steps draw what eager steps would
    done = checkpoints.restore(path, signature(step), step.state, step.joined) if path else 0
    written, interrupted = time.monotonic(), False

    def guide_of_now() -> Any:
        return adopt(step, step.state["flat"][0])  # the graph reads parameters of its own

    look = watch(problem.model, guide_of_now, problem.batch)
    with counted("svi", step.steps, shown=settings.progress, done=done) as steps:
        while done < step.steps and not interrupted and bool(step.state["alive"].any()):
            done = advance(step, done, min(step.steps, done + LOOK_EVERY), steps)
            interrupted = steps.stopped
            due = time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS
            if path and (due or interrupted or done == step.steps):
                checkpoints.write(path, signature(step), step.state, step.joined)
                written = time.monotonic()
            objective = float(step.state["history"][max(0, done - 1)].nanmean())
            steps.advance(done - steps.done)
            steps.show(objective=objective, active=look() if settings.progress else "")
    return _outcome(step, done, interrupted)


def advance(step: Step, done: int, upto: int, steps: Steps) -> int:
    """Takes the steps from `done` until `upto` or Ctrl-C; returns how many are done."""
    state, call, rows = step.inputs(), step.call, step.problem.rows
    fixed = step.tensors(step.problem.data)
    with torch.no_grad():
        while done < upto and not steps.stopped:
            try:
                grad = call(*state, *(step.tensors(rows.batch(done)) if rows else fixed))
            except LinAlgError:  # as a density that is not a number
                step.state["alive"].fill_(False)
                return done
            step.average(done, grad)
            done += 1
    return done


def signature(step: Step) -> dict[str, Any]:
    """What a checkpoint and the fit that goes on from it must have in common."""
    p = step.problem
    scheduled = {}
    if step.scheduled:
        scheduled["schedules"] = checkpoints.checksum(str(step.table.tolist()))
    return {
        **scheduled,
        "names": step.names,
        "shapes": [list(s) for s in step.shapes],
        "steps": step.steps,
        "restarts": step.restarts,
        "seed": p.seed,
        "batch_size": p.rows.batch_size if p.rows else None,
        "particles": p.particles,
        "data": checkpoints.fingerprint(p.data),
        "objective": type(p.objective).__name__,
        "model": step.recipe,  # the recorded operations of model, guide, objective and Adam
        "optim": checkpoints.checksum(str(step.optimiser.rates.tolist())),
    }


def adopt(step: Step, flat: Tensor) -> Any:
    """Puts these parameters (P,) into model and guide; returns the guide."""
    values = step.parameters_at(flat)
    with torch.no_grad():
        for name, parameter in step.joined.named_parameters():
            if name in values:
                parameter.copy_(values[name])
    return step.problem.guide


# how it ended -----------------------------------------------------------------------------------


def _outcome(step: Step, done: int, interrupted: bool) -> Outcome:
    """The best restart's averaged parameters in model and guide, its history and its status."""
    problem, state = step.problem, step.state
    history = state["history"][:done]
    notes: dict[str, Any] = {"compiled": step.compiled, "path": "captured"}
    if not bool(state["alive"].any()):
        values, notes["nan"] = _stopped(step, history)
        return Outcome(problem.model, problem.guide, values, Status.STOPPED_BY_NAN, notes)
    finished = done == step.steps
    averaged = step.optimiser.averaged and finished
    result = 0.5 * (state["first"] + state["second"]) if averaged else state["flat"]
    tail = history[-max(1, int(AVERAGED * step.steps)) :]
    scores = torch.where(state["alive"], tail.mean(0), torch.inf)
    best = int(scores.argmin())
    adopt(step, result[best])
    status = Status.INTERRUPTED if interrupted else _arrived(step, best, history[:, best])
    if step.restarts > 1 and finished:
        rhat = restarts_rhat(problem, result[state["alive"]], lambda flat: adopt(step, flat))
        notes |= {"restarts": step.restarts, "restarts_rhat": rhat}
        notes["restarts_objective"] = [float(s) for s in scores]
        if rhat > RESTARTS_RHAT and status is Status.CONVERGED:
            status = Status.RESTARTS_DISAGREE
        adopt(step, result[best])
    values = history[:, best].cpu().double().numpy()
    return Outcome(problem.model, problem.guide, values, status, notes)


def _stopped(step: Step, history: Tensor) -> tuple[np.ndarray, str]:
    """The history of the restart that lived longest, its parameters adopted, and what ended it."""
    best = int(step.state["lived"].argmax())
    adopt(step, step.state["flat"][best])
    last = int(step.state["lived"][best])  # the step that was not finite
    history = history[: last + 1]
    objective = float(history[last, best]) if last < len(history) else math.nan
    cause = cause_of_nan(step.problem, last, objective)
    return history[:, best].cpu().double().numpy(), cause


def _arrived(step: Step, best: int, history: Tensor) -> Status:
    """Whether the best restart came to rest."""
    state = step.state
    drift = {"first": state["first"][best], "second": state["second"][best]}
    calm = converged(step.problem.guide, history, drift, state["gradient"][best])
    return Status.CONVERGED if calm else Status.STILL_MOVING


def _with_warnings(outcome: Outcome, problem: Problem) -> Outcome:
    """The outcome with its active dimensions, and what to warn of: none active, a support left."""
    data = problem.data if problem.rows is None else problem.rows.head(ROWS)
    outside = outside_support(outcome.model, outcome.guide, data)
    if outside:
        outcome.notes["support"] = outside
    if outcome.status in (Status.STOPPED_BY_NAN, Status.INTERRUPTED):
        return outcome
    found = activity(outcome.model, outcome.guide, data)
    if found is not None:
        outcome.notes["active_dimensions"] = [found.active, found.total]
        if found.collapsed:
            outcome.notes["collapsed"] = found.warning()
    return outcome
