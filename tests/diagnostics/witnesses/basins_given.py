"""Basins, draws and subjects on the line whose shares, masses and moments are known."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.numerics.modes import Mode
from guidebook.diagnostics.numerics.psis import Importance


class Line:
    """A potential whose one site is u itself; its lower bound of the evidence is -inf."""

    dtype = torch.float64
    device = torch.device("cpu")
    model: object = None

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        return {"x": u}


def basins(
    centers: list[float], masses: list[float], sd: float = 1.0, error: float = 0.01
) -> Basins:
    """Normal basins on the line, 4,000 draws of each."""
    noise = np.random.default_rng(1).standard_normal(4000)
    modes = [
        Mode(np.full(1, c), np.full((1, 1), sd), math.log(m))
        for c, m in zip(centers, masses, strict=True)
    ]
    count = len(modes)
    return Basins(
        [[mode] for mode in modes],
        np.log(masses),
        np.full(count, error),
        np.concatenate([c + sd * noise for c in centers])[:, None],
        np.repeat(np.arange(count), 4000),
        np.full(4000 * count, 1 / 4000),
        np.ones(count, bool),
    )


NONE = Basins([], *([np.zeros(0)] * 2), np.zeros((0, 1)), *([np.zeros(0)] * 3))


def draws(shares: list[int], centers: list[float], sd: float = 1.0) -> np.ndarray:
    """So many at each centre."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [c + sd * rng.standard_normal(n) for n, c in zip(shares, centers, strict=True)]
    )


def subject(u: np.ndarray, found: Basins | None, **changes: Any) -> Subject:
    facts: dict[str, Any] = {
        "kind": "density",
        "names": ["x"],
        "coordinates": ["x"],
        "values": u.reshape(-1, 1, 1),
        "discrete": np.zeros(1, bool),
        "position": u.reshape(-1, 1, 1),
        "potential": Line(),
        "modes": found,
        "lacks": {"modes": "no search"},
    }
    return Subject(**(facts | changes))


def weighted_by(w: np.ndarray) -> Importance:
    """Importance weights, whatever they came of."""
    return Importance(w, 0.1, 0.01, 1 / np.square(w).sum())
