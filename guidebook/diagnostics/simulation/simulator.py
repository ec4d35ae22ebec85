r"""Data simulated by a model with its observed arguments left out.

    z* ~ p(z),  y* ~ p(y | z*)          or, z* given,   y* ~ p(y | z*)

Simulated data are arguments of the model again, so that it can be fitted to them. That needs an
argument that is the observed value of each observed site, that may be left out, and a prior that can be
drawn from.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.constraints import real
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.programs.data import number_of_rows, takes
from guidebook.programs.graphs.recorded import reason
from guidebook.programs.nodes import is_deterministic
from guidebook.programs.sites import trace_at
from guidebook.scope import local_parameters, precision, random_state

Values = dict[str, Tensor]


class Simulator:
    """Draws latents and data of the shapes of these data.

    Attributes:
        arguments: observed site to the argument of the model that is its value.

    Raises:
        ModelError: the model cannot simulate such data; the message says why, and the remedy.
    """

    def __init__(self, model: Any, tensors: Mapping[str, Any], dtype: torch.dtype) -> None:
        self.model, self.tensors, self.dtype = model, dict(tensors), dtype
        with local_parameters(), precision(dtype), random_state(0), torch.no_grad():
            trace, _ = trace_at(model, self.tensors, None)  # at the origin: a prior may be flat
            _refuse_terms(trace)
            self.arguments = _arguments(model, trace, self.tensors)
        given = set(self.arguments.values())
        self._kept = {k: v for k, v in self.tensors.items() if k not in given}
        if takes(model, "size") and "size" not in self._kept:
            self._kept["size"] = number_of_rows(self.tensors)
        self._latents = [n for n, node in trace.nodes.items() if _latent(node)]

    def draw(self, seed: int) -> tuple[Values, Values]:
        """z*, by site, and y*, by argument.

        Raises:
            ModelError: the prior is flat or improper, or the simulated data have other shapes.
        """
        trace = self._run(self.model, seed)
        for name in self._latents:
            refuse_flat(name, trace.nodes[name])
        return {n: trace.nodes[n]["value"] for n in self._latents}, self._data_of(trace)

    def given(self, latents: Values, seed: int) -> Values:
        """y* ~ p(y | z) by argument, for values z of the latent sites."""
        return self._data_of(self._run(poutine.condition(self.model, data=latents), seed))

    def _run(self, model: Any, seed: int) -> Any:
        with local_parameters(), precision(self.dtype), random_state(seed), torch.no_grad():
            try:
                return poutine.trace(model).get_trace(**self._kept)
            except NotImplementedError as error:
                raise ModelError(
                    f"A prior of the model cannot be drawn from ({reason(error)}), so no data can be "
                    "simulated from it. Give every latent site a proper prior, or calibrate from the "
                    "posterior (of='posterior')."
                ) from error
            except Exception as error:  # whatever the user's model does without its data
                raise ModelError(
                    f"The model cannot simulate with {sorted(self.arguments.values())} left out: "
                    f"{reason(error)}. Write it so that its observed arguments may be "
                    "None and the number of rows follows from another argument, such as size."
                ) from error

    def _data_of(self, trace: Any) -> Values:
        found = {}
        for site, argument in self.arguments.items():
            value, like = trace.nodes[site]["value"], self.tensors[argument]
            if value.shape != like.shape:
                raise ModelError(
                    f"With '{argument}' left out the model simulates the shape {tuple(value.shape)}; the "
                    f"data have {tuple(like.shape)}. Let the number of rows follow from another argument, "
                    "such as size."
                )
            found[argument] = value.to(like)
        return found


def _arguments(model: Any, trace: Any, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Of every observed site the argument that is its value.

    Raises:
        ModelError: a site without one, or an argument that cannot be left out.
    """
    found = {}
    for name, node in trace.nodes.items():
        if not _observed(node):
            continue
        same = [
            k for k, v in tensors.items() if isinstance(v, Tensor) and _is_same(v, node["value"])
        ]
        if not same:
            raise ModelError(
                f"The observed value of site '{name}' is not an argument of the model, so simulated data "
                "cannot be given back to it. Write the site with obs=y, where y=None is an argument."
            )
        found[name] = same[0]
    if not found:
        raise ModelError(
            "The model has no observed site, so there are no data to simulate. Write the model with "
            "y=None and obs=y."
        )
    _may_be_left_out(model, sorted(set(found.values())))
    return found


def _is_same(one: Tensor, other: Any) -> bool:
    return other is one or (
        isinstance(other, Tensor)
        and other.data_ptr() == one.data_ptr()
        and other.shape == one.shape
    )


def _may_be_left_out(model: Any, names: list[str]) -> None:
    told = getattr(model, "__wrapped__", model)
    try:
        known = inspect.signature(told.forward if isinstance(told, torch.nn.Module) else told)
    except (TypeError, ValueError):
        return
    for name in names:
        one = known.parameters.get(name)
        if one is not None and one.default is one.empty:
            raise ModelError(
                f"The argument '{name}' is observed and has no default, so the model cannot simulate it. "
                f"Write the model with {name}=None and obs={name}."
            )


def _refuse_terms(trace: Any) -> None:
    """Refuses terms of the joint density that no simulation can follow."""
    for name, node in trace.nodes.items():
        if node["type"] == "param":
            raise ModelError(
                f"The model has a parameter '{name}' that an engine would fit to every simulated data set "
                "anew. Give it a prior, or put its value in its place."
            )
        if node["type"] != "sample" or site_is_subsample(node):
            continue
        if isinstance(node["fn"], Unit):
            raise ModelError(
                f"The model adds a term to its log density (pyro.factor '{name}'), which cannot be "
                "simulated. Write it as a distribution of a site with obs=."
            )
        scale = torch.as_tensor(node["scale"])
        if not is_deterministic(node) and bool((scale != 1).any()):
            raise ModelError(
                f"The log density of site '{name}' is scaled by {float(scale.max()):.3g} (poutine.scale, or "
                "a plate of a mini-batch), so data simulated from the model are not of its posterior. "
                "Calibrate the model on all rows and without scales."
            )


def refuse_flat(name: str, node: Any) -> None:
    """Refuses a prior that is flat on an unbounded support: its draws are not of the model."""
    fn = node["fn"]
    mask = node["mask"]
    unbounded = fn.support is real or getattr(fn.support, "base_constraint", None) is real
    density = fn.log_prob(node["value"])
    flat = unbounded and bool((density == 0).all())
    if flat or (mask is not None and not bool(torch.as_tensor(mask).all())):
        raise ModelError(
            f"The prior of site '{name}' is flat, so it has no draws and no data can be simulated from "
            "it. Give it a proper prior, or calibrate from the posterior (of='posterior')."
        )


def _observed(node: Any) -> bool:
    return (
        node["type"] == "sample"
        and node["is_observed"]
        and not site_is_subsample(node)
        and not is_deterministic(node)
    )


def _latent(node: Any) -> bool:
    return node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
