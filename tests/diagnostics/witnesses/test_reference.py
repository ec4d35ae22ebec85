"""Against reference draws: the estimate in closed form, its errors, and what follows from it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.evidence.subject import Marginals, Reference, Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses import reference as room
from guidebook.diagnostics.witnesses.reference import wasserstein_in_sds


@pytest.mark.parametrize(("shift", "factor"), [(0.5, 1.0), (0.0, 2.0)])
def test_wasserstein_in_standard_deviations_of_the_reference(shift: float, factor: float) -> None:
    """A shift by d sds is at distance d; sds in the ratio r at |r - 1| E|z|, E|z| = sqrt(2 / pi)."""
    z = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    theirs = np.column_stack([z, 30 * z])
    ours = np.column_stack([z, 30 * (shift + factor * z)])
    expected = shift + (factor - 1) * math.sqrt(2 / math.pi)
    assert wasserstein_in_sds(ours, theirs) == pytest.approx(expected, abs=1e-3)
    assert wasserstein_in_sds(theirs, theirs) == 0.0


# the witness, on numbers made by hand -----------------------------------------------------------------


def reference(
    values: np.ndarray, ess: float = 1e8, sound: bool = True, names: tuple[str, ...] = ("a", "b")
) -> Reference:
    return Reference("long", Marginals(list(names), values), ess, sound)


PAIR = np.array([[-1.0, -3.0], [1.0, 3.0]])
"""Means 0, standard deviations 1 and 3."""


def subject(values: np.ndarray, against: Reference | None, **changes: Any) -> Subject:
    facts: dict[str, Any] = {
        "kind": "density",
        "names": ["a", "b"],
        "discrete": np.zeros(2, bool),
        "log_ratio": np.zeros((len(values), 1)),
    }
    return Subject(values=values[:, None], reference=against, **(facts | changes))


def weighed(weights: np.ndarray) -> dict[str, Testimony]:
    found = Importance(weights, 0.1, 0.1, 10.0)
    return {importance.NAME: Testimony(importance.NAME, detail=[found])}


def test_errors_of_raw_and_of_weighted_draws() -> None:
    """In sds of the reference; both Monte Carlo errors, 1 / draws + 1 / ESS, and half of it for sds."""
    values = np.array([[0.0, 0.0], [4.0, 9.0], [2.0, 0.0], [2.0, 3.0]])
    one = subject(values, reference(PAIR, 50.0))
    raw = room._estimate(one, PAIR, None)
    np.testing.assert_allclose(raw.shift, [[2.0, 1.0]])
    np.testing.assert_allclose(raw.log_ratio, np.log(values.std(0) / [1.0, 3.0])[None])
    np.testing.assert_allclose(raw.shift_se, math.sqrt(1 / 4 + 1 / 50) * np.ones((1, 2)))
    np.testing.assert_allclose(raw.log_ratio_se, raw.shift_se / math.sqrt(2))
    assert raw.able.tolist() == [[True, True]]
    weighted = room._estimate(one, PAIR, np.array([0.5, 0.5, 0.0, 0.0]))
    np.testing.assert_allclose(weighted.shift, [[2.0, 1.5]])
    np.testing.assert_allclose(weighted.log_ratio, np.log([[2.0, 1.5]]))
    np.testing.assert_allclose(weighted.shift_se, math.sqrt(1 / 2 + 1 / 50) * np.ones((1, 2)))
    unknown = room._estimate(subject(values, reference(PAIR, 0.2)), PAIR, None)
    np.testing.assert_allclose(unknown.shift_se, math.sqrt(1 / 4 + 1))


def test_discrete_values_without_a_spread_count_as_the_least() -> None:
    """On both sides: 20 / sqrt S, here 10."""
    discrete = np.ones(2, bool)
    values, theirs = np.full((4, 2), 7.0), np.full((3, 2), 2.0)
    found = room._estimate(subject(values, reference(theirs), discrete=discrete), theirs, None)
    np.testing.assert_allclose(found.shift, 0.5)
    np.testing.assert_allclose(found.log_ratio, 0.0)


def spread(shift: float = 0.0, factor: float = 1.0, size: int = 10_000) -> np.ndarray:
    """Draws of PAIR with this error of its means and sds."""
    return np.tile(shift * np.array([1.0, 3.0]) + factor * PAIR, (size // 2, 1))


def stated(values: np.ndarray, heard: Any = None, **changes: Any) -> Testimony:
    against = reference(np.tile(PAIR, (50, 1)), **changes.pop("reference", {}))
    return room.hear(subject(values, against, **changes), heard or {})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Distances are not what these tests are about."""
    if "wasserstein" not in request.node.name:
        monkeypatch.setattr(room, "wasserstein_in_sds", lambda ours, theirs: 0.25 * ours.ndim)


@pytest.mark.parametrize(
    ("shift", "kind", "words"),
    [
        (0.13, "density", "0.13"),
        (0.105, "density", "less than two"),
        (0.095, "density", ""),
        (0.13, "chains", "0.13"),
        (0.105, "chains", ""),
    ],
)
def test_draws_at_a_limit_are_spoken_against_unless_they_are_chains(
    shift: float, kind: str, words: str
) -> None:
    """Limit 0.1, standard error 0.01 of 10,000 draws."""
    (said,) = stated(spread(shift), kind=kind).against
    assert (words in said) if words else said == ""
    assert ("less than two" in said) is (words == "less than two")


