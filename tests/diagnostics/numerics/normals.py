"""Normal densities, and draws of the standard one."""

import math

import numpy as np


def normal(u: np.ndarray, sd: float = 1.0) -> np.ndarray:
    D = u.shape[1]
    found: np.ndarray = -0.5 * np.square(u / sd).sum(1) - D * (
        math.log(sd) + 0.5 * math.log(2 * math.pi)
    )
    return found


def draws(D: int, size: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((size, D))
