"""The rank of a truth among the draws of its posterior, quantity by quantity.

Draws are independent (a sampler's are thinned), so the rank of a truth from the same posterior is uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import scalar_names
from guidebook.diagnostics.numerics.calibration import DENSITY, DISTANCE
from guidebook.programs.labels import canonical_positions
from guidebook.programs.potential import Potential

JOINT = (DENSITY, DISTANCE)


def ranks(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many draws (L, Q) are below the truth (Q,), 0 to L; among equal ones a place at random."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    found: np.ndarray = below + rng.integers(0, equal + 1)
    return found


class Ranker:
    """Ranks of truths u* (R, D) in every marginal, in log p(z, y) and in the distance to a random point.

    The random point of a truth is the next truth: a draw of the same distribution that knows nothing of
    its data. Distances are Euclidean on the unconstrained scale, in standard deviations of the truths.
    """

    def __init__(self, potential: Potential, truths: Tensor, seed: int) -> None:
        self.truths = canonical_positions(potential, truths)
        self.points = self.truths.roll(-1, 0)
        self.scale = self.truths.std(0).clamp(min=1e-12)
        self.rng = np.random.default_rng(seed)

    def __call__(self, row: int, potential: Potential, draws: Tensor) -> np.ndarray | None:
        """Ranks (Q,), in the order of `names_of`, of a truth among draws u (L, D) given its data.

        None where a quantity is not a number.
        """
        place: Any = {"device": potential.device, "dtype": potential.dtype}
        u = torch.cat([self.truths[row : row + 1].to(**place), draws.to(**place)])
        columns = [v.reshape(len(u), -1) for v in potential.constrain(u).values()]
        log_joint, _ = potential(u)
        distance = ((u - self.points[row].to(u)) / self.scale.to(u)).square().sum(1)
        every = torch.cat([*columns, log_joint[:, None], distance[:, None]], 1)
        values = every.double().cpu().numpy()
        return None if np.isnan(values).any() else ranks(values[0], values[1:], self.rng)


def names_of(potential: Potential, u: Tensor) -> list[str]:
    """'beta[0]', ...: the scalar marginals of the sites and of what the model derives, and `JOINT`."""
    names = []
    for name, value in potential.constrain(u[:1]).items():
        names += scalar_names(name, value.shape[1:])
    return [*names, *JOINT]
