"""The masses of basins against normal densities in closed form, from both sides of every limit."""

import itertools
import math
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from guidebook.diagnostics.numerics import basins as room
from guidebook.diagnostics.numerics.basins import Basins, basins_of, nearest, search
from guidebook.diagnostics.numerics.modes import Mode
from guidebook.diagnostics.numerics.psis import Importance


class Bumps:
    """A mixture of normals: centres (K, D), standard deviations (K,), masses (K,)."""

    dtype = torch.float64
    device = torch.device("cpu")
    vectorised = True
    model: Any = None

    def __init__(self, centers: Any, sd: Any, masses: Any) -> None:
        self.centers = np.asarray(centers, float)
        self.sd, self.masses = np.asarray(sd, float), np.asarray(masses, float)
        self.asked = 0

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += len(u)
        size = u.shape[1]
        heights = [
            math.log(m) - size * math.log(s * math.sqrt(2 * math.pi))
            - 0.5 * ((u - torch.as_tensor(c)) / s).square().sum(-1)
            for c, s, m in zip(self.centers, self.sd, self.masses, strict=True)
        ]  # fmt: skip
        value = torch.stack(heights).logsumexp(0)
        return value - 1.0, torch.ones_like(value)  # log joint and log determinant

    @property
    def modes(self) -> list[Mode]:
        size = self.centers.shape[1]
        return [
            Mode(c, s * np.eye(size), math.log(m))
            for c, s, m in zip(self.centers, self.sd, self.masses, strict=True)
        ]


def two(size: int, distance: float, share: float, sd: float = 1.0) -> Bumps:
    """Around the origin and, with this share, around (distance, 0, ...)."""
    away = np.zeros((2, size))
    away[1, 0] = distance
    return Bumps(away, [1.0, sd], [1 - share, share])


def found(density: Any, u: np.ndarray | None = None, seed: int = 0) -> Basins:
    u = (
        np.random.default_rng(0).standard_normal((200, density.centers.shape[1]))
        if u is None
        else u
    )
    return basins_of(density, density.modes, u, seed)


@pytest.mark.parametrize(("size", "distance"), [(1, 8.0), (2, 8.0), (30, 20.0)])
@pytest.mark.parametrize("share", [0.5, 0.006])
@pytest.mark.parametrize("sd", [1.0, 0.3])
def test_masses_are_those_of_the_mixture(
    size: int, distance: float, share: float, sd: float
) -> None:
    """Within five standard errors, which are small: a false alarm in a million."""
    density = two(size, distance, share, sd)
    basins = found(density)
    assert len(basins) == 2 and basins.sampled.all()
    truth = np.log([1 - share, share])
    order = [0, 1] if basins.modes[0][0].center[0] == 0 else [1, 0]
    off = basins.log_mass[order] - truth
    error = basins.log_mass_se[order]
    assert (np.abs(off) < 5 * error + 1e-3).all() and (error < 0.15).all()
    for k, center in zip(order, density.centers, strict=True):
        inside = basins.place == k
        assert basins.weight[inside].sum() == pytest.approx(1.0)
        mean = basins.weight[inside] @ basins.u[inside]
        np.testing.assert_allclose(mean, center, atol=0.4)


def test_the_errors_are_those_of_a_hundred_seeds() -> None:
    density = two(2, 8.0, 0.2, 0.5)
    trials = [found(density, seed=seed) for seed in range(100)]
    masses = np.array([b.log_mass for b in trials])
    stated = np.mean([b.log_mass_se for b in trials], axis=0)
    # the spread of 100 has an error of 7 %: four of them, and the smoothing of the weights
    np.testing.assert_allclose(masses.std(0, ddof=1) / stated, 1.0, atol=0.35)


def test_bumps_without_a_valley_are_one_basin() -> None:
    assert len(found(two(2, 1.5, 0.5))) == 1  # equal normals within two standard deviations: no dip
    assert len(found(two(2, 8.0, 0.5))) == 2
    near = Bumps([[0.0], [2.9], [30.0]], [1, 1, 1], [0.4, 0.3, 0.3])  # a dip of less than a nat
    basins = found(near)
    assert sorted(len(group) for group in basins.modes) == [1, 2]
    assert basins.log_mass.max() == pytest.approx(math.log(0.7), abs=0.1)
    pair = next(group for group in basins.modes if len(group) == 2)
    assert pair[0].log_mass > pair[1].log_mass


