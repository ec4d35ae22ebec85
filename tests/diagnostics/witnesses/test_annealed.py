"""Chains from the prior against the draws: normals and pairs of branches, whose errors are known."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Annealed, Own, Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import annealed as room
from guidebook.diagnostics.witnesses import importance

ROWS, CHAINS, DRAWS = 8, 400, 2000


def subject(
    values: np.ndarray,
    ends: np.ndarray | None,
    log_w: np.ndarray | None = None,
    known: bool = False,
) -> Subject:
    size = values.shape[2]
    annealed = None
    if ends is not None:
        log_w = np.zeros(ends.shape[:2]) if log_w is None else log_w
        center, spread = np.zeros(ends.shape[1:]), np.ones(ends.shape[1:])
        annealed = Annealed(ends, log_w, np.full(values.shape[1], known), center, spread)
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
    # chains contradict, in words, and confirm nothing
    assert found.estimate is not None and not found.estimate.able.any()
    np.testing.assert_allclose(found.estimate.shift, 1.0, atol=0.25)  # five errors of 400 chains
    np.testing.assert_allclose(found.detail, 0.5, atol=0.13)
    assert all("one of several explanations" in words for words in found.against)
    assert "100% of the rows" in found.words[1] and "AmortizedFlow" in found.remedy


@pytest.mark.parametrize("rows", [20, 19])
def test_one_row_of_twenty_does_not_decide_what_to_mend(rows: int) -> None:
    """A twentieth of the rows is not more than 5 %, a nineteenth is."""
    rng = np.random.default_rng(0)
    draws, ends = (3 + 0.2 * rng.standard_normal((n, rows, 1)) for n in (DRAWS, CHAINS))
    ends[: CHAINS // 2, 0] *= -1
    found = room.hear(subject(draws, ends), {})
    assert (found.detail > 0).tolist() == [True] + [False] * (rows - 1)
    assert ("AmortizedFlow" in found.remedy) is (rows == 19)


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


def test_its_errors_are_two_and_a_half_times_those_of_the_weights() -> None:
    """Of means: sqrt(sum w^2 z^2 + 1 / S); of standard deviations: half the root of sum w^2 (z^2 - 1)^2
    + 2 / S; S the draws, or those that are effective of weighted ones.
    """
    ends, draws = 5 + 0.1 * normal(CHAINS, 0), 5 + 0.1 * normal(DRAWS, 1)
    w = np.random.default_rng(3).random(CHAINS)
    of_draws = np.random.default_rng(4).random(DRAWS)
    of_draws /= of_draws.sum()
    one = Importance(of_draws, 0.1, 0.1, 1.0)
    heard = {importance.NAME: Testimony(importance.NAME, detail=[one] * ROWS)}
    found = room.hear(subject(draws, ends, np.log(w)[:, None] * np.ones(ROWS)), heard)
    assert found.estimate is not None and found.weighted is not None
    w /= w.sum()
    mean = w @ ends[:, 0, 0]
    sd = math.sqrt(w @ np.square(ends[:, 0, 0] - mean))
    z2 = np.square((ends[:, 0, 0] - mean) / sd)
    for given, size in ((found.estimate, DRAWS), (found.weighted, 1 / np.square(of_draws).sum())):
        shift = 2.5 * math.sqrt(np.square(w) @ z2 + 1 / size)
        ratio = 2.5 * 0.5 * math.sqrt(np.square(w) @ np.square(z2 - 1) + 2 / size)
        assert given.shift_se[0, 0] == pytest.approx(shift)
        assert given.log_ratio_se[0, 0] == pytest.approx(ratio)
    raw = draws[:, 0, 0]
    assert found.estimate.shift[0, 0] == pytest.approx((raw.mean() - mean) / sd)
    assert found.estimate.log_ratio[0, 0] == pytest.approx(math.log(raw.std() / sd))


def test_draws_of_adapted_mixtures_confirm_and_only_unequal_weights_are_noise() -> None:
    """Draws of N(0, 1) with the log ratio to N(0.1, 1): without the noise of the draws themselves, which five
    errors of theirs, 0.25 and 0.18, would let pass.
    """
    ends, draws = normal(CHAINS, 0), normal(DRAWS, 1)
    log_w = 0.1 * ends[..., 0]
    own = Own(np.full((ROWS, 1), 0.1), np.ones((ROWS, 1)), math.inf, draws)
    given = replace(subject(draws, ends, log_w, known=True), own=own)
    found = room.hear(given, {})
    assert found.role == "confirms" and found.checks is not None and found.checks.all()
    assert (
        found.estimate is not None
        and "For 100% of the rows a mixture was adapted" in found.words[0]
    )
    assert (found.estimate.shift_se < 0.02).all() and (found.estimate.log_ratio_se < 0.02).all()
    assert (np.abs(found.estimate.shift) < 5 * found.estimate.shift_se).all()
    assert (np.abs(found.estimate.log_ratio) < 5 * found.estimate.log_ratio_se).all()
    assert found.estimate.good().all()
    off = room.hear(replace(given, own=own._replace(mean=own.mean + 0.15)), {}).estimate
    assert off is not None and off.bad().all()
    rough = room.hear(subject(draws, ends, log_w), {})
    assert rough.estimate is not None and rough.checks is not None and not rough.checks.any()
    assert (rough.estimate.shift_se > 0.1).all() and "mixture" not in rough.words[0]


def test_of_q_its_own_moments_are_judged() -> None:
    """In closed form without error, else with that of the draws that they are of."""
    ends, draws = normal(CHAINS, 0), normal(DRAWS, 1)
    given = subject(draws, ends, known=True)  # equal weights: the moments are 0 and 1
    for size, error in ((math.inf, 0.0), (400.0, 0.05)):
        own = Own(np.full((ROWS, 1), 0.25), np.full((ROWS, 1), 2.0), size, draws)
        exact = room.hear(replace(given, own=own), {}).estimate
        assert exact is not None
        np.testing.assert_allclose(exact.shift, 0.25)
        np.testing.assert_allclose(exact.log_ratio, math.log(2.0))
        np.testing.assert_allclose(exact.shift_se, error, atol=1e-12)
        np.testing.assert_allclose(exact.log_ratio_se, error / math.sqrt(2), atol=1e-12)


def test_every_row_is_told_by_itself() -> None:
    """The first and the second lack a branch, the first has few effective chains; the others are right."""
    ends, draws = branches(CHAINS, 0), branches(DRAWS, 5)
    draws[:, :2] = 3.0 + normal(DRAWS, 1, scale=0.2)[:, :2]
    log_w = np.zeros((CHAINS, ROWS))
    log_w[15:, 0] = -1000.0
    found = room.hear(subject(draws, ends, log_w), {})
    assert (
        "88% of 8 rows could be judged" in found.words[0] and "In 25% of the rows" in found.words[1]
    )
    assert [bool(words) for words in found.against] == [True, True] + [False] * 6
    assert found.far is not None and found.far.tolist() == [False, False] + [True] * 6
    assert found.agreement == "" and found.remedy
    assert (found.detail > 0).tolist() == [True, True] + [False] * 6


@pytest.mark.parametrize(("chains", "able"), [(16, True), (15, False)])
def test_sixteen_effective_chains_can_judge(chains: int, able: bool) -> None:
    ends = normal(CHAINS, 0)
    log_w = np.full((CHAINS, ROWS), -1000.0)
    log_w[:chains] = 0.0
    found = room.hear(subject(normal(DRAWS, 1), ends, log_w), {})
    assert found.estimate is not None and found.far is not None
    assert (f"{float(able):.0%} of {ROWS} rows could be judged") in found.words[0]
    assert not found.estimate.able.any()
    assert found.far.all() == able and found.far.any() == able
    assert bool(found.agreement) is able
    assert found.detail.shape == (ROWS,)


@pytest.mark.parametrize(("distance", "outside"), [(5.95, False), (6.05, True)])
def test_elsewhere_is_beyond_the_root_of_d_plus_four(distance: float, outside: bool) -> None:
    """Of four dimensions: six standard deviations of the draws, which are 1 here exactly."""
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T
    draws = np.tile(corners, (100, 1))[:, None] * math.sqrt(1599 / 1600) + 50.0
    draws = np.repeat(draws, ROWS, axis=1)  # numpy's covariance divides by S - 1
    ends = np.full((CHAINS, ROWS, 4), 50.0 + distance / 2)
    found = room.hear(subject(draws, ends), {})
    np.testing.assert_allclose(found.detail, float(outside), atol=1e-12)


def test_at_the_limit_itself_a_chain_is_not_elsewhere() -> None:
    """Five draws whose mean is 0 and whose variance is 1 to the last digit: 1 + 4 is the limit."""
    draws = np.repeat(np.array([-1.0, -1.0, 0.0, 1.0, 1.0])[:, None, None], ROWS, axis=1)
    for place, outside in ((5.0, False), (-5.0, False), (np.nextafter(5.0, 6.0), True)):
        ends = np.full((CHAINS, ROWS, 1), place)
        assert (room._outside(draws, ends) == outside).all()


def test_just_the_share_of_an_explanation_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ELSEWHERE", 0.25)
    ends = np.zeros((32, ROWS, 1))
    ends[:8] = 100.0
    draws = normal(DRAWS, 1)
    assert not room.hear(subject(draws, ends), {}).detail.any()
    ends[8] = 100.0
    assert room.hear(subject(draws, ends), {}).detail.all()


@pytest.mark.parametrize(("share", "named"), [(0.053, True), (0.047, False)])
def test_five_in_a_hundred_elsewhere_change_the_code(share: float, named: bool) -> None:
    """So far away both are errors of means and standard deviations."""
    ends = np.concatenate(
        [normal(int(20_000 * (1 - share)), 0), 100 + normal(int(20_000 * share), 1)]
    )
    found = room.hear(subject(normal(DRAWS, 2), ends), {})
    assert all("explanations" in words for words in found.against)
    assert (found.detail > 0).all() == named and (found.detail > 0).any() == named


@pytest.mark.parametrize(("distance", "harmful"), [(10.6, False), (10.7, True)])
def test_a_chain_of_256_elsewhere_counts_by_what_it_does(distance: float, harmful: bool) -> None:
    """1 + w (1 - w) d^2 is 1.44, a standard deviation too small by 1.2, at d = 10.63 (w = 1 / 256); means are
    off by w d / 1.2 = 0.035. Of the draws none, or as many, lie there.
    """
    ends = 0.1 * normal(256, 0)
    ends[0] = distance
    draws = normal(DRAWS, 1)
    draws /= draws.std(0)
    found = room.hear(subject(draws - draws.mean(0), ends), {})
    assert [bool(words) for words in found.against] == [harmful] * ROWS
    assert found.far is not None and (~found.far == harmful).all()
    draws[: DRAWS // 256] = distance
    kept = room.hear(subject(draws, ends), {})
    assert not any("explanations" in words for words in kept.against)


class Known:
    """log p(z) of every row, given."""

    dtype, device, cost = torch.float64, torch.device("cpu"), 1

    def __init__(self, log_p: Callable[[Tensor], Tensor]) -> None:
        self.log_p = log_p

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_p(z), torch.zeros_like(z)

    def values(self, u: Tensor) -> np.ndarray:
        return u.numpy()

    def ordered(self, u: Tensor) -> Tensor:
        return u


def with_density(known: Subject, log_p: Callable[[Tensor], Tensor]) -> Subject:
    height = log_p(torch.as_tensor(known.values)).numpy()
    return replace(known, density=Known(log_p), log_density=height)


def test_draws_that_are_too_narrow_leave_no_explanation_out() -> None:
    """A twentieth and more of N(0, 1) lies beyond five standard deviations of N(0, 0.3^2)."""
    too_narrow = subject(normal(DRAWS, 1, scale=0.3), normal(CHAINS, 0))
    found = room.hear(with_density(too_narrow, lambda z: -z.square().sum(-1) / 2), {})
    assert all("too narrow" in words for words in found.against)
    assert not found.detail.any() and len(found.words) == 1 and found.remedy == ""


@pytest.mark.parametrize(("valley", "named"), [(1.05, True), (0.95, False)])
def test_an_explanation_lies_across_a_valley_of_one_nat(valley: float, named: bool) -> None:
    """log p is nil around the draws and around the ends, and lower between 1 and 9."""
    two = subject(
        0.1 * normal(DRAWS, 1), np.concatenate([normal(150, 0) / 10, 10 + normal(50, 2) / 10])
    )

    def log_p(z: Tensor) -> Tensor:
        return -valley * ((z > 1) & (z < 9)).double().sum(-1)

    found = room.hear(with_density(two, log_p), {})
    assert all(("explanations" in words) is named and words for words in found.against)


def test_in_fifty_dimensions_the_mean_of_the_ends_lies_above_the_valley() -> None:
    """Two normals 12 apart: an end lies 25 nats below its peak, the valley 18; the mean of 40 ends 0.6."""
    size, half = 50, torch.zeros(50, dtype=torch.float64)
    half[0] = 6.0

    def log_p(z: Tensor) -> Tensor:
        both = torch.stack([-(z - half).square().sum(-1), -(z + half).square().sum(-1)])
        return (both / 2).logsumexp(0)

    ends = normal(80, 0, size)
    ends[..., 0] += np.where(np.arange(80) % 2, 6.0, -6.0)[:, None]
    draws = normal(DRAWS, 1, size) + half.numpy()
    found = room.hear(with_density(subject(draws, ends), log_p), {})
    assert all("explanations" in words for words in found.against) and (found.detail > 0.4).all()


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
