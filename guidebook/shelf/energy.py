"""Pairs whose latents are units -1 and +1: what is known of them, and what has to be recalled."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from guidebook.datasets.patterns import letters
from guidebook.datasets.small import digits
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.guides.energy.spin_gibbs import SpinGibbs
from guidebook.inference.cavi import cavi
from guidebook.inference.energy.annealing import annealed_importance_sampling
from guidebook.inference.gibbs import gibbs
from guidebook.models.energy.boltzmann import BoltzmannMachine, bipartite
from guidebook.models.energy.energy import ising_grid
from guidebook.models.energy.hopfield import associative_memory
from guidebook.shelf.pair import Guide, Pair, Way
from guidebook.shelf.training import by_correlations

SIDE = 4
HIDDEN = SIDE * (SIDE - 1)
COUPLING = 0.35
"""J of the grid, below the critical 0.44 of an infinite one: units are correlated, with one mode."""
FEATURES = 6
KNOWN = 10


def _ising() -> BoltzmannMachine:
    """A square grid whose first row is seen."""
    grid = ising_grid(SIDE, SIDE, COUPLING)
    return BoltzmannMachine(grid, torch.zeros(len(grid)), HIDDEN).requires_grad_(False)


def _edge() -> dict[str, Tensor]:
    return {"v": torch.tensor([[1.0, 1.0, 1.0, -1.0]])}


def _digit_machine() -> BoltzmannMachine:
    """Small random couplings, and biases zero, from which learning starts."""
    generator = torch.Generator().manual_seed(0)
    across = 0.01 * torch.randn(64, FEATURES, generator=generator)
    weights = bipartite(across)
    return BoltzmannMachine(weights, torch.zeros(len(weights)), FEATURES, restricted=True)


def _few_digits() -> dict[str, Tensor]:
    """Every thirtieth training digit, its pixels black and white."""
    return {"v": 2 * digits("train", binary=True)["x"][::30] - 1}


def _memory() -> BoltzmannMachine:
    """Four letters by Hebb's rule; log Z of 25 units by annealed importance sampling."""
    patterns = letters()["v"]
    free = associative_memory(patterns, KNOWN)
    found = annealed_importance_sampling(free)
    return associative_memory(patterns, KNOWN, log_normaliser=found.log_normaliser)


def _cue() -> dict[str, Tensor]:
    """The first two lines of T."""
    return {"v": letters("T")["v"][:, :KNOWN]}


def _posterior(model: Any, blocks: int = 1) -> Guide:
    return BlockMeanField(model, blocks=blocks)


def _chains(model: Any) -> Guide:
    return SpinGibbs(model)


def _engines(blocks: int) -> MappingProxyType[str, Way]:
    return MappingProxyType(
        {
            "mean-field": (cavi, _posterior),
            "blocks": (cavi, partial(_posterior, blocks=blocks)),
            "gibbs": (gibbs, _chains),
        }
    )


PAIRS = (
    Pair(
        name="ising",
        summary="Ising model on a grid with observed edge: mean field, blocks and Gibbs on 12 units.",
        model=_ising,
        guides=MappingProxyType({}),
        engines=_engines(SIDE),
        data=_edge,
        truth="exact",
        source="Ising (1925), Beitrag zur Theorie des Ferromagnetismus; MacKay (2003), Information "
        "Theory, Inference, and Learning Algorithms, chapters 31 and 33",
        exact=partial(_posterior, blocks=HIDDEN),
        image_shape=(SIDE, SIDE),
    ),
    Pair(
        name="boltzmann-machine",
        summary="Restricted Boltzmann machine learned from digits: binary hidden features.",
        model=_digit_machine,
        guides=MappingProxyType({}),
        engines=MappingProxyType({"mean-field": (cavi, _posterior), "gibbs": (gibbs, _chains)}),
        data=_few_digits,
        truth="exact",
        source="Ackley, Hinton & Sejnowski (1985), A learning algorithm for Boltzmann machines; "
        "Smolensky (1986), Information processing in dynamical systems",
        exact=_posterior,
        trained=by_correlations,
        settings=MappingProxyType({"weight_decay": 0.1}),
        image_shape=(8, 8),
    ),
    Pair(
        name="hopfield",
        summary="Hopfield network of four letters in 25 units: one recalled from its first two rows.",
        model=_memory,
        guides=MappingProxyType({}),
        engines=_engines(5),
        data=_cue,
        truth="exact",
        source="Hopfield (1982), Neural networks and physical systems with emergent collective "
        "computational abilities",
        exact=partial(_posterior, blocks=25 - KNOWN),
        image_shape=(5, 5),
    ),
)