@pytest.mark.parametrize(("distance", "count"), [(3.66, 1), (3.70, 2)])
def test_a_valley_is_one_nat_deep(distance: float, count: int) -> None:
    """Half way between two equal bumps log p lies d^2 / 8 - log 2 below their tops: 1 at d = 3.68."""
    one, other = two(1, distance, 0.5).modes
    assert room._valley_between(two(1, distance, 0.5), one, other) is (count == 2)  # type: ignore[arg-type]


def test_positions_belong_to_the_basin_of_highest_density() -> None:
    """Between a narrow and a wide normal the border is where their densities are equal."""
    narrow, wide = Mode(np.zeros(1), np.eye(1), 5.0), Mode(np.full(1, 10.0), 3 * np.eye(1), -5.0)
    u = np.linspace(-20, 30, 501)[:, None]
    heights = [stats.norm(0, 1).logpdf(u[:, 0]), stats.norm(10, 3).logpdf(u[:, 0])]
    np.testing.assert_array_equal(nearest([narrow, wide], u), np.argmax(heights, axis=0))
    other = Mode(np.full(1, 1.0), np.eye(1), 0.0)
    nothing = np.zeros(0)
    basins = Basins([[narrow, other], [wide]], *([nothing] * 2), u, *([nothing] * 3))
    assert basins.of(np.array([[0.0], [1.1], [11.0]])).tolist() == [0, 0, 1]


class Cauchy(Bumps):
    """A tail that no Student t of five degrees of freedom covers."""

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value = -u[:, 0].square().log1p() * 0.55
        return value, torch.zeros_like(value)


def test_where_weights_cannot_be_relied_on_the_mass_is_laplaces() -> None:
    density = Cauchy([[0.0]], [1.0], [0.25])
    basins = found(density)
    assert basins.sampled.tolist() == [False]
    assert basins.log_mass.tolist() == [math.log(0.25)] and basins.log_mass_se.tolist() == [1.0]
    mean = basins.weight @ basins.u[:, 0]
    sd = math.sqrt(basins.weight @ np.square(basins.u[:, 0] - mean))
    assert abs(mean) < 0.2 and sd == pytest.approx(1.0, abs=0.15)  # those of the mode's normal


@pytest.mark.parametrize(
    ("khat", "ess", "size", "reliable"),
    [
        (0.66, 50.0, 1000, True),
        (0.66, 49.9, 1000, False),
        (0.67, 499.0, 1000, False),  # the limit of 1,000 draws is 2 / 3
        (0.67, 500.0, 1000, True),
        (3.0, 500.0, 1000, True),
        (0.1, 40.0, 60, False),
    ],
)
def test_which_weights_can_be_relied_on(khat: float, ess: float, size: int, reliable: bool) -> None:
    weights = Importance(np.full(size, 1 / size), khat, 0.1, ess)
    assert room._reliable(weights, size) is reliable


def test_draws_follow_the_student_t_whose_density_is_divided_by() -> None:
    factor = np.array([[2.0, 0.0], [1.0, 3.0]])
    full, diagonal = Mode(np.ones(2), factor, 0.0), Mode(np.ones(2), np.array([2.0, 3.0]), 0.0)
    u = np.array([[0.0, 4.0], [1.0, 1.0], [30.0, -2.0]])
    for mode, shape in ((full, factor @ factor.T), (diagonal, np.diag([4.0, 9.0]))):
        density = stats.multivariate_t(np.ones(2), shape, df=5)
        np.testing.assert_allclose(room._log_t(mode, u), density.logpdf(u))
        drawn = room._draws(mode, 4000, np.random.default_rng(1))
        # the squared distance over D follows F(D, 5); tested at 1e-4
        law = stats.f(2, 5)
        assert stats.kstest(np.square(mode.distance(drawn)) / 2, law.cdf).pvalue > 1e-4
        marginal = stats.t(5, loc=1, scale=math.sqrt(shape[1, 1]))
        assert stats.kstest(drawn[:, 1], marginal.cdf).pvalue > 1e-4


