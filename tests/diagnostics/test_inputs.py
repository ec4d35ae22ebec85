"""How many draws are judged: more of them, drawn afresh, where they leave k-hat undecided."""

import math

import numpy as np
import pytest

from guidebook.diagnostics import inputs
from guidebook.diagnostics.inputs import AFRESH, as_tree
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.inference.fits.fit import Fit
from guidebook.reports.comparison import Comparison, compare
from guidebook.selftest import Mixture, planted

LIMIT = 0.7
"""Of k-hat, from 2,155 draws on."""


@pytest.fixture(scope="module")
def fit() -> Fit:
    """N(0, 1) for N(0, 1)."""
    normal = Mixture(np.ones(1), np.zeros((1, 1)), np.ones((1, 1, 1)))
    return planted(normal, normal)


@pytest.mark.parametrize(
    ("khat", "more"),
    [
        (LIMIT - 0.0501, False), (LIMIT - 0.0499, True), (LIMIT + 0.0499, True),
        (LIMIT + 0.0501, False), (-math.inf, False), (None, False),
    ],
)  # fmt: skip
def test_draws_within_the_error_of_the_limit_are_made_afresh(
    khat: float | None, more: bool, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MOST_DRAWS", 4000)
    weights = np.full(4000, 1 / 4000)
    found = None if khat is None else Importance(weights, khat, 0.05, 4000.0)
    monkeypatch.setattr(inputs, "psis", lambda _: found)
    u = as_tree("q", fit, 7)["posterior"]["u"].values.ravel()
    assert len(u) == (AFRESH * 4000 if more else 4000)
    first = fit.posterior(4000, 7)["posterior"]["u"].values.ravel()
    assert np.isin(first, u).any() is np.bool_(not more)


def test_draws_without_a_density_are_as_many_as_they_are(fit: Fit) -> None:
    tree = fit.posterior(100, 0)
    assert as_tree("file", tree, 0) is tree


def heavy(scale: float, shift: float) -> Comparison:
    """N(shift, scale^2) for 0.9 N(0, 1) + 0.1 N(0, 2.1^2), whose mean is 0 and variance 1.341."""
    factors = np.array([1.0, 2.1])[:, None, None]
    target = Mixture(np.array([0.9, 0.1]), np.zeros((2, 1)), factors)
    normal = Mixture(np.ones(1), np.full((1, 1), shift), np.full((1, 1, 1), scale))
    return compare({"q": planted(target, normal)}, seed=4)


def test_weighted_draws_that_are_right_are_offered_near_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """k-hat above its limit by less than its error, and weighted draws within bounds in closed form."""
    monkeypatch.setattr(inputs, "MOST_DRAWS", 20_000)
    found = heavy(1.0, 0.2)
    row = found.table.loc["q"]
    assert LIMIT < row["khat"] < LIMIT + row["khat_se"]
    assert found.verdicts["q"] is Verdict.REWEIGHT, row["reason"]
    u = found.weighted("q", draws=20_000)["posterior"]["u"].values
    assert abs(u.mean()) / math.sqrt(1.341) < 0.1
    assert 1 / 1.2 < u.std() / math.sqrt(1.341) < 1.2
