"""What an objective is: a differentiable loss of model and guide, and numbers that may be scheduled.

Weights and temperatures may be numbers or schedules (`guidebook.inference.objectives.schedules`),
which follow the steps of `svi`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guidebook.errors import GuideError, SettingError
from guidebook.inference.fits.running import check_whole
from guidebook.inference.objectives.rows import (
    latent_sites,
    row_log_density,
    traced,
    values_of,
)
from guidebook.inference.objectives.schedules import Schedule

Number = float | Schedule


LOOKS = 201
"""How many values of a schedule are looked at before a fit starts."""


class Objective(ELBO):
    """What Pyro's `SVI`, and `svi` here, ask of an objective, made from its `differentiable_loss`.

    `schedules` names the numbers that follow a schedule; `at(name=value)` is the objective with
    these numbers as given (numbers or tensors). By itself a scheduled objective has the values of the
    end of its schedules.
    """

    def __init__(self, particles: int = 1, max_plate_nesting: int = 1, **numbers: Number) -> None:
        check_whole(particles=(particles, 1))
        super().__init__(num_particles=particles, max_plate_nesting=max_plate_nesting)
        self.schedules: Mapping[str, Schedule] = MappingProxyType(
            {name: value for name, value in numbers.items() if callable(value)}
        )
        self.numbers: dict[str, Any] = {
            name: value(1.0) if callable(value) else value for name, value in numbers.items()
        }

    def at(self, **values: Any) -> Objective:
        """A copy whose numbers have these values; SettingError for a name it does not have."""
        unknown = set(values) - set(self.numbers)
        if unknown:
            raise SettingError(
                f"{type(self).__name__} has no weight or temperature {sorted(unknown)}; it has "
                f"{list(self.numbers)}."
            )
        twin = copy.copy(self)
        twin.numbers = {**self.numbers, **values}
        return twin

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **data: Any
    ) -> Tensor:
        """The loss, a scalar whose gradient by autodiff is the estimator's."""
        raise NotImplementedError

    def loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> float:
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **data))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **data: Any) -> float:
        loss = self.differentiable_loss(model, guide, *args, **data)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        drawn = self._drawn(guide, kwargs)
        return self._scored(model, kwargs, values_of(drawn)), drawn

    def _drawn(self, guide: Any, data: Mapping[str, Any]) -> Any:
        """The guide's trace, which must be reparameterised."""
        trace = traced(guide, data, self.num_particles, self.max_plate_nesting)
        for name, site in latent_sites(trace).items():
            if not site["fn"].has_rsample:
                raise GuideError(
                    f"Site {name!r} of the guide is {type(site['fn']).__name__}, whose draws have no "
                    f"gradient, so {type(self).__name__} would not train it. For categorical sites "
                    "use RelaxedELBO; for any site pyro.infer.Trace_ELBO or TraceGraph_ELBO."
                )
        return trace

    def _scored(self, part: Any, data: Mapping[str, Any], at: Mapping[str, Tensor]) -> Any:
        return traced(part, data, self.num_particles, self.max_plate_nesting, at)

    def _row_density(self, trace: Any, plate: str) -> Tensor:
        return row_log_density(trace, self.num_particles, plate, self.max_plate_nesting)


def observed_and_latent(trace: Any) -> tuple[Any, Any]:
    """The log densities of the observed and of the latent sites, scaled, each summed."""
    trace.compute_log_prob()
    observed: Any = 0.0
    latent: Any = 0.0
    for site in trace.nodes.values():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if site["is_observed"]:
            observed = observed + site["log_prob_sum"]
        else:
            latent = latent + site["log_prob_sum"]
    return observed, latent


def check_number(name: str, value: Number, least: float, hint: str, above: bool = False) -> None:
    """Raise SettingError where a number, or a schedule anywhere, is below `least` or not finite."""
    values = [value(i / (LOOKS - 1)) for i in range(LOOKS)] if callable(value) else [value]
    for number in values:
        fine = isinstance(number, (int, float)) and math.isfinite(number)
        if not fine or number < least or (above and number == least):
            told = f"{name} is {number!r}" + (" along its schedule" if callable(value) else "")
            bound = f"above {least:g}" if above else f"of at least {least:g}"
            raise SettingError(f"{told}: give a finite number {bound} ({hint}).")
