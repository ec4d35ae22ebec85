"""The parts of the Hamiltonian run: trajectories in closed form, tuning, comparison and words."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics import drift
from guidebook.diagnostics.numerics.drift import Transport
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import importance, stein
from guidebook.diagnostics.witnesses import transport as room
from guidebook.diagnostics.witnesses.stein import Stein

COVARIANCES = np.array(
    [[[4.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]], np.diag([1.0, 9.0, 0.04])]
)
"""Of two posteriors with three coordinates each."""


class Gaussian:
    """N(0, COVARIANCES), n = 2; it counts how often and of how many chains it was asked."""

    dtype = torch.float64
    device = torch.device("cpu")
    cost = 10

    def __init__(self) -> None:
        self.inverse = torch.linalg.inv(torch.as_tensor(COVARIANCES))
        self.asked: list[int] = []

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(len(u))
        grad = -torch.einsum("cni,nij->cnj", u, self.inverse)
        return 0.5 * (u * grad).sum(-1), grad

    def values(self, u: Tensor) -> np.ndarray:
        return u.numpy()

    def ordered(self, u: Tensor) -> Tensor:
        return u


def run_of(density: Any, covariance: np.ndarray = COVARIANCES, seed: int = 0) -> Any:
    return room._Hamiltonian(density, covariance, seed)


def start(chains: int = 40) -> Tensor:
    z = np.random.default_rng(0).standard_normal((chains, 2, 3))
    factor = np.linalg.cholesky(COVARIANCES)
    return torch.as_tensor(np.einsum("cnj,nij->cni", z, factor))


# trajectories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.4, 1.1])
def test_a_trajectory_in_a_gaussian_is_a_rotation(step: float) -> None:
    """In whitened coordinates leapfrog steps of size h turn by theta, cos theta = 1 - h^2 / 2:

        q_L = q cos(L theta) + p sin(L theta) / s,  p_L = p cos(L theta) - q s sin(L theta),

    with s^2 = 1 - h^2 / 4; the proposal is taken with probability exp(H_0 - H_L), H = (q^2 + p^2) / 2.
    """
    run, u = run_of(Gaussian(), seed=4), start()
    state = run.begin(u)
    moved, rate = run.transition(state, step)
    random = torch.Generator().manual_seed(4)  # the same numbers: length, momenta, acceptance
    leaps = round(1.5 * (0.8 + 0.4 * float(torch.rand((), generator=random))) / step)
    p = torch.randn(u.shape, generator=random, dtype=torch.float64)
    uniform = torch.rand(u.shape[:2], generator=random, dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.as_tensor(COVARIANCES))
    q = torch.einsum("cnj,nij->cni", u, torch.linalg.inv(factor))
    turn, s = leaps * math.acos(1 - step**2 / 2), math.sqrt(1 - step**2 / 4)
    new_q = q * math.cos(turn) + p * math.sin(turn) / s
    new_p = p * math.cos(turn) - q * s * math.sin(turn)
    energy = [0.5 * (a.square() + b.square()).sum(-1) for a, b in ((q, p), (new_q, new_p))]
    chance = (energy[0] - energy[1]).exp().clamp(max=1.0)
    taken = uniform < chance
    assert taken.any() and (step < 1 or not taken.all())
    new_u = torch.einsum("cnj,nij->cni", new_q, factor)
    torch.testing.assert_close(moved[0], torch.where(taken[..., None], new_u, u))
    value, grad = Gaussian().value_and_grad(moved[0])
    torch.testing.assert_close(moved[1], value)
    torch.testing.assert_close(moved[2], grad)
    np.testing.assert_allclose(rate, chance.mean(0).numpy())


@pytest.mark.parametrize("step", [0.01, 0.061, 0.5, 2.0, 4.0])
def test_a_trajectory_lasts_between_1_2_and_1_8_of_at_most_thirty_steps(step: float) -> None:
    """Uniformly, by the first number of the generator; a quarter turn of a Gaussian is pi / 2."""
    for seed in range(8):
        density = Gaussian()
        run = run_of(density, seed=seed)
        state = run.begin(start(2))
        run.transition(state, step)
        first = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        asked = len(density.asked) - 1
        assert asked == max(1, min(30, round((1.2 + 0.6 * first) / step)))


class Walled(Gaussian):
    """What it gives at every place but the first that it is asked of."""

    def __init__(self, spoil: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.spoil = spoil

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = super().value_and_grad(u)
        if len(self.asked) > 1:
            self.spoil(value, grad)
        return value, grad


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value, grad: value.fill_(math.inf),
        lambda value, grad: value.fill_(math.nan),
        lambda value, grad: grad[..., 1].fill_(math.nan),
    ],
)
def test_where_density_or_gradient_is_not_finite_nothing_moves(spoil: Any) -> None:
    run, u = run_of(Walled(spoil)), start()
    state = run.begin(u)
    moved, rate = run.transition(state, 0.1)
    torch.testing.assert_close(moved[0], u)
    assert rate.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("what", ["value", "grad"])
def test_a_hundredth_of_the_draws_may_lack_a_density(what: str) -> None:
    """Of 50 chains of two posteriors: one of a hundred draws may, two may not."""

    def begin(lacking: int) -> Any:
        def spoil(value: Tensor, grad: Tensor) -> None:
            spoiled = value if what == "value" else grad[..., 2]
            spoiled[:lacking, 0] = math.nan

        density = Walled(spoil)
        density.asked.append(0)
        return run_of(density).begin(start(50))

    state = begin(1)
    assert begin(2) is None and state is not None
    u, value, grad = state
    torch.testing.assert_close(u, start(50))
    assert value.isfinite().all() and grad.isfinite().all()
    if what == "value":
        assert value[0, 0] == -1e300 and (value[1:] > -100).all()
    else:
        assert grad[0, 0, 2] == 0.0 and (grad[1:] != 0.0).all()
    value, grad = (torch.full((100, 1), math.inf), torch.full((100, 1, 1), math.inf))
    value[1:], grad[1:] = 0.0, 1.0
    grad[0] = -math.inf
    run = run_of(Gaussian())
    run.density = type("Given", (), {"value_and_grad": lambda self, u: (value, grad)})()
    assert run.begin(torch.zeros(100, 1, 1))[2][0] == 0.0
    grad[0] = math.inf
    assert run.begin(torch.zeros(100, 1, 1))[2][0] == 0.0


# tuning --------------------------------------------------------------------------------------------


def tuned(rate: Callable[[float], Any], state: Any = None) -> tuple[float | None, list[float]]:
    """The step chosen, and those that were tried, where step h is accepted rate(h) of the time."""
    tried = []

    class Rated(room._Hamiltonian):
        def transition(self, state: Any, step: float, length: float = 1.5) -> Any:
            tried.append(step)
            return state, np.atleast_1d(rate(step))

    nothing = torch.zeros(1, 1, 1)
    run = Rated(Gaussian(), COVARIANCES, 0)  # type: ignore[arg-type]
    return run.tuned_step(state or (nothing, nothing[0], nothing)), tried


@pytest.mark.parametrize(
    ("rate", "change"), [(0.5, -0.3), (0.2, -0.6), (0.21, -0.59), (0.19, -1.22), (0.05, -1.5)]
)
def test_the_logarithm_of_a_step_is_moved_by_the_error_of_its_rate(
    rate: float, change: float
) -> None:
    """rate - 0.8, twice that below 0.2; fifteen trials at most, and none below a thousandth."""
    step, tried = tuned(lambda _: rate)
    np.testing.assert_allclose(tried, np.exp(change * np.arange(15)))
    assert step == (tried[-1] if math.exp(14 * change) > 1e-3 else None)


def test_a_step_is_at_most_that_of_e_to_0_4() -> None:
    step, tried = tuned(lambda _: 1.0)
    np.testing.assert_allclose(tried, np.exp(np.minimum(0.2 * np.arange(15), 0.4)))
    assert step == pytest.approx(math.exp(0.4))


@pytest.mark.parametrize(
    ("rate", "trials"), [(0.8, 2), (0.8799, 2), (0.8801, 15), (0.7201, 2), (0.7199, 15)]
)
def test_a_rate_within_0_08_of_0_8_is_enough(rate: float, trials: int) -> None:
    """Of all posteriors together, from the second trial on."""
    step, tried = tuned(lambda _: [rate - 0.1, rate + 0.1])
    assert len(tried) == trials and step == tried[-1]


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_step_below_a_thousandth_is_none(factor: float) -> None:
    """Fourteen equal changes of the logarithm end at this many thousandths."""
    step, tried = tuned(lambda _: 0.8 + math.log(factor * 1e-3) / 14)
    assert tried[-1] == pytest.approx(factor * 1e-3)
    assert (step is None) is (factor < 1)


@pytest.mark.parametrize(("posteriors", "chains"), [(1, 256), (2, 128), (32, 8), (64, 8)])
def test_a_step_is_tuned_on_256_trajectories(posteriors: int, chains: int) -> None:
    seen = []

    class Seen(room._Hamiltonian):
        def transition(self, state: Any, step: float, length: float = 1.5) -> Any:
            seen.append([len(part) for part in state])
            return state, np.full(posteriors, 0.8)

    u = torch.zeros(300, posteriors, 1)
    Seen(Gaussian(), COVARIANCES, 0).tuned_step((u, u[..., 0], u))  # type: ignore[arg-type]
    assert seen == [[chains] * 3] * 2


@pytest.mark.parametrize(
    ("posteriors", "cost", "draws", "chains"),
    [
        (1, 1, 9000, 8192),
        (1, 1, 9, 9),
        (1, 277_777, 9000, 1000),  # 2e10 numbers, 72 gradients each
        (1, 10**9, 9000, 512),
        (2, 1, 2000, 1024),
        (2, 173_611, 2000, 200),  # of a fourth of them
        (2, 10**9, 2000, 64),
    ],
)
def test_how_many_chains_can_be_afforded(
    posteriors: int, cost: int, draws: int, chains: int
) -> None:
    density: Any = type("Counted", (Gaussian,), {"cost": cost})()

    def lacking(u: Tensor) -> tuple[Tensor, Tensor]:
        density.asked.append(len(u))
        return u[..., 0] / 0, u

    density.value_and_grad = lacking
    u = np.zeros((draws, posteriors, 1))
    assert room.transport(density, u, np.ones((posteriors, 1, 1))) is None
    assert density.asked == [chains]


class One(Gaussian):
    """The first of the two posteriors alone."""

    cost = 1

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = super().value_and_grad(u.expand(-1, 2, -1))
        return value[:, :1], grad[:, :1]


def test_more_chains_run_only_where_the_first_leave_it_open() -> None:
    """Tuned once, on the first; of all of them the moments are those of one run."""
    u = start(3000).numpy()[:, :1]
    for clear, chains in ((True, [2048]), (False, [2048, 952])):
        density: Any = One()
        seen: list[Transport] = []

        def asked(moved: Transport, clear: bool = clear, seen: list[Transport] = seen) -> bool:
            seen.append(moved)
            return clear

        found = room.transport(density, u, COVARIANCES[:1], 0, None, asked)
        assert found is not None and len(seen) == len(chains)
        assert [n for n in dict.fromkeys(density.asked) if n != 256] == chains
        sd = np.sqrt(np.diagonal(COVARIANCES[0]))
        error = 5 / math.sqrt(sum(chains))  # at five standard errors: 1e-6 each
        assert np.abs(found.sd[0] / sd - 1).max() < error
        assert found.shift_se.max() < 2 / math.sqrt(sum(chains))
    density = One()
    assert room.transport(density, u, COVARIANCES[:1]) is not None
    assert 3000 in density.asked and 2048 not in density.asked  # nobody is asked: all at once


@pytest.mark.parametrize(
    ("shift", "usable", "clear"),
    [
        (0.0, True, True), (0.0, False, True),  # right
        (0.07, True, False), (0.07, False, False),  # 0.07 + 2 * 0.02: open
        (0.3, True, False), (0.3, False, True),  # off: of use where the weights may mend it
    ],
)  # fmt: skip
def test_what_is_clear_after_the_first_chains(shift: float, usable: bool, clear: bool) -> None:
    one = np.ones((1, 2))
    moved = Transport(0 * one, one, shift * one, 0.02 * one, one, 0.01 * one, one > 0, np.ones(1))
    told = Testimony(importance.NAME, against_weighted=["" if usable else "Few are effective."])
    assert room._clear(subject(), {importance.NAME: told}, moved) is clear
    assert room._clear(subject(), {}, moved) is (shift != 0.07)
    unseen = Transport(**(vars(moved) | {"able": one < 0}))
    assert not room._clear(subject(), {}, unseen)


def test_a_whole_run_of_two_posteriors_in_single_precision() -> None:
    """Moments of posteriors apart, in the density's own precision; labels are put in order after it."""

    class Single(Gaussian):
        dtype = torch.float32
        cost = 1

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            assert u.dtype == torch.float32
            value, grad = super().value_and_grad(u.double())
            return value.float(), grad.float()

        def values(self, u: Tensor) -> np.ndarray:
            return u.double().numpy()

        def ordered(self, u: Tensor) -> Tensor:
            return u + 1000.0

    density: Any = Single()
    u = start(400).numpy()
    found = room.transport(density, u, COVARIANCES)
    assert found is not None and found.acceptance.shape == (2,)
    assert found.acceptance.dtype == np.float64
    assert ((found.acceptance > 0.6) & (found.acceptance <= 1)).all()
    sd = np.sqrt(np.diagonal(COVARIANCES, axis1=1, axis2=2))
    np.testing.assert_allclose(found.sd / sd, 1.0, atol=5 / math.sqrt(2 * 400))
    drift = u.mean(0) - 1000.0
    np.testing.assert_allclose(found.shift, drift / found.sd / 1.0, rtol=0.5)
    assert (found.shift < 0).all()
    run = run_of(density)
    assert run.factor.dtype == torch.float32


