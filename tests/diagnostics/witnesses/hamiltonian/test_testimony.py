"""What the Hamiltonian run states as a witness, why there is none, and where it begins."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.numerics.drift import Transport
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import annealed, importance, modes, stein
from guidebook.diagnostics.witnesses import transport as room
from guidebook.diagnostics.witnesses.stein import Stein
from tests.diagnostics.witnesses.basins_given import basins, draws
from tests.diagnostics.witnesses.hamiltonian.posteriors import subject

MOVED = Transport(
    mean=np.array([[1.0, 2.0]]),
    sd=np.array([[2.0, 4.0]]),
    shift=np.array([[0.3, 0.01]]),
    shift_se=np.array([[0.03, 0.04]]),
    sd_ratio=np.array([[1.1, 0.9]]),
    sd_ratio_se=np.array([[0.02, 0.01]]),
    able=np.array([[True, False]]),
    acceptance=np.array([0.82]),
    nested_rhat=np.array([[1.02, 1.25]]),
)


def test_weighted_draws_against_the_moments_after_the_run() -> None:
    """Their error is 1 / sqrt of the effective draws, beside that of the run."""
    values = np.array([[[1.0, 5.0]], [[4.0, 5.0]], [[9.0, 5.0]]])
    weights = np.array([[0.5], [0.5], [0.0]])
    found = room.of_weighted(values, MOVED, weights)
    np.testing.assert_allclose(found.shift, [[0.75, 0.75]])  # (2.5 - 1) / 2, (5 - 2) / 4
    np.testing.assert_allclose(found.log_ratio, [[math.log(0.75), math.log(1e-300 / 4)]])
    np.testing.assert_allclose(found.shift_se, np.sqrt(np.square([[0.03, 0.04]]) + 0.5))
    np.testing.assert_allclose(found.log_ratio_se, np.sqrt(np.square([[0.02, 0.01]]) + 0.5))
    assert found.able.tolist() == [[True, False]]


def weighed(weights: np.ndarray) -> dict[str, Testimony]:
    found = Importance(weights, 0.1, 0.1, 10.0)
    return {importance.NAME: Testimony(importance.NAME, detail=[found])}


def test_what_a_run_states(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def transport(*arguments: Any) -> Transport:
        given.append(arguments)
        return MOVED

    monkeypatch.setattr(room, "transport", transport)
    one = subject()
    assert one.position is not None
    found = room.hear(one, {})
    ((density, position, covariance, seed, between, _),) = given
    assert between is None and density is one.density and position is one.position and seed == 5
    np.testing.assert_allclose(covariance, np.cov(one.position[:, 0], rowvar=False)[None])
    assert found.estimate is not None and found.weighted is None
    np.testing.assert_allclose(found.estimate.log_ratio, np.log([[1.1, 0.9]]))
    np.testing.assert_allclose(found.estimate.log_ratio_se, [[0.02, 0.03]])  # tails: 1 and 3
    np.testing.assert_allclose(found.estimate.shift, MOVED.shift)
    np.testing.assert_allclose(found.estimate.shift_se, MOVED.shift_se)
    assert found.estimate.able.tolist() == [[True, False]]
    assert found.role == "confirms" and found.detail is MOVED
    assert "0.82" in found.words[0] and "1 of 2" in found.words[0]
    assert "nested R-hat at most 1.25" in found.words[0]
    assert "the mean of a is 0.3 sd too high" in found.words[0]
    assert "0.3 sd too high" in found.against[0] and list(found.against_weighted) == []
    assert "HMC" in found.agreement
    weighted = room.hear(one, weighed(np.eye(50)[0]))
    assert weighted.weighted is not None
    noise = np.hypot([[0.02, 0.01]], 1.0) * [[1.0, 3.0]]  # one draw is in effect left
    np.testing.assert_allclose(weighted.weighted.log_ratio_se, noise)
    assert len(weighted.against_weighted) == 1


def test_weighted_draws_that_are_off_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "transport", lambda *_: MOVED)
    values = np.tile([[[-1.0, -2.0]], [[3.0, 6.0]]], (500, 1, 1))  # as MOVED has them
    equal = weighed(np.full(1000, 1e-3))
    assert list(room.hear(subject(values=values), equal).against_weighted) == [""]
    found = room.hear(subject(values=values + 4.0), equal)
    assert "2 sd too high" in found.against_weighted[0]
    # means and standard deviations that are known directly, and within bounds: drift can be misled
    nil, error = np.zeros((1, 2)), np.full((1, 2), 0.01)
    right = Estimate(nil, error, nil, error, np.ones((1, 2), bool))
    for known, said in ((right, ""), (replace(right, shift=nil + 0.09), found.against_weighted[0])):
        told = Testimony(annealed.NAME, estimate=right, weighted=known)
        again = room.hear(subject(values=values + 4.0), {**equal, annealed.NAME: told})
        assert list(again.against_weighted) == [said] and list(again.against) == [""]


def test_acceptance_is_that_of_all_posteriors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over posteriors; marginals are counted over all of them."""
    twice = {name: np.repeat(value, 2, axis=0) for name, value in vars(MOVED).items()}
    twice["acceptance"] = np.array([0.4, 0.8])
    monkeypatch.setattr(room, "transport", lambda *_: Transport(**twice))
    values = np.random.default_rng(0).standard_normal((50, 2, 2))
    found = room.hear(subject(values=values, position=values, tails=np.ones((2, 2))), {})
    assert "0.60" in found.words[0] and "2 of 4" in found.words[0]
    assert len(found.against) == 2


