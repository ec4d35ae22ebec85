"""How many of the rows of an amortised fit may be off, in all and in the sample looked at closely."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from guidebook.diagnostics.judging.findings import Findings

SHARE_TRUSTED, SHARE_REWEIGHTED, SHARE_MARKED = 0.99, 0.95, 0.80
"""Of the rows of an amortised fit; the last, where each of the others is known not to be usable."""
CHANCE = 0.05
"""A sample of the rows speaks against the rest where so many rows off are rarer than this."""


def enough(reasons: list[str], share: float, f: Findings) -> bool:
    """Whether so many posteriors have no reason against them, in all and in the sample."""
    good = np.array([not reason for reason in reasons])
    if good.mean() < (share if f.posteriors > 1 else 1.0):
        return False
    return f.sampled is None or enough_of_sample(good[list(f.sampled)], share)


def enough_of_sample(good: np.ndarray, share: float) -> bool:
    """Whether a sample with so many rows off could come from rows of which `share` are good."""
    off = int((~good).sum())
    return bool(binom.sf(off - 1, len(good), 1 - share) > CHANCE)
