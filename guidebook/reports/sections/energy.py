"""What a page shows of a Boltzmann machine: its units, its recall, what it learned, its log Z."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from guidebook.diagnostics.model_kinds.energy import BURN_IN, EnergyNumbers
from guidebook.diagnostics.model_kinds.normaliser import LogNormaliser
from guidebook.diagnostics.model_kinds.recall import Memory
from guidebook.reports.elements.section import Picture, Section, drawn
from guidebook.reports.sections import energy_figures

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

Shape = tuple[int, int] | None


def energy(comparison: Compared) -> Section | None:
    """The section of a Boltzmann machine; None for other models."""
    numbers = comparison.energy
    if numbers is None:
        return None
    pictures = _means(numbers, comparison.reference)
    if numbers.memory is not None:
        pictures += _memory(numbers.memory)
    pictures += _learned(numbers)
    pictures.append(_normaliser(numbers.normaliser))
    return Section("The Boltzmann machine", pictures=pictures)


def _means(numbers: EnergyNumbers, reference: str | None) -> list[Picture]:
    seen = numbers.rows.shape[1]
    shape = _square(seen + numbers.hidden)
    if shape is None or not numbers.means:
        return []
    cue = np.concatenate([numbers.rows, np.zeros((len(numbers.rows), numbers.hidden))], -1)
    return drawn(
        "Posterior means of the units",
        "Each square is a unit: black +1, white −1, grey between. Observed units have their "
        "values, the others their posterior mean. The number under an approximation is the largest "
        "difference of a mean from the reference’s.",
        energy_figures.posterior_means(cue, numbers.means, shape, reference),
    )


def _memory(found: Memory) -> list[Picture]:
    shape = _square(found.stored.shape[1])
    pictures = []
    if shape is not None:
        pictures += drawn(
            "Recall of stored patterns",
            "Top: the stored pattern. Middle: the cue; first the observed units with the others in "
            "grey, then every pattern with 20 % of its units flipped. Bottom: the state in which "
            "asynchronous updates stop.",
            energy_figures.recalled_patterns(found.stored, found.cues, found.ends, shape),
        )
    floor = {f"pattern {i + 1}": float(depth) for i, depth in enumerate(found.depths)}
    pictures += drawn(
        "Energy during recall",
        f"The energy after every update of a unit, from {found.energies.shape[1]} random "
        "completions of the observed units; no update raises it. Dashed: the stored patterns.",
        energy_figures.energy_along_the_way(found.energies, floor),
    )
    kept = {f"{units} units": ends for units, ends in found.kept.items()}
    return pictures + drawn(
        "Recall against memory load",
        "Overlap of a random pattern with the state in which its recall by Hebb’s rule ends, averaged over "
        "patterns and networks. With many units, recall fails beyond 0.138 patterns a unit "
        "(dashed); in small networks the decline is gradual.",
        energy_figures.recall_against_load(found.loads, kept),
    )


def _learned(numbers: EnergyNumbers) -> list[Picture]:
    shape = _square(numbers.rows.shape[1])
    if numbers.weights is None or numbers.samples is None or shape is None:
        return []
    return [
        Picture(
            "Weights",
            "Between each hidden unit and the visible ones: red positive, blue negative. The "
            "hidden units with the largest weights come first.",
            energy_figures.learned_weights(numbers.weights, shape),
        ),
        Picture(
            "Data and samples",
            "Top: rows of the data. Bottom: samples of the machine, one from each of "
            f"{len(numbers.samples)} chains after {BURN_IN} sweeps of Gibbs sampling.",
            energy_figures.data_and_samples(numbers.rows, numbers.samples, shape),
        ),
    ]


def _normaliser(found: LogNormaliser) -> Picture:
    title = "Bounds on log Z"
    bounds = (
        "Variational lower bounds of log Z by each family, minus log Z, in nats, over the inverse "
        "temperature β; the machine’s own β is in the middle. "
    )
    if found.truth is None:
        return Picture(
            title,
            bounds
            + "log Z is estimated by annealed importance sampling: the states are too many to "
            "enumerate.",
            energy_figures.log_normaliser_bounds(found.betas, found.bounds, found.estimate),
        )
    estimate = (found.estimate, found.error)
    return Picture(
        title,
        bounds + "log Z is exact, by enumeration of all states.",
        energy_figures.log_normaliser_bounds(found.betas, found.bounds, found.truth, estimate),
    )


def _square(units: int) -> Shape:
    side = math.isqrt(units)
    return (side, side) if side * side == units else None