def test_twelve_modes_at_most_those_that_can_do_most_harm() -> None:
    """Log mass plus log(1 + squared distance from the draws in their standard deviations)."""
    centers = np.concatenate([[0.0], 10.0 * 2.0 ** np.arange(13)])[:, None]
    masses = np.full(14, 1 / 14)
    masses[1] = 1e-9  # the nearest and the lightest
    density = Bumps(centers, np.ones(14), masses)
    basins = found(density)
    places = sorted(mode.center[0] for group in basins.modes for mode in group)
    assert len(places) == 12 and 10.0 not in places and 0.0 not in places
    assert density.asked >= 12 * 1000


def test_a_model_that_cannot_be_vectorised_is_asked_for_fewer() -> None:
    density = two(1, 8.0, 0.5)
    density.vectorised = False
    assert len(found(density).u) == 400
    assert len(found(two(1, 8.0, 0.5)).u) == 2000


def test_all_labellings_are_counted() -> None:
    class Story:
        K = 3

        def canonical_order(self) -> None: ...

    density = two(1, 8.0, 0.5)
    plain = found(density)
    density.model = Story()
    np.testing.assert_allclose(found(density).log_mass - plain.log_mass, math.log(6))


def test_a_density_that_is_not_a_number_is_zero() -> None:
    class Odd(Bumps):
        def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
            value = torch.tensor([math.nan, math.inf, -math.inf, 2.0], dtype=torch.float32)
            return value, torch.ones_like(value)

    value = room.log_density(Odd([[0.0]], [1.0], [1.0]), np.zeros((4, 1)))  # type: ignore[arg-type]
    assert value.dtype == np.float64 and value.tolist() == [-math.inf] * 3 + [3.0]


