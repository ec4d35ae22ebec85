"""The optimiser of a fit: the default, or the one that was given, read for the parameters of its problem."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pyro.nn import PyroModule
from torch import Tensor

from guidebook.inference.gradient.course import BUDGET
from guidebook.inference.gradient.problem import Problem, Settings
from guidebook.inference.objectives.given import differentiable
from guidebook.inference.optimisers.adam import falling_adam
from guidebook.inference.optimisers.given import read
from guidebook.inference.optimisers.optimiser import Optimiser
from guidebook.inference.protocols.mode import defaults_of
from guidebook.programs.graphs.recorded import CannotRecord, reason, recording
from guidebook.programs.owned import Joined
from guidebook.programs.statements import evaluated
from guidebook.scope import subsampling


def default_optimiser(problem: Problem, steps: int) -> Optimiser:
    """Adam with a falling step size, its scale by what the guide says, or the kind of parameters."""
    rate = defaults_of(problem.guide).rate
    if rate is None:
        parameters = Joined(problem.model, problem.guide).parameters()
        rate = 0.001 if any(p.dim() > 1 for p in parameters) else 0.01
    return falling_adam(rate, steps)


def chosen_optimiser(problem: Problem, settings: Settings) -> Optimiser:
    """The optimiser that was given as a rule with its numbers; the default where none was.

    Raises:
        CannotRecord: it is not among those that are recorded.
        SettingError: options that torch refuses, or a schedule that ends before the fit.
    """
    if settings.optim is None:
        return default_optimiser(problem, settings.steps)
    joined = Joined(problem.model, problem.guide)
    trained = {n: p for n, p in joined.named_parameters() if p.requires_grad}
    if not trained:
        return default_optimiser(problem, settings.steps)  # nothing to move: the step says so
    named = [(pyros_name(joined, name), p) for name, p in trained.items()]
    steps = BUDGET * settings.steps if settings.auto else settings.steps
    return read(settings.optim, named, lambda: _unseen(problem, joined, trained), steps)


def _unseen(problem: Problem, joined: Joined, trained: Mapping[str, Tensor]) -> list[bool]:
    """Which parameters the objective does not depend on, found by one run of the program."""
    objective, free = problem.objective, {n: p.detach().clone() for n, p in trained.items()}
    try:
        with recording(), evaluated(joined), subsampling(problem.subsampled):
            given = differentiable(objective), problem.data
            leaves = {n: p.requires_grad_() for n, p in free.items()}
            loss = torch.func.functional_call(joined, leaves, given)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    except Exception as error:
        raise CannotRecord(reason(error)) from error
    return [gradient is None for gradient in found]


def pyros_name(joined: Joined, name: str) -> str:
    """What Pyro's parameter store would call a parameter of model or guide."""
    path, _, place = name.rpartition(".")
    above, _, listed = path.rpartition(".")
    statements = getattr(joined.get_submodule(above), "names", None)
    if listed == "unconstrained" and isinstance(statements, list):  # of pyro.param and pyro.module
        return str(statements[int(place)])
    side, _, key = name.removesuffix("_unconstrained").partition(".")
    part = getattr(joined, side)
    prefix = part._pyro_name if isinstance(part, PyroModule) else ""
    return f"{prefix}.{key}" if prefix else key
