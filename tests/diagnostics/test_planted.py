"""Verdicts on planted failures that were once trusted: mixtures of normals, so that the truth is known."""

import numpy as np

from guidebook.diagnostics.judging.findings import Verdict
from guidebook.reports.comparison import compare
from guidebook.selftest import Mixture, planted


def test_a_narrow_mode_that_no_draw_visits_is_no_trust() -> None:
    """A tenth of the mass in a normal of half the width, 20 standard deviations away in a random direction
    of five: weights are even, gradients and short chains stay at home. Means are off by up to 0.33 standard
    deviations, and these are too small by a factor of up to five.
    """
    away = np.random.default_rng(0).standard_normal(5)
    away *= 20 / np.linalg.norm(away)
    home, wide = np.zeros(5), np.eye(5)
    target = Mixture(np.array([0.9, 0.1]), np.stack([home, away]), np.stack([wide, 0.5 * wide]))
    draws_at_home = Mixture(np.ones(1), target.means[:1], target.factors[:1])
    found = compare(
        {"home": planted(target, draws_at_home), "both": planted(target, target)}, effort="quick"
    )
    assert found.verdicts == {"home": Verdict.REJECT, "both": Verdict.TRUST}
    assert "mass where there are no draws" in found.table.loc["home", "reason"]
