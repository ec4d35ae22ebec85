"""The loop of svi: steps with a bar, checkpoints and Ctrl-C, and how the fit ended."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.errors import SettingError
from guidebook.inference.fits.running import Steps, counted, said
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient import checkpoint as checkpoints
from guidebook.inference.gradient.activity import ROWS, activity, watch
from guidebook.inference.gradient.arrival import (
    cause_of_nan,
    converged,
    froze,
    restarts_rhat,
)
from guidebook.inference.gradient.chosen import chosen_optimiser, default_optimiser
from guidebook.inference.gradient.course import still_falls
from guidebook.inference.gradient.held_out import Bounds
from guidebook.inference.gradient.problem import (
    Outcome,
    Problem,
    Settings,
)
from guidebook.inference.gradient.reference import run_reference
from guidebook.inference.gradient.step import Step
from guidebook.inference.optimisers.adam import AVERAGED
from guidebook.programs.check import outside_support
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.programs.statements import evaluated

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
        chosen = chosen_optimiser(problem, settings)
        if settings.compile is False:
            raise CannotRecord("compile=False was given")
        with said("svi: recording the step", shown=settings.progress):
            step = Step(
                problem, chosen, settings.steps, settings.restarts, settings.compile, settings.auto
            )
        outcome = run_captured(step, settings)
        if outcome.status is not Status.INTERRUPTED and not step.agrees():
            outcome = _again_without(step, settings)
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


def _again_without(step: Step, settings: Settings) -> Outcome:
    """The fit once more, from its start, called from Python: the loop in C was wrong where it ended."""
    warnings.warn(
        "The kernels of the loop in C compute another gradient than the recorded step around the last "
        "parameters, though they agreed over the first steps. The fit is taken again without them; "
        "compile='graph' leaves them out from the start.",
        stacklevel=4,
    )
    adopt(step, step.start)
    again = Step(
        step.problem, step.optimiser, settings.steps, settings.restarts, "graph", settings.auto
    )
    return run_captured(again, dataclasses.replace(settings, checkpoint=None))


def run_captured(step: Step, settings: Settings) -> Outcome:
    """All steps (or those still missing from the checkpoint), then the averaged result."""
    problem, course, path = step.problem, step.course, settings.checkpoint
    torch.manual_seed(problem.seed)  # so that the steps draw what eager steps would
    told = checkpoints.signature(step) if path else {}
    done = checkpoints.restore(path, told, step) if path else 0
    step.follow()
    written, interrupted, failed = time.monotonic(), False, False

    def guide_of_now() -> Any:
        return adopt(step, step.state["flat"][0])  # the graph reads parameters of its own

    look = watch(problem.model, guide_of_now, problem.batch)
    with counted("svi", course.end, shown=settings.progress, done=done) as steps:
        while not interrupted and bool(step.state["alive"].any()):
            if done == course.until:
                if course.is_over(done, lambda: _falls(step), lambda: _arrived(step)):
                    break
                step.follow()
                steps.plan(course.end)
            done = advance(step, done, min(course.until, done + step.at_once), steps)
            interrupted = steps.stopped
            due = time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS
            if path and (due or interrupted or done == course.until):
                failed = checkpoints.keep(path, told, step, failed)
                written = time.monotonic()
            objective = float(step.state["history"][max(0, done - 1)].nanmean())
            steps.advance(done - steps.done)
            steps.show(objective=objective, active=look() if settings.progress else "")
    return _outcome(step, done, interrupted)


def advance(step: Step, done: int, upto: int, steps: Steps) -> int:
    """Takes the steps from `done` until `upto` or Ctrl-C; returns how many are done."""
    if step.native is not None:
        problem = step.problem
        moves = problem.rows is not None
        data = (lambda k: step.tensors(problem.batch(k))) if moves else step.tensors(problem.data)
        step.native.advance(done, upto, step.course.halves, data)
        return upto
    assert step.call is not None  # there is a loop or a call
    state, call, rows = step.inputs(), step.call, step.problem.rows
    fixed, halves = step.tensors(step.problem.data), step.course.halves
    with torch.no_grad():
        while done < upto and not steps.stopped:
            try:
                grad = call(*state, *(step.tensors(rows.batch(done)) if rows else fixed))
            except LinAlgError:  # as a density that is not a number
                step.state["alive"].fill_(False)
                return done
            step.average(done, grad, halves)
            done += 1
    return done


def adopt(step: Step, flat: Tensor) -> Any:
    """Puts these parameters (P,) into model and guide; returns the guide."""
    values = step.parameters_at(flat)
    with torch.no_grad():
        for name, parameter in step.joined.named_parameters():
            if name in values:
                parameter.copy_(values[name])
    return step.problem.guide


# how it goes on, and how it ended ---------------------------------------------------------------


def _falls(step: Step) -> bool:
    """Whether the objective truly falls at the constant rate: on the rows held out, where there are some;
    else on those of the steps, on average over restarts.
    """
    course, state, held = step.course, step.state, step.problem.held
    done = int(state["step"])
    if held is not None:
        return held.rises(done, _averaged(step)[0], _bounds(step))
    history = state["history"][course.origin : done, state["alive"]].mean(1)
    return still_falls(history.double().cpu().numpy(), course.window)


def _bounds(step: Step) -> Bounds:
    """The bounds of the groups of rows held out, as a function of the parameters (P,)."""
    problem, held = step.problem, step.problem.held
    assert held is not None

    def of(flat: Tensor) -> Tensor:
        return held.bounds(problem.model, adopt(step, flat))

    return of


def _arrived(step: Step, best: int | None = None) -> bool:
    """Whether the best restart came to rest by the end of its last fall."""
    course, state, held = step.course, step.state, step.problem.held
    if course.spent:
        return False
    if best is None:
        best = int(_scores(step).argmin())
    if _froze(step, best):
        return False
    halves = {"first": state["first"][best], "second": state["second"][best]}
    if held is not None:
        return not held.still_rises(halves["first"], halves["second"], _bounds(step))
    history = state["history"][: course.end, best][-course.planned :]
    return converged(step.problem.guide, history, halves, state["gradient"][best])


def _froze(step: Step, best: int) -> str:
    """What to say where a schedule that was given ended the descent of a restart."""
    if step.optimiser.averaged:
        return ""
    history = step.state["history"][: step.course.end, best]
    return froze(history.double().cpu().numpy(), step.optimiser.rates)


def _averaged(step: Step) -> Tensor:
    """The parameters of each restart on average over the last steps of a phase, (R, P)."""
    return 0.5 * (step.state["first"] + step.state["second"])


def _scores(step: Step) -> Tensor:
    """The mean objective of each restart over the last fifth of the steps planned, (R,)."""
    done = int(step.state["step"])
    tail = step.state["history"][:done][-max(1, int(AVERAGED * step.steps)) :]
    return torch.where(step.state["alive"], tail.mean(0), torch.inf)


def _outcome(step: Step, done: int, interrupted: bool) -> Outcome:
    """The best restart's averaged parameters in model and guide, its history and its status."""
    problem, state, course = step.problem, step.state, step.course
    history = state["history"][:done]
    notes: dict[str, Any] = {
        "compiled": step.compiled,
        "native": step.native is not None,
        "path": "captured",
    }
    if not bool(state["alive"].any()):
        values, notes["nan"] = _stopped(step, history)
        return Outcome(problem.model, problem.guide, values, Status.STOPPED_BY_NAN, notes)
    finished = done == course.end and course.falling
    averaged = step.optimiser.averaged and finished
    result = _averaged(step) if averaged else state["flat"]
    scores = _scores(step)
    best = int(scores.argmin())
    values = history[:, best].cpu().double().numpy()
    status = Status.INTERRUPTED
    if not interrupted:
        status = Status.CONVERGED if _arrived(step, best) else Status.STILL_MOVING
        notes |= course.words(problem.held is not None)
        if frozen := _froze(step, best):
            notes["ended"] = frozen
        if problem.held is not None:
            result, told = problem.held.ends(result, _bounds(step), values, course.looked_at)
            notes |= told
    adopt(step, result[best])
    if step.restarts > 1 and finished:
        rhat = restarts_rhat(problem, result[state["alive"]], lambda flat: adopt(step, flat))
        notes |= {"restarts": step.restarts, "restarts_rhat": rhat}
        notes["restarts_objective"] = [float(s) for s in scores]
        if rhat > RESTARTS_RHAT and status is Status.CONVERGED:
            status = Status.RESTARTS_DISAGREE
        adopt(step, result[best])
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


def _with_warnings(outcome: Outcome, problem: Problem) -> Outcome:
    """The outcome with its active dimensions, and what to warn of: none active, a support left."""
    data = problem.data if problem.rows is None else problem.rows.head(ROWS)
    with evaluated(outcome.model, outcome.guide):
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
