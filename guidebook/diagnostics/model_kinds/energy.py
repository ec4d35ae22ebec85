"""Numbers of a Boltzmann machine: its posterior means, its recall, what it learned, its log Z."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.model_kinds.normaliser import LogNormaliser, log_normaliser
from guidebook.diagnostics.model_kinds.recall import Memory, memory
from guidebook.guides.energy.spin_gibbs import SpinGibbs
from guidebook.models.energy.boltzmann import BoltzmannMachine

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray

BURN_IN = 200
CHAINS = 16


@dataclass(frozen=True)
class EnergyNumbers:
    """What is known of a machine of V visible and H hidden units, all of them -1 or +1.

    - `rows` (n, V): what was seen.
    - `means`: by the name of the approximation, E[x] (n, V + H) given what was seen; none for a
      restricted machine, whose hidden units have no places beside the visible ones.
    - `memory`: recall, of a machine that keeps patterns.
    - `weights` (V, H) between the layers and `samples` (16, V), of a restricted machine.
    - `normaliser`: log Z and its bounds over the inverse temperature.
    """

    rows: Array
    hidden: int
    means: dict[str, Array]
    memory: Memory | None
    weights: Array | None
    samples: Array | None
    normaliser: LogNormaliser


def energy_numbers(
    model: Any,
    data: Mapping[str, Any] | None,
    posteriors: Mapping[str, xr.DataTree],
    seed: int = 0,
) -> EnergyNumbers | None:
    """The numbers of a `BoltzmannMachine` with visible and hidden units; None for any other model.

    Arguments: the model and its data (`v` (n, V)); by the name of the approximation its draws, with
    `h` (chain, draw, n, H); the seed of recalls, samples and annealing. Some seconds.
    """
    if not isinstance(model, BoltzmannMachine) or data is None:
        return None
    if not model.visible or not model.hidden:
        return None
    rows = torch.as_tensor(data["v"]).to(model.bias)
    V = model.visible
    with torch.no_grad():
        return EnergyNumbers(
            rows=rows.cpu().numpy(),
            hidden=model.hidden,
            means={} if model.restricted else _means(rows, posteriors),
            memory=memory(model, rows, seed),
            weights=model.weights[:V, V:].cpu().numpy() if model.restricted else None,
            samples=samples(model, seed).cpu().numpy() if model.restricted else None,
            normaliser=log_normaliser(model, seed),
        )


def _means(rows: Tensor, posteriors: Mapping[str, xr.DataTree]) -> dict[str, Array]:
    found = {}
    for name, tree in posteriors.items():
        if "h" in tree["posterior"]:
            mean = tree["posterior"]["h"].mean(("chain", "draw")).values
            found[name] = np.concatenate([rows.cpu().numpy(), mean], -1)
    return found


def samples(machine: BoltzmannMachine, seed: int = 0) -> Tensor:
    """Visible units (16, V), one draw from each of as many chains after 200 sweeps of Gibbs sampling."""
    generator = torch.Generator().manual_seed(seed)
    sampler = SpinGibbs(machine, clamped=False)
    state = sampler.initial({}, CHAINS, generator)
    for _ in range(BURN_IN):
        state = sampler.sweep(state, {}, generator)
    return state["v"].squeeze(1)
