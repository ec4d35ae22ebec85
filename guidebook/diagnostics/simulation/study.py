r"""The truths and the data sets of a calibration: drawn from the prior, or given the data.

    prior       z* ~ p(z),      y* ~ p(y | z*),   an engine is to find p(z | y*)
    posterior   z* ~ q(z | y),  y* ~ p(y | z*),   an engine is to find p(z | y, y*), proportional to
                                                  p(z) p(y | z) p(y* | z)

In both z* is, where q is exact, a draw of the posterior that is to be found.

Source: Säilynoja, Schmitt, Bürkner and Vehtari 2025, "Posterior SBC: simulation-based calibration checking
conditional on data".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.simulation.doubled import Doubled, again, guide_of
from guidebook.diagnostics.simulation.simulator import Simulator, Values
from guidebook.errors import DataError
from guidebook.inference.fits.fit import Fit
from guidebook.programs.check import check_model
from guidebook.programs.data import arguments, as_tensors, check, find_device
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.programs.owned import working_precision
from guidebook.programs.potential import Potential
from guidebook.programs.sites import latent_sites
from guidebook.scope import local_parameters, precision


@dataclass(frozen=True)
class Study:
    """What is fitted to what.

    Attributes:
        model, guide: of the fits.
        potential: of the model; the tensors that differ between data sets are its `changing`.
        truths: u* (R, D). datasets: of each the tensors that differ.
    """

    model: Any
    guide: Any
    potential: Potential
    truths: Tensor
    datasets: list[Values]

    def data(self, row: int) -> dict[str, Any]:
        """The model's keyword arguments of a data set."""
        return {**self.potential.data, **self.datasets[row]}

    def potential_of(self, row: int) -> Potential:
        """The potential at a data set, recorded once for all where the model can be."""
        if self.potential.changing:
            return self.potential.at(self.datasets[row])
        return Potential(self.model, self.data(row), self.potential.sites)


def from_prior(
    model: Callable[..., Any], guide: Any, data: Mapping[str, Any], count: int, seed: int
) -> Study:
    """Truths from the prior, each with data of the shapes of those given.

    Raises:
        DataError, ModelError: the data do not fit the model, or the model cannot simulate.
    """
    simulator, tensors = _simulator(model, guide, data)
    drawn = [simulator.draw(one) for one in _seeds(count, seed)]
    names = tuple(dict.fromkeys(simulator.arguments.values()))
    potential = _potential(model, tensors, simulator.dtype, names)
    values = {
        site.name: torch.stack([latents[site.name] for latents, _ in drawn])
        for site in potential.sites
    }
    truths = potential.unconstrain(values)
    return Study(model, guide, potential, truths, [given for _, given in drawn])


def from_posterior(
    model: Callable[..., Any], guide: Any, data: Mapping[str, Any], fit: Fit, count: int, seed: int
) -> Study:
    """Truths from a fit to the data, each with data simulated given it, to be fitted together with the data.

    Raises:
        DataError: draws of the fit that are fewer than the truths, or not finite.
        ModelError: the model cannot simulate.
    """
    simulator, tensors = _simulator(model, guide, data)
    names = tuple(dict.fromkeys(simulator.arguments.values()))
    one = _potential(model, tensors, simulator.dtype)
    if [site.name for site in fit.sites] != [site.name for site in one.sites]:
        raise DataError(
            f"The fit that truths are to be drawn from has the sites {[s.name for s in fit.sites]}, the "
            f"model has {[s.name for s in one.sites]}. Give a fit of this model to these data."
        )
    u, _ = fit.approximation.draw(count, seed)
    truths = thinned(u, count).to(one.dtype)
    if len(truths) < count or not bool(truths.isfinite().all()):
        raise DataError(
            f"The fit has {len(truths)} draws{'' if len(truths) < count else ', not all finite'}, and "
            f"{count} replications begin with one each. Ask for fewer replications, or fit again."
        )
    values = one.constrain(truths)
    latents = [{s.name: values[s.name][i] for s in one.sites} for i in range(count)]
    datasets = [
        again(simulator.given(z, k)) for z, k in zip(latents, _seeds(count, seed), strict=True)
    ]
    doubled = Doubled(model, names)
    both = {**tensors, **again({name: tensors[name] for name in names})}
    second = tuple(again({name: tensors[name] for name in names}))
    potential = _potential(doubled, both, simulator.dtype, second)
    own = None if guide is None else guide_of(guide, doubled)
    return Study(doubled, own, potential, truths, datasets)


def thinned(u: Tensor, most: int) -> Tensor:
    """At most so many of the draws u (chain, draw, D), evenly spaced, as (S, D)."""
    flat = u.flatten(0, 1)
    if len(flat) <= most:
        return flat
    places = torch.linspace(0, len(flat) - 1, most, dtype=torch.float64).round().long()
    return flat[places.to(flat.device)]


def _seeds(count: int, seed: int) -> list[int]:
    return [int(k) for k in np.random.SeedSequence(seed).generate_state(count)]


def _simulator(model: Any, guide: Any, data: Mapping[str, Any]) -> tuple[Simulator, dict[str, Any]]:
    given = arguments(model, data)
    check(given)

    def attempt(dtype: torch.dtype) -> tuple[Simulator, dict[str, Any]]:
        tensors = as_tensors(given, dtype, find_device(None, given))
        with local_parameters(), precision(dtype):
            check_model(model, tensors)
        return Simulator(model, tensors, dtype), tensors

    return working_precision(model, guide, attempt)


def _potential(
    model: Any, tensors: Mapping[str, Any], dtype: torch.dtype, changing: tuple[str, ...] = ()
) -> Potential:
    """The potential whose data may change; with none that may where the model reads their values."""
    with local_parameters(), precision(dtype), torch.no_grad():
        sites = latent_sites(model, tensors, discrete=True)
    one = Potential(model, tensors, sites, changing)
    try:
        if changing:
            one.single()
    except CannotRecord:
        return Potential(model, tensors, sites)
    return one
