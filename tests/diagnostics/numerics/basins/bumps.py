"""Densities of a few bumps, and what is found of their basins."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.numerics.basins import Basins, basins_of
from guidebook.diagnostics.numerics.modes import Mode


class Bumps:
    """A mixture of normals: centres (K, D), standard deviations (K,), masses (K,)."""

    dtype = torch.float64
    device = torch.device("cpu")
    vectorised = True
    model: Any = None

    def __init__(self, centers: Any, sd: Any, masses: Any) -> None:
        self.centers = np.asarray(centers, float)
        self.sd, self.masses = np.asarray(sd, float), np.asarray(masses, float)
        self.asked = 0

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += len(u)
        size = u.shape[1]
        heights = [
            math.log(m) - size * math.log(s * math.sqrt(2 * math.pi))
            - 0.5 * ((u - torch.as_tensor(c)) / s).square().sum(-1)
            for c, s, m in zip(self.centers, self.sd, self.masses, strict=True)
        ]  # fmt: skip
        value = torch.stack(heights).logsumexp(0)
        return value - 1.0, torch.ones_like(value)  # log joint and log determinant

    @property
    def modes(self) -> list[Mode]:
        size = self.centers.shape[1]
        return [
            Mode(c, s * np.eye(size), math.log(m))
            for c, s, m in zip(self.centers, self.sd, self.masses, strict=True)
        ]


def two(size: int, distance: float, share: float, sd: float = 1.0) -> Bumps:
    """Around the origin and, with this share, around (distance, 0, ...)."""
    away = np.zeros((2, size))
    away[1, 0] = distance
    return Bumps(away, [1.0, sd], [1 - share, share])


def found(density: Any, u: np.ndarray | None = None, seed: int = 0) -> Basins:
    u = (
        np.random.default_rng(0).standard_normal((200, density.centers.shape[1]))
        if u is None
        else u
    )
    return basins_of(density, density.modes, u, seed)
