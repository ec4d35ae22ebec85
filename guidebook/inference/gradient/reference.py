"""The reference path: pyro.infer.SVI itself, with the same schedule and the same averaging."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import SVI
from pyro.nn import PyroModule
from torch import nn

from guidebook.errors import SettingError
from guidebook.inference.fits.running import counted
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.activity import watch
from guidebook.inference.gradient.adam import AVERAGED, Optimiser, schedule_table
from guidebook.inference.gradient.arrival import cause_of_nan, flat_at_the_end
from guidebook.inference.gradient.problem import LOOK_EVERY, Outcome, Problem, Settings
from guidebook.programs.owned import Joined
from guidebook.scope import quiet, validation


def run_reference(problem: Problem, settings: Settings, default: Optimiser) -> Outcome:
    """Steps of pyro.infer.SVI in a scoped parameter store.

    Raises:
        SettingError: with a checkpoint, which only the captured path writes.
    """
    if settings.checkpoint is not None:
        raise SettingError(
            "checkpoint= needs a step that is recorded: leave compile='auto', use pyro.optim.Adam or no "
            "optim, and write model and guide without .item() and without control flow that depends on "
            "values."
        )
    joined = Joined(problem.model, problem.guide)
    average = _Average(joined, settings.steps) if settings.optim is None else None
    history: list[float] = []
    nan, interrupted = False, False
    torch.manual_seed(problem.seed)  # the random numbers of the captured path
    with _pyros_own_mode():
        take = _stepper(problem, settings, default)
        look = watch(problem.model, lambda: problem.guide, problem.batch)
        with counted("svi", settings.steps, shown=settings.progress) as steps:
            for step in steps:
                before, generator = _copies(joined), torch.get_rng_state()
                history.append(take(step))
                nan = not (math.isfinite(history[-1]) and _finite(joined))
                if nan:
                    _put(joined, before)
                    torch.set_rng_state(generator)  # the draws that did it
                    break
                if average:
                    average.take(step)
                if step % LOOK_EVERY == 0:
                    active = look() if settings.progress else ""
                    steps.show(objective=history[-1], active=active)
            interrupted = steps.stopped
    notes: dict[str, Any] = {"path": "reference", "compiled": False}
    if nan:
        notes["nan"] = cause_of_nan(problem, len(history) - 1, history[-1])
    elif average and not interrupted:
        _put(joined, average.means)
    status = Status.STOPPED_BY_NAN if nan else _status(np.array(history), interrupted)
    return Outcome(problem.model, problem.guide, np.array(history), status, notes)


def _status(history: np.ndarray, interrupted: bool) -> Status:
    if interrupted:
        return Status.INTERRUPTED
    calm = len(history) >= 100 and flat_at_the_end(history)
    return Status.CONVERGED if calm else Status.STILL_MOVING


def _stepper(problem: Problem, settings: Settings, default: Optimiser) -> Callable[[int], float]:
    """A function of the step's number that takes it and returns the objective before it."""
    own = settings.optim is None
    optimiser = copy.deepcopy(settings.optim) or pyro.optim.Adam({"lr": float(default.rates[0])})
    names = list(getattr(problem.objective, "schedules", {}))
    table = schedule_table(problem.objective, settings.steps)
    model, guide = registered("model", problem.model), registered("guide", problem.guide)
    stepper = SVI(model, guide, optimiser, problem.objective)

    def take(step: int) -> float:
        if own:
            _set_rate(optimiser, float(default.rates[step]))
        if names:
            values = dict(zip(names, table[step].tolist(), strict=True))
            stepper.loss_and_grads = problem.objective.at(**values).loss_and_grads
        return float(stepper.step(**problem.batch(step)))

    return take


class _Average:
    """The running mean of the parameters over the last fifth of the steps."""

    def __init__(self, joined: nn.Module, steps: int) -> None:
        self.joined, self.start, self.taken = joined, steps - max(2, int(AVERAGED * steps)), 0
        self.means = [torch.zeros_like(p) for p in joined.parameters()]

    def take(self, step: int) -> None:
        """The parameters after a step enter, where it is one of the last fifth."""
        if step < self.start:
            return
        self.taken += 1
        for mean, now in zip(self.means, self.joined.parameters(), strict=True):
            mean += (now.detach() - mean) / self.taken


@contextlib.contextmanager
def _pyros_own_mode() -> Iterator[None]:
    """Parameters in a fresh store; values that are not finite end the fit, not an assertion."""
    with (
        pyro.settings.context(module_local_params=False), pyro.get_param_store().scope(),
        validation(False), quiet("Encountered"),
    ):  # fmt: skip
        yield


def registered(name: str, part: Any) -> Callable[..., Any]:
    """The part as pyro.infer.SVI needs it: parameters of a plain module become Pyro's."""
    return part if isinstance(part, PyroModule) else _Registered(name, part)


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
