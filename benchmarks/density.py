"""The log density of a Pyro model as a function of one flat unconstrained vector.

Independent of Guidebook's engines, so that the benchmarks do not check them against themselves.
Supports are read at the site while the model runs: a support may depend on another site.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

DTYPE = torch.float64


class _Constrain(poutine.messenger.Messenger):
    """Give every latent site the image of an unconstrained value; add up the log Jacobians.

    A site without a value is started at zero, and its unconstrained shape is remembered.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = dict(values)
        self.log_jacobian = torch.zeros((), dtype=DTYPE)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        transform = biject_to(msg["fn"].support)
        if msg["name"] not in self.values:
            shape = transform.inverse_shape(msg["fn"].shape())
            self.values[msg["name"]] = torch.zeros(shape, dtype=DTYPE)
        position = self.values[msg["name"]]
        value = transform(position)
        jacobian = transform.log_abs_det_jacobian(position, value)
        self.log_jacobian = self.log_jacobian + jacobian.sum()
        msg["value"], msg["done"] = value, True


@dataclass(frozen=True)
class FlatDensity:
    """``log_prob(x)`` of a flat vector, and ``constrain(x)``: the sites' values there."""

    model: Callable[..., Any]
    data: Mapping[str, Any]
    shapes: dict[str, torch.Size]

    @property
    def dim(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def _run(self, position: Tensor) -> tuple[Any, Tensor, Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = position.split(sizes)
        values = {n: p.reshape(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}
        constrain = _Constrain(values)
        with constrain, pyro.validation_enabled(False):
            trace = poutine.trace(self.model).get_trace(**self.data)
            log_joint = trace.log_prob_sum()
        return trace, log_joint, constrain.log_jacobian

    def log_prob(self, position: Tensor) -> Tensor:
        """Log joint density plus log Jacobian, a number."""
        _, log_joint, log_jacobian = self._run(position)
        return log_joint + log_jacobian

    def log_joint(self, position: Tensor) -> Tensor:
        """Log joint density of the constrained values at a flat position, without the Jacobian."""
        return self._run(position)[1]

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """Latent and deterministic sites at a flat position."""
        trace = self._run(position)[0]
        return {
            name: site["value"]
            for name, site in trace.nodes.items()
            if site["type"] == "sample"
            and (name in self.shapes or site["infer"].get("_deterministic", False))
        }

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """The flat position of constrained values (supports are read at these values)."""
        conditioned = poutine.condition(self.model, data=dict(values))
        with pyro.validation_enabled(False):
            trace = poutine.trace(conditioned).get_trace(**self.data)
        parts = [biject_to(trace.nodes[n]["fn"].support).inv(values[n]) for n in self.shapes]
        return torch.cat([part.reshape(-1) for part in parts])


def flat_density(model: Callable[..., Any], data: Mapping[str, Any]) -> FlatDensity:
    """Find the latent sites of ``model(**data)`` and their unconstrained shapes."""
    start = _Constrain({})
    with start, pyro.validation_enabled(False):
        poutine.trace(model).get_trace(**data)
    return FlatDensity(model, data, {name: value.shape for name, value in start.values.items()})
