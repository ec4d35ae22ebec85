r"""Hopfield's associative memory: patterns stored as states of least energy, recalled by descent.

.. math:: E(x) = -\tfrac12 x^\top W x - b^\top x, \qquad x_i \leftarrow \mathrm{sign}(a_i),
    \quad a = W x + b

one unit after the other: the limit of zero temperature of Gibbs sampling in `models.energy`, so that
the energy never rises. Source: Hopfield (1982), Neural networks and physical systems with emergent
collective computational abilities; Hertz, Krogh & Palmer (1991), Introduction to the Theory of
Neural Computation, chapter 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import check_couplings, energy

CAPACITY = 0.138
"""Random patterns a unit that Hebb's rule holds, for many units: beyond, none is recalled (Amit,
Gutfreund & Sompolinsky, 1985, Storing infinite numbers of patterns in a spin-glass model of neural
networks)."""


class Recall(NamedTuple):
    """Where a recall went.

    `states` (C, N), the end of every cue; `energies` (T + 1, C), before the first and after every
    update of a unit; `sweeps`, how often each unit was updated; `settled` (C,), whether the last
    sweep changed nothing, so that the state is a minimum of the energy under single flips.
    """

    states: Tensor
    energies: Tensor
    sweeps: int
    settled: Tensor


def hebbian(patterns: Tensor) -> Tensor:
    r"""Hebb's rule for patterns (P, N) of units +-1: weights (N, N).

    .. math:: W_{ij} = \tfrac1N \sum_p \xi^p_i \xi^p_j \quad (i \ne j), \qquad W_{ii} = 0

    Any number of patterns is accepted: up to about 0.138 N random ones are recalled with few
    errors, beyond that none is, and recall ends in states that were never stored
    (`one_step_error`; `pseudo_inverse` holds up to N - 1, correlated ones too).

    Raises DataError unless the patterns are a matrix of -1 and +1.
    """
    xi = _checked(patterns)
    weights = xi.mT @ xi / xi.shape[1]
    return weights.fill_diagonal_(0.0)


def pseudo_inverse(patterns: Tensor) -> Tensor:
    r"""The projection rule: every stored pattern is a fixed point, however correlated they are.

    .. math:: W = \tfrac1N\, \xi^\top Q^{-1} \xi - \mathrm{diagonal}, \qquad
        Q_{pq} = \tfrac1N \sum_i \xi^p_i \xi^q_i

    for linearly independent patterns xi (P, N), P < N. Raises DataError for patterns that are not
    -1 and +1, more patterns than capacity (P >= N), and linearly dependent ones.

    Source: Personnaz, Guyon & Dreyfus (1985), Information storage and retrieval in spin-glass like
    neural networks.
    """
    xi = _checked(patterns)
    P, N = xi.shape
    if P >= N:
        raise DataError(
            f"{P} patterns in {N} units are more than the capacity: the projection rule holds at "
            f"most {N - 1} linearly independent patterns. Store fewer, or use more units."
        )
    overlaps = xi @ xi.mT / N
    values, vectors = torch.linalg.eigh(overlaps.double())
    if not bool(values[0] > 1e-6):
        raise DataError(
            "The patterns are linearly dependent (a duplicate, or one and its negative): the "
            "projection rule needs independent ones. Remove the repeated patterns."
        )
    half = (vectors / values.sqrt()).mT @ xi.double() / math.sqrt(N)
    return (half.mT @ half).to(xi.dtype).fill_diagonal_(0.0)


def associative_memory(
    patterns: Tensor, known: int, beta: float = 2.0, log_normaliser: float | None = None
) -> BoltzmannMachine:
    r"""Recall as inference: the first `known` units of a pattern are seen, the others are latent.

    .. math:: p(h \mid v) \propto \exp\left(-\beta E(v, h)\right)

    with the weights of Hebb's rule for the patterns (P, N), kept as the machine's buffer `patterns`.
    As beta grows the posterior settles on the states of least energy: `recall`. Its parameters are
    not to be trained. `log_normaliser` is log Z where there are more than 20 units.

    Raises DataError as `hebbian`; SettingError unless 0 <= known < N.
    """
    weights = hebbian(patterns)
    N = len(weights)
    if not 0 <= known < N:
        raise SettingError(f"known={known} of {N} units: leave at least one to recall.")
    machine = BoltzmannMachine(
        weights, weights.new_zeros(N), N - known, beta=beta, log_normaliser=log_normaliser
    )
    machine.register_buffer("patterns", patterns)
    return machine.requires_grad_(False)


def one_step_error(load: float) -> float:
    r"""The share of a stored pattern's units that the first update flips under Hebb's rule.

    .. math:: P(\text{error}) = \tfrac12 \operatorname{erfc}\!\left(1 / \sqrt{2 \alpha}\right)

    for random patterns and many units, alpha = `load` = P / N: the crosstalk of the other patterns
    is normal with variance alpha. At 0.138 it is 0.36 %. Raises SettingError unless load > 0.

    >>> round(100 * one_step_error(0.138), 2)
    0.36

    Source: Hertz, Krogh & Palmer (1991), Introduction to the Theory of Neural Computation,
    section 2.2 and table 2.1.
    """
    if not load > 0:
        raise SettingError(f"load={load} is a number of patterns a unit: give a positive number.")
    return 0.5 * math.erfc(1 / math.sqrt(2 * load))


def recall(
    cues: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    *,
    sweeps: int = 50,
    seed: int = 0,
) -> Recall:
    """Asynchronous updates from each cue until a whole sweep changes nothing.

    Arguments: `cues` (C, N) or (N,) of -1, +1, and 0 for a unit that is not known; `weights` (N,
    N); `bias` (N,), 0 where it is not given; at most `sweeps` updates of each unit, in an order
    drawn anew for every sweep from `seed` and shared by the cues. A unit without a field keeps its
    state (+1 if unknown).

    Raises DataError for cues of another width or other values; ModelError for weights that are not
    symmetric or have a diagonal (the energy could rise); SettingError for sweeps below 1.
    """
    N = weights.shape[-1]
    bias = weights.new_zeros(N) if bias is None else bias
    check_couplings(weights, bias)
    x = (
        torch.atleast_2d(cues).to(weights.dtype).mT.clone()
    )  # a unit is a row: its update contiguous
    if x.shape[0] != N or not bool(((x.abs() == 1) | (x == 0)).all()):
        raise DataError(f"cues must be (C, {N}) of -1 and +1 (0: unknown), not {cues.shape}.")
    if sweeps < 1:
        raise SettingError(f"sweeps={sweeps}: update each unit at least once.")
    generator = torch.Generator().manual_seed(seed)
    drops: list[Tensor] = []
    moved = torch.zeros(x.shape[1], dtype=torch.bool)
    start = energy(x.mT, weights, bias)
    done = 0
    while done < sweeps:
        done += 1
        moved = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        for unit in torch.randperm(N, generator=generator).tolist():
            field = weights[unit] @ x + bias[unit]
            new = torch.where(field == 0, torch.where(x[unit] == 0, 1.0, x[unit]), field.sign())
            drops.append((x[unit] - new) * field)
            moved |= new != x[unit]
            x[unit] = new
        if not bool(moved.any()):
            break
    energies = torch.cat([start[None], start + torch.stack(drops).cumsum(0)])
    return Recall(x.mT.contiguous(), energies, done, ~moved)


def overlap(states: Tensor, patterns: Tensor) -> Tensor:
    """How alike states (C, N) and patterns (P, N) are, (C, P): 1 where equal, 0 at random."""
    return states @ patterns.mT / patterns.shape[-1]


def corrupted(patterns: Tensor, share: float, seed: int = 0) -> Tensor:
    """The patterns (..., N) with a share of their units flipped, a different choice for each.

    Exactly round(share N) units. Raises SettingError unless 0 <= share <= 1.
    """
    if not 0 <= share <= 1:
        raise SettingError(f"share={share} of the units: give a number from 0 to 1.")
    N = patterns.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(patterns.shape, generator=generator).argsort(-1)
    return torch.where((order < round(share * N)).to(patterns.device), -patterns, patterns)


def _checked(patterns: Tensor) -> Tensor:
    if patterns.dim() != 2 or 0 in patterns.shape or not bool((patterns.abs() == 1).all()):
        raise DataError(
            f"patterns must be a matrix (P, N) of -1 and +1, not {tuple(patterns.shape)}: 2 * x - 1 "
            "makes units of zeros and ones."
        )
    return patterns