def test_the_basins_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Around 200 draws of its posterior, all chains together; None without a density to climb."""
    asked: list[Any] = []
    position = np.arange(24.0).reshape(2, 4, 3)

    class Fitted:
        model, data, potential = print, MappingProxyType({"x": 1}), "potential"
        groups: ClassVar[set[str]] = {"unconstrained"}

        def posterior(self, draws: int, seed: int) -> Any:
            asked.append((draws, seed))
            groups = {n: {"position": SimpleNamespace(values=position)} for n in self.groups}
            return type("Tree", (dict,), {"children": groups})(groups)

    modes: list[Any] = []

    def find(potential: Any, u: np.ndarray, seed: int, known: Any, starts: int) -> Any:
        asked.append((potential, u.tolist(), seed, list(known), starts))
        return modes

    monkeypatch.setattr(room, "find_modes", find)
    monkeypatch.setattr(room, "basins_of", lambda *given: given)
    fit: Any = Fitted()
    nothing = search(fit, 3)
    assert nothing is not None and len(nothing) == 0 and nothing.u.shape == (0, 3)
    assert nothing.log_mass.shape == nothing.weight.shape == nothing.sampled.shape == (0,)
    assert asked == [(200, 3), ("potential", position.reshape(8, 3).tolist(), 3, [], 36)]
    modes.append("mode")
    given: Any = search(fit, 3)
    assert given[:2] == ("potential", modes) and given[3] == 3
    np.testing.assert_array_equal(given[2], position.reshape(8, 3))
    for lacking in ("model", "data"):
        bare: Any = Fitted()
        setattr(bare, lacking, None)
        assert search(bare) is None
    fit.groups = set()
    assert search(fit) is None


@pytest.mark.parametrize(("inside", "several"), [(50, True), (49, False)])
def test_a_basin_with_a_twentieth_of_the_draws_is_visited(inside: int, several: bool) -> None:
    one, other = two(1, 20.0, 0.5).modes
    nothing = np.zeros(0)
    basins = Basins([[one], [other]], *([nothing] * 2), np.zeros((0, 1)), *([nothing] * 3))
    u = np.concatenate([np.zeros(1000 - inside), np.full(inside, 20.0)])[:, None]
    place = room.visited(basins, u)
    assert (place is not None) is several
    if place is not None:
        assert place.tolist() == [0] * 950 + [1] * 50
    three = Basins([[one], [Mode(np.full(1, -20.0), np.eye(1), 0.0)], [other]],
                   *([nothing] * 2), np.zeros((0, 1)), *([nothing] * 3))  # fmt: skip
    place = room.visited(three, u)  # none in the second
    assert (place is not None) is several and (place is None or set(place) == {0, 2})
    assert room.visited(None, u) is None
    assert room.visited(Basins([[one]], *([nothing] * 6)), u) is None


# every number by itself ----------------------------------------------------------------------------


def test_the_border_is_where_two_normals_are_equal() -> None:
    narrow, wide = Mode(np.zeros(1), np.eye(1), 0.0), Mode(np.full(1, 10.0), 3 * np.eye(1), 0.0)
    u = np.linspace(2, 3, 10_001)[:, None]
    heights = [stats.norm(0, 1).logpdf(u[:, 0]), stats.norm(10, 3).logpdf(u[:, 0])]
    np.testing.assert_array_equal(nearest([narrow, wide], u), np.argmax(heights, axis=0))


@pytest.mark.parametrize(
    ("far", "log_mass", "first"),
    [
        # draws around (100, 0) with standard deviations 3 and 0.5: log(1 + 3^2 + 2^2) = 2.639
        ([109.0, 1.0], -2.62, True),
        ([109.0, 1.0], -2.66, False),
        ([91.0, -1.0], -2.62, True),
        ([91.0, -1.0], -2.66, False),
    ],
)
def test_which_mode_can_do_most_harm(
    far: list[float], log_mass: float, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_MODES", 1)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((50, 2))
    u = np.array([100.0, 0.0]) + np.array([3.0, 0.5]) * (u - u.mean(0)) / u.std(0)
    home, other = (
        Mode(np.array([100.0, 0.0]), np.eye(2), 0.0),
        Mode(np.array(far), np.eye(2), log_mass),
    )
    density = two(2, 8.0, 0.5)
    basins = basins_of(density, [home, other], u)  # type: ignore[arg-type]
    assert (basins.modes[0][0] is other) is first and len(basins.modes) == 1


def test_a_chain_of_bumps_is_one_basin_in_any_order() -> None:
    """The ends of three in a row have a valley between them, and the middle one has to neither."""
    for masses in ([0.4, 0.35, 0.25], [0.4, 0.25, 0.35], [0.25, 0.4, 0.35]):
        basins = found(Bumps([[0.0], [3.0], [6.0]], [1, 1, 1], masses))
        assert [len(group) for group in basins.modes] == [3]
        assert basins.log_mass[0] == pytest.approx(0.0, abs=0.1)


def test_bumps_around_a_corner_are_one_basin_in_any_order() -> None:
    """The straight path between the ends of an L dips by 1.1 nats, those to the corner by 0.4."""
    density: Any = Bumps([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]], [1, 1, 1], [0.35, 0.33, 0.32])
    one, corner, other = density.modes
    assert room._valley_between(density, other, one)
    for order in itertools.permutations((one, corner, other)):
        (group,) = room._joined(density, order)
        assert group == [one, corner, other]  # the heaviest first


def test_a_mode_that_joins_one_of_several_basins_leaves_the_others() -> None:
    """In the plane, in every order of the masses."""
    places = [[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [0.0, 1.5]]
    for masses in ([0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]):
        basins = found(Bumps(places, [1] * 4, masses))
        assert sorted(len(group) for group in basins.modes) == [1, 1, 2]
        pair = next(group for group in basins.modes if len(group) == 2)
        assert pair[0].log_mass > pair[1].log_mass
        assert {tuple(mode.center) for mode in pair} == {(0.0, 0.0), (0.0, 1.5)}


class Table:
    """A density on the line from 0 to 40, of whole numbers."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, **heights: float) -> None:
        self.table = torch.zeros(41, dtype=torch.float64)
        for place, height in heights.items():
            self.table[int(place[1:])] = height
        self.asked = torch.zeros(0)

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked = u[:, 0]
        return self.table[u[:, 0].round().long()], torch.zeros(len(u), dtype=torch.float64)


