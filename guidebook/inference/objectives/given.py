"""The objective that was given to svi: which is taken as it is, which as its plain twin, which is none.

A recorded step needs a loss whose gradient by automatic differentiation is the estimator's. Pyro's
`SVI` asks for `loss_and_grads`; where both are there they are the same estimate, unless a class replaces the
second and inherits the first.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.traceenum_elbo import _compute_dice_elbo
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.inference.objectives.objective import Objective
from guidebook.programs.graphs.recorded import CannotRecord

PLAIN = {
    JitTrace_ELBO: Trace_ELBO,
    JitTraceEnum_ELBO: TraceEnum_ELBO,
    JitTraceGraph_ELBO: TraceGraph_ELBO,
    JitTraceMeanField_ELBO: TraceMeanField_ELBO,
}
"""The same estimates without torch.jit, which the recorded step takes the place of."""


class Function(Objective):
    """A function loss(model, guide, **data) whose result is differentiated, as SVI does with one."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        return self.function(model, guide, *args, **data)


def objective_of(objective: Any) -> Any:
    """The objective, or its twin that estimates the same.

    Raises:
        SettingError: it is no objective, or none whose value can be followed.
    """
    if objective is None:
        return None
    if inspect.isclass(objective):
        name = objective.__name__
        raise SettingError(f"objective={name} is a class: give an object, objective={name}().")
    if type(objective) in PLAIN:
        twin = copy.copy(objective)
        twin.__class__ = PLAIN[type(objective)]
        return twin
    if isinstance(objective, TraceTailAdaptive_ELBO):
        raise SettingError(
            "TraceTailAdaptive_ELBO estimates a gradient and no objective (its loss is infinite), so "
            "whether a fit arrived could not be said. Give another objective: "
            "guidebook.inference.objectives.importance.ImportanceWeightedELBO() covers the mass too."
        )
    if type(objective) is ReweightedWakeSleep:
        raise SettingError(
            "ReweightedWakeSleep has two losses, one of the model and one of the guide. Fit it by "
            "gb.wake_sleep(model, guide, data, particles=...)."
        )
    if isinstance(objective, ELBO):
        return objective
    if not callable(objective):
        raise SettingError(
            f"objective={objective!r} is none: give an object of pyro.infer, as Trace_ELBO(), one of "
            "guidebook.inference.objectives, or a function of model, guide and data."
        )
    return Function(objective)


def differentiable(objective: Any) -> Callable[..., Tensor]:
    """The loss of model, guide and data to differentiate.

    TraceEnum_ELBO's own asks its result whether it requires a gradient, which it denies inside a
    vmap over particles; here it is the same sum without the question.

    Raises:
        CannotRecord: there is none, or it may differ from the estimate that Pyro's SVI would follow.
    """
    kind = type(objective)
    if kind is TraceEnum_ELBO:
        return lambda model, guide, **data: _enumerated(objective, model, guide, data)
    if not hasattr(objective, "differentiable_loss"):
        raise CannotRecord(
            f"{kind.__name__} has no differentiable_loss, as Trace_ELBO, TraceEnum_ELBO and those of "
            "guidebook.inference.objectives have"
        )
    if _defines(kind, "loss_and_grads") < _defines(kind, "differentiable_loss"):
        raise CannotRecord(
            f"{kind.__name__} has a loss_and_grads of its own and inherits differentiable_loss; give it "
            "one that is the same estimate"
        )
    loss: Callable[..., Tensor] = objective.differentiable_loss
    return loss


def _defines(kind: type, method: str) -> int:
    """The place in the order of resolution of the class that defines a method."""
    return next(
        (i for i, base in enumerate(kind.__mro__) if method in vars(base)), len(kind.__mro__)
    )


def _enumerated(objective: Any, model: Any, guide: Any, data: dict[str, Any]) -> Tensor:
    traces = objective._get_traces(model, guide, (), data)
    elbos = [_compute_dice_elbo(*pair) for pair in traces]
    total: Tensor = -sum(elbos) / objective.num_particles
    return total
