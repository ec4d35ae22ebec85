"""What less time leaves out, and that it is said."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics import assess as room
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.numerics import modes as search
from guidebook.diagnostics.witnesses import transport
from guidebook.errors import SettingError
from guidebook.reports.comparison import compare
from guidebook.selftest import Mixture, planted

NORMAL = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])


def test_quick_judges_by_the_same_rules_on_fewer_draws() -> None:
    narrow = Mixture(NORMAL.shares, NORMAL.means, 0.3 * NORMAL.factors)
    fits = {"exact": planted(NORMAL, NORMAL), "narrow": planted(NORMAL, narrow)}
    found = compare(fits, effort="quick")
    assert found.verdicts == {"exact": Verdict.TRUST, "narrow": Verdict.REJECT}
    for name in fits:
        assert len(found.posteriors[name]["posterior"]["draw"]) == 4000
        assert room.QUICK in found.witnesses[name]
    assert found.bounds == {}


def test_quick_makes_one_of_four_starts_as_it_says() -> None:
    assert "three of four starts" in room.QUICK
    assert search.STARTS["full"] == 4 * search.STARTS["quick"]


def test_every_stage_is_said_before_it_begins() -> None:
    said: list[str] = []
    compare({"exact": planted(NORMAL, NORMAL)}, effort="quick", say=said.append)
    assert said[0].startswith("draws of every approximation")
    assert said[1:] == ["searching for modes", "judging exact", "numbers for the figures"]


def test_another_effort_is_refused() -> None:
    with pytest.raises(SettingError, match="'quick' or 'full'"):
        compare({"exact": planted(NORMAL, NORMAL)}, effort="some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cost", "chains", "starts"),
    [
        (10_000, 8192, 36),  # within both budgets
        (10**6, 512, 5),
        (2 * 10**5, 1388, 25),
    ],
)
def test_what_a_dear_density_leaves_out_is_said(cost: int, chains: int, starts: int) -> None:
    one: Any = SimpleNamespace(cost=cost)
    subject: Any = SimpleNamespace(effort="full", density=one, potential=one)
    assert transport.affordable(one, 1) == chains
    assert search.affordable(one, 36) == starts
    said = room._left_out(subject)
    if chains == 8192 and starts == 36:
        assert said == []
        return
    (words,) = said
    assert f"{8192 - chains:,} of 8,192 chains" in words and f"{36 - starts} of 36 starts" in words


def test_what_has_no_density_leaves_nothing_out() -> None:
    one: Any = SimpleNamespace(cost=10**6)
    for density, potential in ((None, None), (one, None), (None, one)):
        subject: Any = SimpleNamespace(effort="full", density=density, potential=potential)
        assert room._left_out(subject) == []
