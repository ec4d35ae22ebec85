"""The reference path: pyro.infer.SVI itself, with the same schedule and the same averaging."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from guidebook.errors import GuidebookError, ModelError, SettingError, line_of_user
from guidebook.inference.fits.running import counted
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.activity import watch
from guidebook.inference.gradient.arrival import (
    LEAST_TO_JUDGE,
    cause_of_nan,
    flat_at_the_end,
    froze,
)
from guidebook.inference.gradient.chosen import pyros_name
from guidebook.inference.gradient.course import Course, still_falls
from guidebook.inference.gradient.problem import LOOK_EVERY, Outcome, Problem, Settings
from guidebook.inference.objectives.schedules import schedule_table
from guidebook.inference.optimisers.given import clips_of, is_scheduler, options_of
from guidebook.inference.optimisers.optimiser import Optimiser
from guidebook.programs.owned import Joined, statements_of
from guidebook.scope import quiet, start_random, subsampling, validation


def run_reference(problem: Problem, settings: Settings, default: Optimiser) -> Outcome:
    """Steps of pyro.infer.SVI in a scoped parameter store.

    Raises:
        SettingError: with a checkpoint, which only the captured path writes.
        ModelError: a step fails, with Pyro's or torch's message.
    """
    if settings.checkpoint is not None:
        raise SettingError(
            "checkpoint= needs a step that is recorded: leave compile='auto', use pyro.optim.Adam, "
            "another optimiser that is recorded, or no optim, and write model and guide "
            "without .item() and without control flow that depends on values."
        )
    joined = Joined(problem.model, problem.guide)
    table = schedule_table(problem.objective, settings.steps)
    own = settings.optim is None
    rates = default.rates if own else default.rates[:1].expand(settings.steps)
    course = Course(rates, table, own, settings.auto)
    history: list[float] = []
    nan = False
    start_random(problem.seed)  # the random numbers of the captured path
    with _pyros_own_mode(problem.subsampled):
        averages = _Halves(joined, course, problem)
        take = _stepper(problem, settings, course, averages.rates)
        look = watch(problem.model, lambda: problem.guide, problem.batch)
        with counted("svi", course.end, shown=settings.progress) as steps:
            for step in steps:
                before, generator = _copies(joined), torch.get_rng_state()
                history.append(take(step))
                nan = not (math.isfinite(history[-1]) and _finite(joined))
                if nan:
                    _put(joined, before)
                    torch.set_rng_state(generator)  # the draws that did it
                    break
                averages.take(step)
                course.is_over(
                    len(history), lambda: averages.falls(history), lambda: averages.arrived(history)
                )
                steps.plan(course.end)
                if step % LOOK_EVERY == 0:
                    active = look() if settings.progress else ""
                    steps.show(objective=history[-1], active=active)
            interrupted = steps.stopped
        return _outcome(problem, averages, np.array(history), nan, interrupted, own)


def _outcome(
    problem: Problem,
    averages: _Halves,
    history: np.ndarray,
    nan: bool,
    interrupted: bool,
    own: bool,
) -> Outcome:
    """The averaged parameters, or the last ones, in model and guide; status and notes."""
    notes: dict[str, Any] = {"path": "reference", "compiled": False}
    status, held = Status.INTERRUPTED, problem.held
    if nan:
        notes["nan"] = cause_of_nan(problem, len(history) - 1, history[-1])
        status = Status.STOPPED_BY_NAN
    elif not interrupted:
        status = Status.CONVERGED if averages.arrived(history) else Status.STILL_MOVING
        result = averages.mean if own else averages.now
        notes |= averages.course.words(held is not None)
        if frozen := averages.froze(history):
            notes["ended"] = frozen
        if held is not None:
            window = averages.course.looked_at
            ends, told = held.ends(result[None], averages.bounds, history, window)
            result, notes = ends[0], notes | told
        averages.put(result)
    return Outcome(problem.model, problem.guide, history, status, notes)


def _stepper(
    problem: Problem, settings: Settings, course: Course, rates: list[float]
) -> Callable[[int], float]:
    """A function of the step's number that takes it and returns the objective before it; where a schedule
    was given, the rate of the step enters `rates`.
    """
    own = settings.optim is None
    optimiser = _as_given(problem, settings) or pyro.optim.Adam({"lr": course.rate(0)})
    names = list(getattr(problem.objective, "schedules", {}))
    table = course.table()
    model, guide = registered("model", problem.model), registered("guide", problem.guide)
    stepper = SVI(model, guide, optimiser, problem.objective)

    def take(step: int) -> float:
        if own:
            _set_rate(optimiser, course.rate(step))
        if names:
            values = dict(zip(names, table[step].tolist(), strict=True))
            stepper.loss_and_grads = problem.objective.at(**values).loss_and_grads
        if step > 0 and is_scheduler(optimiser):
            optimiser.step()
        with _in_words(problem, step):
            loss = float(stepper.step(**problem.batch(step)))
        if is_scheduler(optimiser):
            rates.append(max(one.get_last_lr()[0] for one in optimiser.optim_objs.values()))
        return loss

    return take


@contextlib.contextmanager
def _in_words(problem: Problem, step: int) -> Iterator[None]:
    """Turns what fails in a step into an error of ours: model and guide have run on the data before."""
    try:
        yield
    except (GuidebookError, MemoryError):
        raise
    except Exception as error:
        message = " ".join(str(error).split()).split(" Trace Shapes:")[0][:600].rstrip(".")
        where = line_of_user(error) or "in the objective"
        raise ModelError(
            f"Step {step + 1} of pyro.infer.SVI fails, though model and guide run on the data: "
            f"{type(error).__name__}: {message} ({where}). A step takes gradients besides: whatever leaves "
            "torch, as .numpy(), needs .detach() before it, and the objective sites that it can score."
        ) from error


def _as_given(problem: Problem, settings: Settings) -> Any:
    """A copy of the optimiser, which is asked for options by the names that Pyro has for parameters."""
    given = copy.deepcopy(settings.optim)
    if given is None:
        return None
    joined = Joined(problem.model, problem.guide)
    # a parameter of both parts is asked for by the name that either gives it
    trained = joined.named_parameters(remove_duplicate=False)
    names = {name: pyros_name(joined, name) for name, _ in trained}

    def named(name: str) -> str:
        return names.get(name, name)

    if callable(given.pt_optim_args):
        given.pt_optim_args = lambda name: options_of(settings.optim, named(name))
        given.pt_optim_args_argc = 1
    if callable(given.pt_clip_args):
        given.pt_clip_args = lambda _, name: clips_of(settings.optim, named(name))
    return given


class _Halves:
    """The running means of the parameters over both halves of the last steps of a phase, and what they
    say of how the fit goes.
    """

    def __init__(self, joined: nn.Module, course: Course, problem: Problem) -> None:
        self.joined, self.course, self.problem = joined, course, problem
        self.first, self.second = torch.zeros_like(self.now), torch.zeros_like(self.now)
        self.rates: list[float] = []
        if problem.held is not None:
            problem.held.begin(self.now)

    @property
    def now(self) -> Tensor:
        """All parameters, flat."""
        return parameters_to_vector(self.joined.parameters()).detach()

    @property
    def mean(self) -> Tensor:
        """Their mean over the last steps."""
        return 0.5 * (self.first + self.second)

    def put(self, flat: Tensor) -> None:
        """Gives the parameters these values."""
        parameters = list(self.joined.parameters())
        pieces = flat.split([p.numel() for p in parameters])
        _put(self.joined, [v.view_as(p) for v, p in zip(pieces, parameters, strict=True)])

    def take(self, step: int) -> None:
        """The parameters after a step enter, where it is one of the last."""
        start, middle = self.course.halves
        if start <= step < middle:
            self.first.lerp_(self.now, 1 / (step - start + 1))
        elif step >= middle:
            self.second.lerp_(self.now, 1 / (step - middle + 1))

    def bounds(self, flat: Tensor) -> Tensor:
        """The bounds of the groups of rows held out (10,), at these parameters."""
        assert self.problem.held is not None
        before = self.now
        self.put(flat)
        found = self.problem.held.bounds(self.problem.model, self.problem.guide)
        self.put(before)
        return found

    def falls(self, history: list[float]) -> bool:
        """Whether the objective truly falls at the constant rate, as in the captured path."""
        if self.problem.held is not None:
            return self.problem.held.rises(len(history), self.mean, self.bounds)
        return still_falls(np.array(history[self.course.origin :]), self.course.window)

    def arrived(self, history: Sequence[float] | np.ndarray) -> bool:
        """Whether the fit came to rest by the end of its last fall."""
        if self.course.spent:
            return False
        if self.problem.held is not None:
            return not self.problem.held.still_rises(self.first, self.second, self.bounds)
        last = np.array(history[-self.course.planned :])
        return len(last) >= LEAST_TO_JUDGE and flat_at_the_end(last) and not self.froze(history)

    def froze(self, history: Sequence[float] | np.ndarray) -> str:
        """What to say where a schedule that was given ended the descent."""
        return froze(np.array(history), torch.tensor(self.rates)) if self.rates else ""


@contextlib.contextmanager
def _pyros_own_mode(subsampled: bool) -> Iterator[None]:
    """Parameters in a fresh store; values that are not finite end the fit, not an assertion."""
    with (
        pyro.settings.context(module_local_params=False), pyro.get_param_store().scope(),
        subsampling(subsampled), validation(False), quiet("Encountered"),
    ):  # fmt: skip
        yield


def registered(name: str, part: Any) -> Callable[..., Any]:
    """The part as pyro.infer.SVI needs it: parameters of a plain module become Pyro's."""
    told = isinstance(part, PyroModule) and statements_of(part) is None
    return part if told else _Registered(name, part)


class _Registered(nn.Module):
    """A module, so that an objective can put other values in the place of its parameters."""

    def __init__(self, name: str, part: nn.Module) -> None:
        super().__init__()
        self.name, self.part = name, part

    def forward(self, **data: Any) -> Any:
        for key, parameter in self.part.named_parameters():
            if parameter.requires_grad:
                pyro.param(f"{self.name}.{key}", parameter)
        return self.part(**data)


def _set_rate(optimiser: Any, rate: float) -> None:
    optimiser.pt_optim_args["lr"] = rate
    for one in optimiser.optim_objs.values():
        for group in one.param_groups:
            group["lr"] = rate


def _copies(joined: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in joined.parameters()]


def _finite(joined: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in joined.parameters())


def _put(joined: nn.Module, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(joined.parameters(), values, strict=True):
            parameter.copy_(value)
