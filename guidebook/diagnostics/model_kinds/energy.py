"""NEEDS A DOCSTRING: guidebook.diagnostics.model_kinds.energy."""

from __future__ import annotations

import torch
from torch import Tensor

from guidebook.guides.energy.spin_gibbs import SpinGibbs
from guidebook.models.energy.boltzmann import BoltzmannMachine

LOADS = (0.03, 0.07, 0.1, 0.138, 0.18, 0.24, 0.32)


SIZES = ((25, 40), (100, 8))
"""Units of the networks in which random patterns are recalled, and how many networks."""


FLIPPED = 0.2


TEMPERATURES = 8


BURN_IN = 200


def _samples(machine: BoltzmannMachine, chains: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sampler = SpinGibbs(machine, clamped=False)
    state = sampler.initial({}, chains, generator)
    for _ in range(BURN_IN):
        state = sampler.sweep(state, {}, generator)
    return state["v"].squeeze(1)


def _at(machine: BoltzmannMachine, beta: float) -> BoltzmannMachine:
    weights, bias = machine.weights.detach().double(), machine.bias.detach().double()
    again = BoltzmannMachine(
        weights, bias, machine.hidden, beta=beta, restricted=machine.restricted
    )
    return again.requires_grad_(False)
