"""What a page shows of a Boltzmann machine: its units, its recall, what it learned, its log Z."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from guidebook.diagnostics.model_kinds.energy import (
    BURN_IN,
    FLIPPED,
    LOADS,
    SIZES,
    TEMPERATURES,
    _at,
    _samples,
)
from guidebook.errors import ModelError
from guidebook.guides.energy.mean_field import mean_field_fixed_point
from guidebook.inference.energy.annealing import annealed_importance_sampling
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import Boltzmann, energy
from guidebook.models.energy.hopfield import corrupted, hebbian, overlap, recall
from guidebook.reports.elements.section import Picture
from guidebook.reports.elements.summaries import names_of
from guidebook.reports.sections import energy_figures

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared


Drawing = tuple[str, str, Callable[[], Figure | None]]


def pictures(comparison: Compared) -> list[Picture]:
    """The section of the page; empty for other models."""
    made = [(title, caption, draw()) for title, caption, draw in drawings(comparison)]
    return [Picture(t, caption, drawn) for t, caption, drawn in made if drawn is not None]


def machine_of(comparison: Compared) -> BoltzmannMachine | None:
    """The comparison's model where it is a Boltzmann machine with data, in double precision."""
    model = comparison.model
    if not isinstance(model, BoltzmannMachine) or comparison.data is None:
        return None
    return model if model.visible and model.hidden else None


def drawings(comparison: Compared) -> list[Drawing]:
    """Title, caption and the function that draws, of every picture of this machine."""
    machine = machine_of(comparison)
    if machine is None:
        return []
    rows = torch.as_tensor((comparison.data or {})["v"]).to(machine.bias)
    found: list[Drawing] = []
    if not machine.restricted:
        found.append(
            (
                "What is seen, and what follows from it",
                "Every square is a unit, black +1 and white −1; those that are not seen are in the "
                "grey of their posterior mean. The numbers are the largest difference of such a mean "
                "from the reference.",
                partial(_means, comparison, machine, rows),
            )
        )
    if isinstance(getattr(machine, "patterns", None), Tensor):
        found += _memory(machine, rows)
    if machine.restricted:
        found += _learned(machine, rows)
    found.append(
        (
            "log Z: bounds against the truth",
            "Minus the free energy of each family, less log Z, in nats, over the inverse temperature "
            "(the machine’s own is in the middle). No family lies above 0.",
            partial(_bounds, machine),
        )
    )
    return found


def _means(comparison: Compared, machine: BoltzmannMachine, rows: Tensor) -> Figure | None:
    shape = _square(machine.visible + machine.hidden)
    if shape is None:
        return None
    pictures = {}
    for name in names_of(comparison):
        posterior = comparison.posteriors[name]["posterior"]
        if "h" not in posterior:
            continue
        mean = torch.as_tensor(posterior["h"].mean(("chain", "draw")).values).to(rows)
        pictures[name] = torch.cat([rows, mean], -1)
    cue = torch.cat([rows, rows.new_zeros(len(rows), machine.hidden)], -1)
    return energy_figures.posterior_means(cue, pictures, shape, comparison.reference)


# memory -----------------------------------------------------------------------------------------


def _memory(machine: BoltzmannMachine, rows: Tensor) -> list[Drawing]:
    return [
        (
            "Recall",
            "The stored patterns; cues: what is seen, the rest in grey, and every pattern with a "
            "fifth of its units flipped; and the states in which asynchronous updates end.",
            partial(_recalled, machine, rows),
        ),
        (
            "Energy along the way",
            "From the cue completed at random, forty times: no update raises the energy. Dashed: "
            "the stored patterns.",
            partial(_ways, machine, rows),
        ),
        (
            "Recall against load",
            "Random patterns by Hebb’s rule. Beyond 0.138 patterns a unit a large network recalls "
            "none; the cliff is less steep in a small one.",
            _loads,
        ),
    ]


