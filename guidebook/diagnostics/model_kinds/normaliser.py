"""log Z of a Boltzmann machine over the inverse temperature: truth, estimate and variational bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guidebook.errors import ModelError
from guidebook.guides.energy.mean_field import mean_field_fixed_point
from guidebook.inference.energy.annealing import annealed_importance_sampling
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import Boltzmann

Array = np.ndarray

TEMPERATURES = 8
BLOCKS = (4, 8)


@dataclass(frozen=True)
class LogNormaliser:
    """log Z at the inverse temperatures `betas` (B,), from 0 to twice the machine's own.

    - `bounds`: lower bounds (B,), minus the free energy, by the name of the family.
    - `estimate`, `error` (B,): by annealed importance sampling, and its standard error.
    - `truth` (B,): by enumeration; None for more units than can be enumerated.
    """

    betas: Array
    bounds: dict[str, Array]
    estimate: Array
    error: Array
    truth: Array | None


def log_normaliser(machine: BoltzmannMachine, seed: int = 0) -> LogNormaliser:
    """The curves of log Z of this machine; a few seconds of annealing."""
    W, b = machine.weights.detach().double(), machine.bias.detach().double()
    betas = [2 * machine.beta * (i + 1) / TEMPERATURES for i in range(TEMPERATURES)]
    families = {"mean field": 1}
    if not machine.restricted:  # there neighbours in the order of the units are not coupled
        families |= {f"blocks of {size}": size for size in BLOCKS if size < len(b)}
    bounds = {
        name: np.array(
            [float(mean_field_fixed_point(W, b, t, blocks=size, seed=seed).bound) for t in betas]
        )
        for name, size in families.items()
    }
    annealed = [annealed_importance_sampling(Boltzmann(W, b, t, 0.0), seed=seed) for t in betas]
    try:
        truth = np.array([float(_at(machine, t).log_normaliser()) for t in betas])
    except ModelError:  # too many units: the estimate stands in for the truth
        truth = None
    return LogNormaliser(
        np.array(betas),
        bounds,
        np.array([float(one.log_normaliser) for one in annealed]),
        np.array([float(one.standard_error) for one in annealed]),
        truth,
    )


def _at(machine: BoltzmannMachine, beta: float) -> BoltzmannMachine:
    """The machine at another inverse temperature, in double precision."""
    weights, bias = machine.weights.detach().double(), machine.bias.detach().double()
    again = BoltzmannMachine(
        weights, bias, machine.hidden, beta=beta, restricted=machine.restricted
    )
    return again.requires_grad_(False)
