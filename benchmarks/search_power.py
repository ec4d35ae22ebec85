"""What the search for modes can see: how often it finds a second mode that no draw visits.

    python -m benchmarks.search_power             # about three minutes on one core

The density is a mixture of two normals in D dimensions: N(0, I) with share 1 - w, where all draws
are, and N(r v, s^2 I) with share w, in a random direction v. The search is that of `gb.compare` at its
defaults (`numerics.basins.search_around`, from 200 draws). A cell says in how many repetitions it lists
the second mode, with the lower 95 % bound of Clopper and Pearson; and, of those where leaving that mode out
makes a mean wrong by more than 0.1 standard deviations or a standard deviation by more than 20 %, in how
many the estimated share says so, which ends a trust. "Harmless": it makes so much in none. "No valley": the
density falls by less than a nat between the two, so there is one mode, whose draws reach the whole of it;
that is for the importance weights and the HMC check.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time

import numpy as np
import torch
from scipy.stats import beta

from benchmarks.timing import machine
from guidebook.diagnostics.evidence.testimony import MEAN_LIMIT, SD_HIGH
from guidebook.diagnostics.numerics.basins import VALLEY, search_around
from guidebook.diagnostics.witnesses.modes import harm
from guidebook.selftest import Mixture, planted

SIZES, DISTANCES, SHARES = (1, 2, 5, 10, 30, 100), (4.0, 8.0, 20.0), (0.5, 0.1, 0.01)
WIDTHS = {1.0: SHARES, 0.5: (0.1,)}
"""Of the second mode, and the shares that are tried with it: what is found hardly depends on them."""
DRAWS, REPETITIONS, FEW = 200, 4, 2
"""Repetitions of a cell up to 30 dimensions, and beyond."""


def target(size: int, distance: float, share: float, width: float, seed: int) -> Mixture:
    direction = np.random.default_rng(seed).normal(size=size)
    away = distance * direction / np.linalg.norm(direction)
    factors = np.stack([np.eye(size), width * np.eye(size)])
    return Mixture(np.array([1 - share, share]), np.stack([np.zeros(size), away]), factors)


def matters(p: Mixture, share: float) -> bool:
    """Whether draws of the first mode alone are off, if the second holds this share."""
    variances = np.square(p.factors).sum(-1)
    shift, log_ratio = harm(np.array([1 - share, share]), np.array([1.0, 0.0]), p.means, variances)
    off = (np.abs(shift) > MEAN_LIMIT) | (np.abs(log_ratio) > np.log(SD_HIGH))
    return bool(off.any())


def searched(p: Mixture, seed: int) -> tuple[bool, bool]:
    """Whether the second mode is found, and whether by its estimated share it matters."""
    first = Mixture(np.ones(1), p.means[:1], p.factors[:1])
    draws = np.random.default_rng(1000 + seed).normal(size=(DRAWS, p.means.shape[1]))
    basins = search_around(planted(p, first).potential, draws, seed)
    if len(basins) < 2:
        return False, False
    place = basins.of(p.means)
    if place[0] == place[1]:
        return False, False
    mass = np.exp(basins.log_mass - np.logaddexp.reduce(basins.log_mass))
    return True, matters(p, float(mass[place[1]]))


def has_valley(p: Mixture) -> bool:
    """Whether the density falls by a nat between the two means."""
    distance, (one, other) = np.linalg.norm(p.means[1]), np.log(p.shares)
    t, size = np.linspace(0, distance, 401), p.means.shape[1]
    width = p.factors[1][0, 0]
    height = np.logaddexp(
        one - t**2 / 2, other - size * np.log(width) - ((distance - t) / width) ** 2 / 2
    )
    return bool(height.min() < min(height[0], height[-1]) - VALLEY)


def cell(size: int, distance: float, share: float, width: float, repetitions: int) -> str:
    if not has_valley(target(size, distance, share, width, 0)):
        return "no valley"
    found, seen, true = 0, 0, 0
    for seed in range(repetitions):
        p = target(size, distance, share, width, seed)
        one, other = searched(p, seed)
        found, seen, true = found + one, seen + other, true + matters(p, share)
    said = "harmless" if not true else f"{seen} of {true}"
    return f"{_rate(found, repetitions)}; {said}"


def _rate(found: int, of: int) -> str:
    bound = beta.ppf(0.05, found, of - found + 1) if found else 0.0
    return f"{found} of {of} (> {bound:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    columns = " | ".join(f"{distance:g} sd apart" for distance in DISTANCES)
    print(
        f"| D | sd of the second mode | its share | {columns} |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for size in arguments.sizes:
        repetitions = REPETITIONS if size <= 30 else FEW
        for width, shares in WIDTHS.items():
            for share in shares:
                cells = [cell(size, r, share, width, repetitions) for r in DISTANCES]
                print(f"| {size} | {width:g} | {share:g} | {' | '.join(cells)} |", flush=True)
    print(f"\n{time.process_time() - began:.0f} s of CPU; {machine()}.")


if __name__ == "__main__":
    main()