def _cues(machine: BoltzmannMachine, rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_zeros(len(rows), machine.hidden)], -1)


def _recalled(machine: BoltzmannMachine, rows: Tensor) -> Figure | None:
    shape = _square(machine.visible + machine.hidden)
    if shape is None:
        return None
    stored: Any = machine.patterns
    near = overlap(rows, stored[:, : machine.visible]).argmax(-1)
    cues = torch.cat([_cues(machine, rows), corrupted(stored, FLIPPED)])
    ends = recall(cues, machine.weights, machine.bias).states
    return energy_figures.recalled_patterns(torch.cat([stored[near], stored]), cues, ends, shape)


def _ways(machine: BoltzmannMachine, rows: Tensor) -> Figure:
    generator = torch.Generator().manual_seed(0)
    cues = _cues(machine, rows)[:1].repeat(40, 1)
    coins = torch.randint(0, 2, cues.shape, generator=generator).to(cues) * 2 - 1
    found = recall(torch.where(cues == 0, coins, cues), machine.weights, machine.bias)
    stored: Any = machine.patterns
    depth = energy(stored, machine.weights, machine.bias)
    floor = {f"pattern {i + 1}": float(e) for i, e in enumerate(depth)}
    return energy_figures.energy_along_the_way(found.energies, floor)


def _loads() -> Figure:
    generator = torch.Generator().manual_seed(0)
    kept = {}
    for units, networks in SIZES:
        ends = torch.zeros(len(LOADS))
        for i, load in enumerate(LOADS):
            for _ in range(networks):
                count = max(1, round(load * units))
                stored = torch.randint(0, 2, (count, units), generator=generator).float() * 2 - 1
                end = recall(stored, hebbian(stored), sweeps=20).states
                ends[i] += (end * stored).mean() / networks
        kept[f"{units} units"] = ends
    return energy_figures.recall_against_load(LOADS, kept)


# learning ---------------------------------------------------------------------------------------


def _learned(machine: BoltzmannMachine, rows: Tensor) -> list[Drawing]:
    shape = _square(machine.visible)
    if shape is None:
        return []
    V = machine.visible
    return [
        (
            "Learned weights",
            "From every hidden unit to the visible ones: red where it switches them on.",
            lambda: energy_figures.learned_weights(machine.weights[:V, V:], shape),
        ),
        (
            "Data and samples",
            "Above rows of the data, below samples of the machine, one from each of as many chains "
            f"after {BURN_IN} sweeps of Gibbs sampling.",
            lambda: energy_figures.data_and_samples(rows, _samples(machine), shape),
        ),
    ]


# the normaliser ---------------------------------------------------------------------------------


def _bounds(machine: BoltzmannMachine) -> Figure:
    W, b = machine.weights.detach().double(), machine.bias.detach().double()
    betas = [2 * machine.beta * (i + 1) / TEMPERATURES for i in range(TEMPERATURES)]
    families = {"mean field": 1}
    if not machine.restricted:  # there neighbours in the order of the units are not coupled
        families |= {f"blocks of {size}": size for size in (4, 8) if size < len(b)}
    bounds = {
        name: [float(mean_field_fixed_point(W, b, t, blocks=size).bound) for t in betas]
        for name, size in families.items()
    }
    annealed = [annealed_importance_sampling(Boltzmann(W, b, t, 0.0)) for t in betas]
    values = [one.log_normaliser for one in annealed]
    try:
        truth = [float(_at(machine, t).log_normaliser()) for t in betas]
    except ModelError:  # too many units: the estimate stands in for the truth
        return energy_figures.log_normaliser_bounds(betas, bounds, values)
    errors = [one.standard_error for one in annealed]
    return energy_figures.log_normaliser_bounds(betas, bounds, truth, (values, errors))


def _square(units: int) -> tuple[int, int] | None:
    side = math.isqrt(units)
    return (side, side) if side * side == units else None