@pytest.mark.parametrize(
    ("heights", "valley"),
    [
        ({"_20": -1.0}, False),
        ({"_20": -1.0001}, True),
        ({"_20": -0.5, "_0": 3.0}, False),  # below the lower of the two ends
        ({"_20": -0.5, "_40": 3.0}, False),
        ({"_20": -1.5, "_0": -0.6}, False),
        ({"_20": -1.5, "_40": -0.6}, False),
        ({"_20": -1.5, "_0": -0.4}, True),
        ({"_20": -1.5, "_40": -0.4}, True),
        ({"_0": 3.0, "_40": 2.0}, True),
        ({"_20": -math.inf}, True),
        ({"_20": 5.0}, False),
    ],
)
def test_a_valley_lies_a_nat_below_both_modes(heights: dict[str, float], valley: bool) -> None:
    table: Any = Table(**heights)
    ends = Mode(np.zeros(1), np.eye(1), 0.0), Mode(np.full(1, 40.0), np.eye(1), 0.0)
    assert room._valley_between(table, *ends) is valley
    np.testing.assert_allclose(table.asked.numpy(), np.arange(41.0), atol=1e-9)


def test_draws_are_a_normal_over_the_root_of_a_chi_square() -> None:
    mode = Mode(np.array([1.0, 2.0]), np.array([[2.0, 0.0], [1.0, 3.0]]), 0.0)
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((7, 2)) * np.sqrt(5 / rng.chisquare(5.0, (7, 1)))
    drawn = room._draws(mode, 7, np.random.default_rng(3))
    np.testing.assert_allclose(drawn, mode.center + noise @ mode.factor.T)
    diagonal = Mode(mode.center, np.array([2.0, 3.0]), 0.0)
    drawn = room._draws(diagonal, 7, np.random.default_rng(3))
    np.testing.assert_allclose(drawn, mode.center + noise * np.array([2.0, 3.0]))


def test_the_mass_of_a_basin_and_its_error_by_the_formulas() -> None:
    """Strata of 100 draws: the mean over all, and the variances within each, of those inside."""
    rng = np.random.default_rng(0)
    mode, u = Mode(np.zeros(1), np.eye(1), -3.0), rng.standard_normal((300, 1))
    log_w, inside = 700.0 + 0.3 * rng.standard_normal(300), rng.random(300) < 0.6
    mass, error, sampled, weights = room._basin([mode], u, log_w, inside, 3)
    w = np.where(inside, np.exp(log_w - 700.0), 0.0).reshape(3, 100)
    assert sampled and mass == pytest.approx(700.0 + math.log(w.mean()))
    variance = sum(row.var(ddof=1) / 100 for row in w) / 9
    assert error == pytest.approx(math.sqrt(variance) / w.mean())
    assert len(weights) == inside.sum() and weights.sum() == pytest.approx(1.0)


def test_laplaces_basin_has_the_weights_of_its_normal() -> None:
    mode = Mode(np.full(1, 2.0), 3 * np.eye(1), -3.0)
    other = Mode(np.full(1, 9.0), np.eye(1), -4.0)
    u = np.linspace(-9, 12, 40)[:, None]
    log_w = np.where(np.arange(40) == 7, 0.0, -60.0)  # one draw has all the weight
    inside = np.arange(40) > 3
    mass, error, sampled, weights = room._basin([mode, other], u, log_w, inside, 1)
    assert not sampled and error == 1.0 and mass == pytest.approx(np.logaddexp(-3.0, -4.0))
    expected = stats.norm(2, 3).pdf(u[:, 0]) / stats.t(5, loc=2, scale=3).pdf(u[:, 0])
    np.testing.assert_allclose(weights, expected[inside] / expected[inside].sum())
    *_, none = room._basin([mode], u, log_w, np.zeros(40, bool), 1)
    assert none.shape == (0,)
    far = Mode(np.full(1, 1e6), np.eye(1), -3.0)  # weights that underflow but for their ratios
    *_, weights = room._basin([far], u, log_w, inside, 1)
    assert weights.sum() == pytest.approx(1.0) and weights.max() > 0.5