def test_a_reference_that_is_not_sound_only_compares() -> None:
    found = stated(spread(1.0), weighed(np.full(10_000, 1e-4)), reference={"sound": False})
    assert list(found.against) == list(found.against_weighted) == [] and found.agreement == ""
    assert found.vouches is not None and found.checks is not None
    assert not found.vouches[0] and not found.checks[0]
    assert found.estimate is not None and found.weighted is not None
    assert "1 sd too high" in found.words[0]


@pytest.mark.parametrize(
    ("shift", "changes", "vouches"),
    [
        (0.0, {}, False),  # other witnesses judge
        (0.0, {"log_ratio": None}, True),  # a file with draws alone
        (0.09, {"log_ratio": None}, False),  # within its error of a limit
        (0.0, {"log_ratio": None, "kind": "chains"}, False),  # R-hat vouches for chains
        (0.09, {"discrete": np.ones(2, bool)}, True),
        (0.11, {"discrete": np.ones(2, bool)}, False),
        (0.0, {"discrete": np.ones(2, bool), "reference": {"sound": False}}, False),
        (0.0, {"log_ratio": None, "reference": {"sound": False}}, False),
    ],
)
def test_what_a_reference_vouches_for(shift: float, changes: dict[str, Any], vouches: bool) -> None:
    found = stated(spread(shift), **changes)
    assert found.vouches is not None and found.vouches.tolist() == [vouches]
    assert found.checks is not None and found.checks.tolist() == [False]


def test_weighted_draws_are_checked() -> None:
    """Half of the draws are 2 sd too high, and have no weight, or all of it."""
    values = np.concatenate([spread(2.0), spread(0.0)])
    for first, words in ((0.0, ""), (1.0, "2 sd too high")):
        weights = np.repeat([first, 1.0 - first], 10_000) / 10_000
        found = stated(values, weighed(weights))
        assert found.checks is not None and found.checks.tolist() == [True]
        (said,) = found.against_weighted
        assert (words in said) if words else said == ""
        assert found.weighted is not None and found.role == "compares"
        assert found.weighted.shift[0, 0] == pytest.approx(2 * first)
    assert found.numbers["wasserstein"].tolist() == [0.5]
    assert found.detail.name == "long" and "long" in found.words[0]
    assert "reference" in found.agreement


def test_a_reference_is_read_in_the_order_of_the_draws() -> None:
    swapped = reference(np.tile(PAIR[:, ::-1], (50, 1)), names=("b", "a"))
    found = room.hear(subject(spread(), swapped), {}).estimate
    assert found is not None
    np.testing.assert_allclose(found.log_ratio, 0.0, atol=1e-12)
    lacking = room.hear(subject(spread(), reference(PAIR, names=("c", "d"))), {})
    assert lacking == Testimony(room.NAME, absent=lacking.absent) and "long" in lacking.absent


def test_of_other_parameters_those_that_both_have_are_compared() -> None:
    """They may speak against the draws; draws of which something was not compared are not vouched for."""
    values = np.tile(PAIR, (2500, 1))
    for names, shift, off in (
        (("a", "c"), 0.0, False),
        (("a", "c"), 0.5, True),
        (("a", "b"), 0.0, False),
    ):
        told = reference(values + shift, names=names)
        found = room.hear(subject(values, told, log_ratio=None), {})
        whole = "b" in names
        assert found.estimate is not None and found.vouches is not None
        assert found.estimate.able.tolist() == [[True, whole]]
        np.testing.assert_allclose(found.estimate.shift, [[-shift, 0.0]])
        assert any(found.against) == off and bool(found.vouches[0]) == whole
        assert any("has no b" in words for words in found.words) != whole


def test_rows_have_no_reference() -> None:
    assert room.hear(subject(spread(), None), {}) == Testimony(room.NAME)
    rows = subject(spread(), reference(PAIR), discrete=np.zeros(2, bool))
    two = replace(rows, values=np.repeat(rows.values, 2, axis=1))
    assert room.hear(two, {}) == Testimony(room.NAME)


@pytest.mark.parametrize(("columns", "computed"), [(399, 399), (400, 200), (3, 3)])
def test_wasserstein_distances_of_at_most_two_hundred_marginals_or_so(
    columns: int, computed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every so many-th from 400 on; of all draws; the largest counts, and 0 where none is."""
    asked = []

    def distance(ours: Any, theirs: Any) -> float:
        asked.append((len(ours), len(theirs)))
        return float(np.abs(ours.mean() - theirs.mean()))

    monkeypatch.setattr(room, "wasserstein_distance", distance)
    ours, theirs = np.zeros((30, columns)), np.tile(0.01 * PAIR[:, :1], (20, columns))
    ours[:, 2] = 0.07
    assert wasserstein_in_sds(ours, theirs) == pytest.approx(7.0)
    assert asked == [(30, 40)] * computed
    assert wasserstein_in_sds(0 * ours, theirs) == pytest.approx(0.0, abs=1e-9)
    still = np.zeros((4, 1))
    assert wasserstein_in_sds(still, still) == 0.0
    assert wasserstein_in_sds(still + 1e-300, still) == 1.0