# before and after ----------------------------------------------------------------------------------


def draws_of_a_run(correlation: float = 0.3, size: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Before and after, (S, 2, 2): of two posteriors, and marginals on different scales."""
    z = np.random.default_rng(1).standard_normal((2, size, 2, 2))
    after = 3.0 * z[0] + [[1.0, -2.0], [0.0, 5.0]]
    before = correlation * 3.0 * z[0] + 2.0 * z[1] + [[2.0, -3.0], [0.5, 4.0]]
    return before, after


@pytest.mark.parametrize("correlation", [0.3, -0.5, 5.0, 100.0])
def test_the_numbers_of_a_run_in_closed_form(correlation: float) -> None:
    """r: Spearman's, of draws and of squares, from 0 on; 1 - r is at least 0.05, of squares 0.3."""
    before, after = draws_of_a_run(correlation)
    found = drift.compared(before, after, np.array([0.41, 0.4]))
    assert found.acceptance.tolist() == [0.41, 0.4]
    for i, j in np.ndindex(2, 2):
        old, new = before[:, i, j], after[:, i, j]
        sd = new.std()
        r = stats.spearmanr(old, new).statistic
        squares = np.square((old - new.mean()) / sd), np.square((new - new.mean()) / sd)
        r2 = stats.spearmanr(*squares).statistic
        forgotten = min(max(1 - r, 0.05), 1.0)
        shift = (old.mean() - new.mean()) / sd / forgotten
        assert found.sd[i, j] == pytest.approx(sd)
        assert found.shift[i, j] == pytest.approx(shift)
        assert found.mean[i, j] == pytest.approx(old.mean() - shift * sd)
        error = (old - new).std() / sd / forgotten / math.sqrt(60)
        assert found.shift_se[i, j] == pytest.approx(error)
        ratio = (old.std() / sd) ** (1 / min(max(1 - r2, 0.3), 1.0))
        assert found.sd_ratio[i, j] == pytest.approx(ratio)
        error = 0.5 * (squares[0] - squares[1]).std() / math.sqrt(60)
        assert found.sd_ratio_se[i, j] == pytest.approx(error)
        assert found.able[i, j] == (abs(r) < 0.6 and i == 0)  # an acceptance of 0.4 is too low


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_of_just_0_6_is_too_much(sign: int) -> None:
    """Of four draws it is 1 - sum d^2 / 10."""
    before = np.array([1.0, 2.0, 3.0, 4.0])[:, None, None]
    after = sign * np.array([1.0, 4.0, 2.0, 3.0])[:, None, None]
    r = sign * 0.4
    assert drift.rank_correlation(before, after)[0, 0] == pytest.approx(r)
    assert drift.compared(before, after, np.array([0.9])).able.all()
    after = sign * np.array([2.0, 1.0, 4.0, 3.0])[:, None, None]
    assert drift.rank_correlation(before, after)[0, 0] == sign * 0.6
    assert not drift.compared(before, after, np.array([0.9])).able.any()


def test_draws_without_a_spread_give_finite_numbers() -> None:
    """A standard deviation of 0 counts as 1e-300."""
    still, moving = np.zeros((20, 1, 1)), np.arange(20.0)[:, None, None]
    found = drift.compared(still, still, np.array([0.9]))
    assert found.sd[0, 0] == 1e-300 and found.sd_ratio[0, 0] == 1.0 and found.shift[0, 0] == 0.0
    ratio = drift.compared(still, moving, np.array([0.9])).sd_ratio[0, 0]
    assert 0 < ratio < 1e-290 or ratio == 0.0
    assert drift.rank_correlation(np.ones((1, 1)), np.ones((1, 1))).tolist() == [0.0]


@pytest.mark.parametrize("sign", [1, -1])
def test_two_draws_correlate_fully(sign: int) -> None:
    pair = np.array([[3.0], [8.0]])
    assert drift.rank_correlation(pair, sign * pair).tolist() == [sign]


# the witness ---------------------------------------------------------------------------------------

MOVED = Transport(
    mean=np.array([[1.0, 2.0]]),
    sd=np.array([[2.0, 4.0]]),
    shift=np.array([[0.3, 0.01]]),
    shift_se=np.array([[0.03, 0.04]]),
    sd_ratio=np.array([[1.1, 0.9]]),
    sd_ratio_se=np.array([[0.02, 0.01]]),
    able=np.array([[True, False]]),
    acceptance=np.array([0.82]),
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


def subject(**changes: Any) -> Subject:
    facts = {
        "kind": "density",
        "names": ["a", "b"],
        "values": np.random.default_rng(0).standard_normal((50, 1, 2)),
        "discrete": np.zeros(2, bool),
        "position": np.random.default_rng(1).standard_normal((50, 1, 2)),
        "density": object(),
        "tails": np.array([[1.0, 3.0]]),
        "seed": 5,
        "lacks": {"density": "no model"},
    }
    return Subject(**(facts | changes))


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
