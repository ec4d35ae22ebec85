"""Two Gaussian posteriors whose Hamiltonian trajectories have a closed form, and a subject of tests."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Subject

COVARIANCES = np.array(
    [[[4.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]], np.diag([1.0, 9.0, 0.04])]
)
"""Of two posteriors with three coordinates each."""


class Gaussian:
    """N(0, COVARIANCES), n = 2; it counts how often and of how many chains it was asked."""

    dtype = torch.float64
    device = torch.device("cpu")
    cost = 10

    def __init__(self) -> None:
        self.inverse = torch.linalg.inv(torch.as_tensor(COVARIANCES))
        self.asked: list[int] = []

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(len(u))
        grad = -torch.einsum("cni,nij->cnj", u, self.inverse)
        return 0.5 * (u * grad).sum(-1), grad

    def values(self, u: Tensor) -> np.ndarray:
        return u.numpy()

    def ordered(self, u: Tensor) -> Tensor:
        return u


def start(chains: int = 40) -> Tensor:
    z = np.random.default_rng(0).standard_normal((chains, 2, 3))
    factor = np.linalg.cholesky(COVARIANCES)
    return torch.as_tensor(np.einsum("cnj,nij->cni", z, factor))


def subject(**changes: Any) -> Subject:
    facts = {
        "kind": "density",
        "names": ["a", "b"],
        "values": np.random.default_rng(0).standard_normal((50, 1, 2)),
        "discrete": np.zeros(2, bool),
        "position": np.random.default_rng(1).standard_normal((50, 1, 2)),
        "density": object(),
        "tails": np.array([[1.0, 3.0]]),
        "seed": 5,
        "lacks": {"density": "no model"},
    }
    return Subject(**(facts | changes))
