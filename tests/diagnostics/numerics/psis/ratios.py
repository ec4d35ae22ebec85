"""Log ratios of normals; how near a stated error must be to that of replications.

A standard deviation over R = 200 replications has a relative error of 1 / sqrt(2 R) = 5 %, so a ratio to the
stated error outside 0.75 to 1.25 is a false alarm below 1e-6.
"""

import numpy as np
from scipy import stats

LOW, HIGH = 0.75, 1.25


def log_ratio_of_normals(scale: float, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws of q = N(0, scale^2) and log p - log q for p = N(0, 1)."""
    z = np.random.default_rng(seed).normal(0, scale, size)
    return z, stats.norm.logpdf(z) - stats.norm.logpdf(z, scale=scale)
