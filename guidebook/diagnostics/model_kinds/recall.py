"""Numbers of an associative memory: what it recalls, the energies on the way, and how much it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import energy
from guidebook.models.energy.hopfield import corrupted, hebbian, overlap, recall

Array = np.ndarray

LOADS = (0.03, 0.07, 0.1, 0.138, 0.18, 0.24, 0.32)
SIZES = ((25, 40), (100, 8))
"""Units of the networks in which random patterns are recalled, and how many networks."""

FLIPPED = 0.2
STARTS = 40


@dataclass(frozen=True)
class Memory:
    """Recall in a memory of P patterns of N units, by asynchronous updates.

    - `cues` (C, N): the rows of the data, 0 where a unit is not seen, then every pattern with a
      fifth of its units flipped; `stored` (C, N): the pattern that each cue is nearest to; `ends`
      (C, N): where its recall stops.
    - `energies` (T + 1, 40): of recalls of the first row, completed at random, after each update.
    - `depths` (P,): the energies of the stored patterns.
    - `loads` (L,): patterns a unit; `kept`: the number of units to the mean overlap (L,) of random
      patterns with the end of their recall.
    """

    stored: Array
    cues: Array
    ends: Array
    energies: Array
    depths: Array
    loads: Array
    kept: dict[int, Array]


def memory(machine: BoltzmannMachine, rows: Tensor, seed: int = 0) -> Memory | None:
    """The recall of `rows` (n, V) and of the stored patterns; None for a machine without patterns."""
    patterns: Any = getattr(machine, "patterns", None)
    if not isinstance(patterns, Tensor):
        return None
    W, b = machine.weights, machine.bias
    unseen = torch.cat([rows, rows.new_zeros(len(rows), machine.hidden)], -1)
    near = overlap(rows, patterns[:, : machine.visible]).argmax(-1)
    cues = torch.cat([unseen, corrupted(patterns, FLIPPED, seed)])
    ends = recall(cues, W, b, seed=seed).states
    starts = unseen[:1].repeat(STARTS, 1)
    generator = torch.Generator().manual_seed(seed)
    coins = torch.randint(0, 2, starts.shape, generator=generator).to(starts) * 2 - 1
    ways = recall(torch.where(starts == 0, coins, starts), W, b, seed=seed).energies
    return Memory(
        stored=torch.cat([patterns[near], patterns]).cpu().numpy(),
        cues=cues.cpu().numpy(),
        ends=ends.cpu().numpy(),
        energies=ways.cpu().numpy(),
        depths=energy(patterns, W, b).cpu().numpy(),
        loads=np.array(LOADS),
        kept=recall_against_load(seed),
    )


def recall_against_load(seed: int = 0) -> dict[int, Array]:
    """Units to the mean overlap (L,) of random patterns with where their recall by Hebb's rule ends."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for units, networks in SIZES:
        ends = torch.zeros(len(LOADS))
        for i, load in enumerate(LOADS):
            for _ in range(networks):
                count = max(1, round(load * units))
                stored = torch.randint(0, 2, (count, units), generator=generator).float() * 2 - 1
                end = recall(stored, hebbian(stored), sweeps=20).states
                ends[i] += (end * stored).mean() / networks
        kept[units] = ends.numpy()
    return kept
