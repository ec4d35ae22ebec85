"""Against reference draws: the estimate in closed form, its errors against replications."""

import math

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.witnesses.reference import wasserstein_in_sds


@pytest.mark.parametrize(("shift", "factor"), [(0.5, 1.0), (0.0, 2.0)])
def test_wasserstein_in_standard_deviations_of_the_reference(shift: float, factor: float) -> None:
    """A shift by d sds is at distance d; sds in the ratio r at |r - 1| E|z|, E|z| = sqrt(2 / pi)."""
    z = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    theirs = np.column_stack([z, 30 * z])
    ours = np.column_stack([z, 30 * (shift + factor * z)])
    expected = shift + (factor - 1) * math.sqrt(2 / math.pi)
    assert wasserstein_in_sds(ours, theirs) == pytest.approx(expected, abs=0.05)
    assert wasserstein_in_sds(theirs, theirs) == pytest.approx(0, abs=0.05)
