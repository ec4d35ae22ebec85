"""Chains from the prior against the draws: normals and pairs of branches, whose errors are known."""

import math
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import annealed as room
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.subject import Subject
from guidebook.diagnostics.witnesses.testimony import Testimony

ROWS, CHAINS, DRAWS = 8, 400, 2000


def subject(
    values: np.ndarray, ends: np.ndarray | None, log_w: np.ndarray | None = None
) -> Subject:
    size = values.shape[2]
    annealed = None
    if ends is not None:
        annealed = ends, np.zeros(ends.shape[:2]) if log_w is None else log_w
    return Subject(
        kind="density", names=[f"z[{i}]" for i in range(size)], values=values,
        discrete=np.zeros(size, bool), annealed=annealed, lacks={"annealed": "no prior"},
    )  # fmt: skip


def normal(count: int, seed: int, size: int = 1, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((count, ROWS, size))


def branches(count: int, seed: int) -> np.ndarray:
    """Half around 3, half around -3, both with standard deviation 0.2."""
    rng = np.random.default_rng(seed)
    return rng.choice([-3.0, 3.0], (count, ROWS, 1)) + normal(count, seed + 1, scale=0.2)


def test_without_chains_it_says_why() -> None:
    assert room.hear(subject(normal(50, 0), None), {}) == Testimony(room.NAME, absent="no prior")


def test_chains_that_end_where_the_draws_are_speak_for_them() -> None:
    one = normal(CHAINS, 0, 3), normal(DRAWS, 1, 3)
    two = branches(CHAINS, 0), branches(DRAWS, 5)
    for ends, draws in (one, two):
        found = room.hear(subject(draws, ends), {})
        assert found.far is not None and found.far.all() and found.agreement
        assert list(found.against) == [""] * ROWS and found.remedy == "" and len(found.words) == 1
        assert found.estimate is not None and not found.estimate.bad().any()
        assert found.weighted is None


def test_a_branch_without_draws_is_found() -> None:
    draws = 3.0 + normal(DRAWS, 1, scale=0.2)
    found = room.hear(subject(draws, branches(CHAINS, 0)), {})
    assert found.far is not None and not found.far.any() and found.agreement
    assert found.estimate is not None and found.estimate.bad().all()
    np.testing.assert_allclose(found.estimate.shift, 1.0, atol=0.25)  # five errors of 400 chains
    np.testing.assert_allclose(found.detail, 0.5, atol=0.13)
    assert all("one of several explanations" in words for words in found.against)
    assert "100% of the rows" in found.words[1] and "AmortizedFlow" in found.remedy


def test_an_error_without_another_branch_is_named() -> None:
    found = room.hear(subject(2.0 + normal(DRAWS, 1), normal(CHAINS, 0)), {})
    assert found.estimate is not None
    np.testing.assert_allclose(found.estimate.shift, 2.0, atol=0.4)
    assert all("the mean of z[0] is" in w and "sd too high" in w for w in found.against)
    assert len(found.words) == 1 and found.remedy == ""


def test_the_weights_of_the_chains_are_heard() -> None:
    """Ends of N(0, 2^2) with the log ratio to N(1, 1): moments within five errors of 1 and 1."""
    ends = normal(20_000, 0, scale=2.0)
    log_w = (-0.5 * np.square(ends - 1) + np.square(ends / 2) / 2)[..., 0] + 500.0
    found = room.hear(subject(1.0 + normal(DRAWS, 1), ends, log_w), {})
    assert found.estimate is not None
    weights = np.exp(log_w - 500)
    ess = np.square(weights.sum(0)) / np.square(weights).sum(0)
    assert (np.abs(found.estimate.shift[:, 0]) < 5 * np.sqrt(1 / ess + 1 / DRAWS)).all()
    assert (np.abs(found.estimate.log_ratio[:, 0]) < 5 * np.sqrt(1 / ess + 0.5 / DRAWS)).all()


def test_its_errors_are_two_and_a_half_times_those_of_even_chains() -> None:
    """sqrt(1 / C + 1 / S) of the mean; sqrt(1 / 2C + 1 / 2S) of the standard deviation."""
    found = room.hear(subject(normal(DRAWS, 1), normal(CHAINS, 0)), {}).estimate
    assert found is not None
    error = 2.5 * math.sqrt(1 / CHAINS + 1 / DRAWS)
    np.testing.assert_allclose(found.shift_se, error, rtol=0.02)
    np.testing.assert_allclose(found.log_ratio_se, error / math.sqrt(2), rtol=0.25)


@pytest.mark.parametrize(("chains", "able"), [(16, True), (15, False)])
def test_sixteen_effective_chains_can_judge(chains: int, able: bool) -> None:
    ends = normal(CHAINS, 0)
    log_w = np.full((CHAINS, ROWS), -1000.0)
    log_w[:chains] = 0.0
    found = room.hear(subject(normal(DRAWS, 1), ends, log_w), {})
    assert found.estimate is not None and found.far is not None
    assert found.estimate.able.all() == able and found.estimate.able.any() == able
    assert found.far.all() == able and found.far.any() == able
    assert bool(found.agreement) is able
    assert found.detail.shape == (ROWS,)


@pytest.mark.parametrize(("distance", "outside"), [(4.95, False), (5.05, True)])
def test_elsewhere_is_beyond_the_root_of_d_plus_four(distance: float, outside: bool) -> None:
    """Of one dimension: five standard deviations of the draws, which are 1 here exactly."""
    draws = np.tile(np.array([-1.0, 1.0])[:, None, None], (1000, ROWS, 1))
    draws *= math.sqrt(1999 / 2000)  # numpy's covariance divides by S - 1
    ends = np.full((CHAINS, ROWS, 1), distance)
    found = room.hear(subject(draws, ends), {})
    np.testing.assert_allclose(found.detail, float(outside))


@pytest.mark.parametrize(("share", "named"), [(0.055, True), (0.045, False)])
def test_five_in_a_hundred_elsewhere_are_an_explanation(share: float, named: bool) -> None:
    ends = np.concatenate(
        [normal(int(20_000 * (1 - share)), 0), 100 + normal(int(20_000 * share), 1)]
    )
    found = room.hear(subject(normal(DRAWS, 2), ends), {})
    assert all(("explanations" in words) is named and words for words in found.against)


def test_weighted_draws_are_judged_by_themselves() -> None:
    """Draws of both branches, 80 : 20, with the weights that make them even."""
    rng = np.random.default_rng(4)
    side = rng.random((DRAWS, ROWS, 1)) < 0.8
    draws = np.where(side, 3.0, -3.0) + normal(DRAWS, 3, scale=0.2)
    detail: list[Any] = []
    for row in range(ROWS):
        w = np.where(side[:, row, 0], 0.5 / side[:, row].sum(), 0.5 / (~side[:, row]).sum())
        detail.append(Importance(w, 0.1, 0.1, 1 / np.square(w).sum()))
    heard = {importance.NAME: Testimony(importance.NAME, detail=detail)}
    found = room.hear(subject(draws, branches(2000, 0)), heard)
    assert all(found.against) and list(found.against_weighted) == [""] * ROWS
    assert found.weighted is not None
    np.testing.assert_allclose(found.weighted.shift, 0.0, atol=0.15)