def test_why_there_is_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("chains", "point"):
        assert room.hear(subject(kind=kind), {}) == Testimony(room.NAME)
    for lacking in ("density", "position"):
        found = room.hear(subject(**{lacking: None}), {})
        assert found == Testimony(room.NAME, absent="no model")
    monkeypatch.setattr(room, "transport", lambda *_: None)
    assert "not finite" in room.hear(subject(), {}).absent

    def singular(*_: Any) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr(room, "transport", singular)
    assert "singular" in room.hear(subject(), {}).absent


@pytest.mark.parametrize(
    ("factor", "taken"),
    [(1.0, True), (0.99e4, True), (1.01e4, False), (1.01e-4, True), (0.99e-4, False)],
)
@pytest.mark.parametrize("coordinate", [0, 1])
def test_the_matching_gaussian_is_taken_within_a_factor_of_a_hundred(
    factor: float, taken: bool, coordinate: int
) -> None:
    """In scale, in every coordinate; of the posterior that it matches."""
    position = np.random.default_rng(2).standard_normal((30, 2, 2)) * [[1.0, 5.0], [2.0, 0.1]]
    own = np.stack([np.cov(position[:, i], rowvar=False) for i in range(2)])
    np.testing.assert_allclose(room._metric(position, None), own)
    covariance = np.diag(np.diagonal(own[1]) * np.where(np.arange(2) == coordinate, factor, 1.0))
    one = np.ones(2)
    matched, unmatched = (Stein(["a", "b"], one, one, one, one, c) for c in (covariance, None))
    for before in (None, unmatched):
        found = room._metric(position, [before, matched])
        np.testing.assert_allclose(found[0], own[0])
        np.testing.assert_allclose(found[1], covariance if taken else own[1])


@pytest.mark.parametrize(("ratio", "taken"), [(1e4, False), (1e-4, False), (1.0, True)])
def test_a_factor_of_just_a_hundred_is_too_much(ratio: float, taken: bool) -> None:
    """Of positions -1, 0 and 1, whose variance is 1."""
    position = np.array([-1.0, 0.0, 1.0])[:, None, None]
    one = np.ones(1)
    found = room._metric(position, [Stein(["a"], one, one, one, one, np.array([[ratio]]))])
    assert found[0, 0, 0] == (ratio if taken else 1.0)


def test_the_run_begins_with_the_gaussian_that_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def transport(density: Any, position: Any, covariance: np.ndarray, *_: Any) -> Transport:
        given.append(covariance)
        return MOVED

    monkeypatch.setattr(room, "transport", transport)
    one = np.ones(2)
    found = Stein(["a", "b"], one, one, one, one, np.diag([2.0, 3.0]))
    room.hear(subject(), {stein.NAME: Testimony(stein.NAME, detail=[found])})
    np.testing.assert_array_equal(given[0], np.diag([2.0, 3.0])[None])


# draws in several basins ---------------------------------------------------------------------------

SHARES = Estimate(*np.full((4, 1, 1), 0.1), np.ones((1, 1), bool))


def test_a_run_stays_within_basins_where_the_draws_visit_several() -> None:
    """And where their shares have an estimate."""
    two = basins([0.0, 20.0], [0.5, 0.5])
    u = draws([500, 500], [0.0, 20.0]).reshape(-1, 1, 1)
    heard = {modes.NAME: Testimony(modes.NAME, estimate=SHARES)}
    given = subject(position=u, modes=two)
    between = room._between(given, heard)
    assert between is not None and between.basins is two and between.shares is SHARES
    assert room._between(given, {}) is None
    assert room._between(given, {modes.NAME: Testimony(modes.NAME)}) is None
    for lacking in (
        {"modes": None},
        {"position": None},
        {"position": draws([1000], [0.0]).reshape(-1, 1, 1)},
    ):
        assert room._between(subject(**({"position": u, "modes": two} | lacking)), heard) is None


class Still:
    """Marginals are the positions; components keep their places."""

    def ordered(self, u: torch.Tensor) -> torch.Tensor:
        return u

    def values(self, u: torch.Tensor) -> np.ndarray:
        return u.numpy()


def test_blocks_of_chains_are_compared_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The acceptance is that of all chains: 30 of rate 0.2 and 10 of rate 0.6."""
    before = torch.from_numpy(draws([20, 20], [0.0, 20.0]).reshape(-1, 1, 1))
    after = before.flip(0)  # every chain has crossed
    parts = [(before[:30], after[:30], np.array([0.2])), (before[30:], after[30:], np.array([0.6]))]
    found = room._compared(Still(), parts, None)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.acceptance, [0.3])
    np.testing.assert_allclose(found.shift, 0.0, atol=1e-12)
    asked: list[Any] = []
    monkeypatch.setattr(room, "within_basins", lambda *given: asked.append(given))
    between = room.Between(basins([0.0, 20.0], [0.5, 0.5]), SHARES)
    room._compared(Still(), parts, between)  # type: ignore[arg-type]
    old, new, acceptance, places, shares = asked[0]
    np.testing.assert_array_equal(old, before.numpy())
    np.testing.assert_array_equal(new, after.numpy())
    np.testing.assert_allclose(acceptance, [0.3])
    assert [p.tolist() for p in places] == [[0] * 20 + [1] * 20, [1] * 20 + [0] * 20]
    assert shares is SHARES
