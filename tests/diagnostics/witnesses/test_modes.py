"""Missing modes on two bumps in closed form, with every limit at its value; the search for modes."""

import math
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses import modes as room
from guidebook.diagnostics.witnesses.modes import Mode, find_modes, gaussian_elbo, missing_modes
from guidebook.diagnostics.witnesses.subject import Subject
from guidebook.diagnostics.witnesses.testimony import Testimony
from guidebook.programs.gaussian import Start
from guidebook.programs.potential import Potential
from guidebook.scope import precision

AWAY = np.array([8.0, 0.0])


class Bumps:
    """A mixture of equal normal bumps, log p raised to `floor` where it is lower."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(
        self,
        floor: float = -math.inf,
        centers: tuple[np.ndarray, ...] = (0 * AWAY, AWAY),
        sd: float = 1.0,
    ) -> None:
        self.floor, self.centers, self.sd = floor, centers, sd

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        squares = [((u - torch.as_tensor(c)) / self.sd).square().sum(-1) for c in self.centers]
        value = (-0.5 * torch.stack(squares)).logsumexp(0)
        return value.clamp(min=self.floor), torch.zeros_like(u)


def modes(share: float, factor: np.ndarray | None = None) -> list[Mode]:
    """Two modes whose masses add up to 1, the second at AWAY holding this share."""
    factor = np.eye(2) if factor is None else factor
    return [
        Mode(0 * AWAY, factor, math.log(1 - share)),
        Mode(AWAY, factor, math.log(share)),
    ]


def draws(inside: int, size: int = 1000) -> np.ndarray:
    """Draws at the origin, `inside` of them at the second mode."""
    u = 0.1 * np.random.default_rng(0).standard_normal((size, 2))
    u[size - inside :] += AWAY
    return u


@pytest.mark.parametrize(("share", "missing"), [(0.0101, True), (0.0099, False)])
def test_a_mode_counts_from_one_in_a_hundred(share: float, missing: bool) -> None:
    found = missing_modes(Bumps(), modes(share), draws(0), -math.inf)  # type: ignore[arg-type]
    assert bool(found) is missing
    if missing:
        ((mode, expected, seen),) = found
        assert mode.center[0] == 8.0 and seen == 0.0 and expected == pytest.approx(share)


@pytest.mark.parametrize(("inside", "missing"), [(119, True), (121, False)])
def test_a_mode_with_three_tenths_of_its_draws_is_there(inside: int, missing: bool) -> None:
    """A share of 0.4 with less than 0.12 of the draws."""
    found = missing_modes(Bumps(), modes(0.4), draws(inside), -math.inf)  # type: ignore[arg-type]
    assert bool(found) is missing
    if found:
        assert found[0][1:] == (pytest.approx(0.4), inside / 1000)


def test_the_total_is_a_lower_bound_of_the_evidence_where_that_is_larger() -> None:
    """Masses 0.98 and 0.02 of an evidence of e: shares are divided by e."""
    found = modes(0.02)
    assert len(missing_modes(Bumps(), found, draws(0), 0.0)) == 1  # type: ignore[arg-type]
    assert missing_modes(Bumps(), found, draws(0), 1.0) == []  # type: ignore[arg-type]
    assert len(missing_modes(Bumps(), found, draws(0), -1.0)) == 1  # type: ignore[arg-type]
    assert missing_modes(Bumps(), [], draws(0), 0.0) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "missing"), [(1.1, True), (0.9, False)])
def test_a_valley_is_one_nat_deep(depth: float, missing: bool) -> None:
    u = np.zeros((1000, 2))
    density = Bumps(floor=-depth)
    assert bool(missing_modes(density, modes(0.4), u, -math.inf)) is missing  # type: ignore[arg-type]


@pytest.mark.parametrize(("distance", "inside"), [(3.40, True), (3.43, False)])
def test_a_draw_belongs_within_sqrt_d_plus_two(distance: float, inside: bool) -> None:
    """sqrt 2 + 2 = 3.414 standard deviations in the plane, with a valley on the way."""
    there = AWAY + np.array([distance, 0.0])
    density = Bumps(centers=(AWAY, there), sd=0.2)
    found = missing_modes(density, modes(0.3)[1:], np.tile(there, (500, 1)), 0.0)  # type: ignore[arg-type]
    assert bool(found) is not inside


def test_distances_are_in_the_modes_own_standard_deviations() -> None:
    full = Mode(AWAY, np.array([[2.0, 0.0], [1.0, 3.0]]), 0.0)
    u = AWAY + np.array([[2.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(full.distance(u), [1.0, 1.0, 0.0])
    diagonal = Mode(AWAY, np.array([2.0, 3.0]), 0.0)
    np.testing.assert_allclose(diagonal.distance(AWAY + np.array([[2.0, 3.0]])), [math.sqrt(2)])


# limits at their values ----------------------------------------------------------------------------


@pytest.mark.parametrize(("inside", "missing"), [(299, True), (300, False)])
def test_just_three_tenths_of_the_draws_are_enough(inside: int, missing: bool) -> None:
    """Of one mode that holds all of the mass."""
    found = missing_modes(Bumps(), modes(0.5)[1:], draws(inside), -math.inf)  # type: ignore[arg-type]
    assert bool(found) is missing
    assert all(expected == 1.0 for _, expected, _ in found)


@pytest.mark.parametrize(("distance", "missing"), [(3.0, True), (2.999, False)])
def test_a_draw_at_the_limit_is_outside(distance: float, missing: bool) -> None:
    """In one dimension it is 1 + 2 standard deviations."""
    only = Mode(np.zeros(1), np.eye(1), 0.0)
    density = Bumps(centers=(np.zeros(1), np.full(1, 3.0)), sd=0.2)
    u = np.full((300, 1), distance)
    found = missing_modes(density, [only], u, -math.inf)  # type: ignore[arg-type]
    assert bool(found) is missing


def test_the_paths_lead_to_twenty_near_ones_of_two_hundred_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Draws 1 to 199 come nearer one by one, draw 0 is the nearest of them, others are nearer."""
    given = []

    def behind(potential: object, center: np.ndarray, nearest: np.ndarray) -> bool:
        given.append((center, nearest))
        return False

    monkeypatch.setattr(room, "_behind_a_valley", behind)
    distance = 1000.0 - np.arange(400.0)
    distance[0] = 750.0
    u = np.column_stack([8.0 + distance, np.zeros(400)])
    second = modes(0.4)[1:]
    assert missing_modes(Bumps(), second, u, 0.0) == []  # type: ignore[arg-type]
    ((center, nearest),) = given
    np.testing.assert_array_equal(center, AWAY)
    np.testing.assert_array_equal(nearest[:, 0] - 8.0, [750.0, *(801.0 + np.arange(19))])


class Ways:
    """A density on the line from 0 to 40, of whole numbers: a table."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, dip: float = 0.0, first: float = 0.0, last: float = 0.0) -> None:
        self.table = torch.zeros(41, dtype=torch.float64)
        self.table[20], self.table[0], self.table[40] = dip, first, last
        self.asked = torch.zeros(0)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.asked = u
        return self.table[u[:, 0].abs().round().long()], torch.zeros_like(u)


@pytest.mark.parametrize(
    ("facts", "valley"),
    [
        ({"dip": -1.0}, False),
        ({"dip": -1.0001}, True),
        ({"dip": -0.9999}, False),
        ({"dip": -0.5, "first": 3.0}, False),  # below the lower of the two ends
        ({"dip": -0.5, "last": 3.0}, False),
        ({"dip": -1.5, "first": -0.6}, False),
        ({"dip": -1.5, "last": -0.6}, False),
        ({"first": 3.0, "last": 2.0}, True),
        ({"dip": 5.0}, False),
        ({"dip": math.nan}, True),
        ({"dip": -math.inf}, True),
        ({"dip": -math.inf, "last": math.nan}, False),  # no density at the end either
        ({"dip": math.nan, "last": -math.inf}, False),
    ],
)
def test_a_valley_lies_a_nat_below_both_ends(facts: dict[str, float], valley: bool) -> None:
    density = Ways(**facts)
    there = np.array([[40.0]])
    assert room._behind_a_valley(density, np.zeros(1), there) is valley  # type: ignore[arg-type]
    np.testing.assert_allclose(density.asked[:, 0].numpy(), np.arange(41.0), atol=1e-9)


def test_depths_are_compared_in_double_precision() -> None:
    """Of densities in single precision: 2^24 + 2 less one nat, 2^24 + 1, would be rounded to 2^24."""
    density: Any = Ways()
    density.dtype = torch.float32
    density.table = torch.full((41,), 2.0**24 + 2, dtype=torch.float32)
    density.table[20] = 2.0**24
    assert room._behind_a_valley(density, np.zeros(1), np.array([[40.0]])) is True
    assert density.asked.dtype == torch.float32


def test_one_way_around_a_valley_is_enough() -> None:
    """Of two paths, the second stays where the density is 0; a path back is the same one."""
    density = Ways(dip=-9.0)
    ends = np.array([[40.0], [19.0]])
    assert room._behind_a_valley(density, np.zeros(1), ends) is False  # type: ignore[arg-type]
    assert room._behind_a_valley(density, np.zeros(1), ends[::-1]) is False  # type: ignore[arg-type]
    back = np.array([[-40.0], [40.0]])
    assert room._behind_a_valley(density, np.zeros(1), back) is True  # type: ignore[arg-type]


# the search ----------------------------------------------------------------------------------------


class Searched:
    """What the search asks of a potential but its density."""

    model = None

    def __init__(self, cost: int, dimension: int = 20_000) -> None:
        self.cost, self.dimension = cost, dimension
        self.asked: list[tuple[int, int]] = []

    def prior_positions(self, count: int, seed: int) -> np.ndarray:
        self.asked.append((count, seed))
        return np.arange(count)[:, None] * np.ones(self.dimension)


@pytest.mark.parametrize(
    ("cost", "starts"), [(1, 36), (10**9, 4), (333_333, 15), (277_777, 18), (499_999, 10)]
)
def test_where_the_search_starts(cost: int, starts: int) -> None:
    """4e8 numbers, 80 gradients a start: from 4 to 36 starts. A third of them at 3, 6, 12 and 25
    standard deviations from the mean of the draws (root mean square over coordinates), a third around
    the origin at 2 and 5 (20,000 coordinates: within 3 % is four standard errors and more), a third
    from the prior.
    """
    potential, third = Searched(cost), starts // 3
    middle, spread = np.linspace(-3, 3, 20_000), np.linspace(0.1, 2, 20_000)
    u = np.stack([middle + spread, middle - spread])
    found = room._starts(potential, u, np.random.default_rng(0))  # type: ignore[arg-type]
    assert found.shape == (3 * third, 20_000)
    distance = np.sqrt(np.square((found[:third] - middle) / spread).mean(1))
    np.testing.assert_allclose(distance, np.tile([3.0, 6.0, 12.0, 25.0], 3)[:third])
    scale = np.sqrt(np.square(found[third : 2 * third]).mean(1))
    np.testing.assert_allclose(scale, np.tile([2.0, 5.0], 6)[:third], rtol=0.03)
    np.testing.assert_array_equal(found[2 * third :, 0], np.arange(third))
    ((count, seed),) = potential.asked
    assert count == starts and 0 <= seed < 2**31


class Climbing:
    """A climb ends one to the right of its start; `tops` are the modes' log masses, by their place."""

    tops: ClassVar[dict[float, float]] = {}
    iterations: ClassVar[set[int]] = set()

    def __init__(self, potential: object) -> None:
        self.potential = potential

    def from_point(self, point: np.ndarray, iterations: int) -> list[np.ndarray]:
        self.iterations.add(iterations)
        return [point, point + 5.0, point + 1.0]

    def mode_at(self, point: np.ndarray) -> Start | None:
        place = float(point[0])
        if place not in self.tops:
            return None
        center = torch.tensor([place], dtype=torch.float64)
        return Start(center, torch.full((1,), 2.0), self.tops[place], mode=True)


class Story:
    """Three components that can change places."""

    K = 3

    def canonical_order(self) -> None: ...


def test_modes_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one counts from a distance of 1 standard deviation, here 2, of every other on; no
    mode, and one without a finite mass, are passed by. Masses are those of all K! labellings.
    """
    tops = {0.0: -4.0, 50.0: math.inf, 1.9: -4.0, 2.0: -5.0, 9.0: -6.0, 3.5: -4.0}
    starts = np.array([70.0, *tops])[:, None] - 1.0
    monkeypatch.setattr(room, "Climb", Climbing)
    monkeypatch.setattr(Climbing, "tops", tops)
    monkeypatch.setattr(room, "_starts", lambda *_: starts)
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: u)
    potential = Searched(1)
    potential.model = Story()  # type: ignore[assignment]
    found = room.find_modes(potential, np.zeros((2, 1)))  # type: ignore[arg-type]
    assert [float(mode.center[0]) for mode in found] == [0.0, 2.0, 9.0]
    constant = 0.5 * math.log(2 * math.pi) + math.log(2.0) + math.log(6)
    np.testing.assert_allclose([m.log_mass - constant for m in found], [-4.0, -5.0, -6.0])
    assert all(mode.factor.tolist() == [2.0] for mode in found)
    assert Climbing.iterations == {200}


def test_a_mode_is_that_of_the_ordered_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The climb is asked for its copy; where it has none the mode stays as it is."""
    monkeypatch.setattr(Climbing, "tops", {3.0: -1.0, -3.0: -2.0, 4.0: -3.0})
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: -u)
    climb = Climbing(None)
    for place, kept in ((3.0, -3.0), (4.0, 4.0)):
        top = climb.mode_at(np.array([place]))
        assert top is not None
        assert float(room._labelled(climb, top).center) == kept  # type: ignore[arg-type]


class StandardNormal:
    """N(0, I), normalised."""

    dtype = torch.float64
    device = torch.device("cpu")
    vectorised = True
    model: object = None

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1), -u


def test_the_bound_of_the_gaussian_with_the_moments_of_the_draws() -> None:
    """0 where they are those of the density (variances with S - 1), plus log K!; none without a spread."""
    density: Any = StandardNormal()
    half = math.sqrt(0.5)
    assert gaussian_elbo(density, np.array([[half], [-half]])) == pytest.approx(0.0, abs=1e-12)
    square = math.sqrt(0.75) * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert gaussian_elbo(density, square) == pytest.approx(0.0, abs=1e-12)
    assert gaussian_elbo(density, square + np.array([0.5, 0.0])) == pytest.approx(-0.125, abs=0.02)
    density.model = Story()
    assert gaussian_elbo(density, square) == pytest.approx(math.log(6), abs=1e-12)
    assert gaussian_elbo(density, np.ones((5, 2))) == -math.inf


def test_modes_are_held_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model may compute in single precision; its own tensors then stay so."""
    one = torch.ones(1, dtype=torch.float32)
    mode = room._as_mode(Start(3 * one, 2 * one, -1.0, mode=True), 0.0)
    assert mode.center.dtype == mode.factor.dtype == np.float64
    monkeypatch.setattr(room, "canonical_positions", lambda potential, u: -u)
    asked: list[Any] = []
    climb: Any = SimpleNamespace(potential=None, mode_at=asked.append)
    room._labelled(climb, Start(3 * one, 2 * one, -1.0, mode=True))
    assert asked[0].dtype == np.float64

    class Single(StandardNormal):
        dtype = torch.float32

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(u)
            return super().value_and_grad(u)

    single: Any = Single()
    assert abs(gaussian_elbo(single, math.sqrt(0.5) * np.array([[1.0], [-1.0]]))) < 1e-5
    assert asked[1].dtype == torch.float32


# the witness ---------------------------------------------------------------------------------------


def subject(**changes: Any) -> Subject:
    facts: dict[str, Any] = {
        "kind": "density",
        "names": ["x"],
        "values": np.zeros((100, 1, 1)),
        "discrete": np.zeros(1, bool),
        "position": np.arange(100.0)[:, None, None],
        "potential": object(),
        "modes": (),
        "lacks": {"modes": "no search"},
    }
    return Subject(**(facts | changes))


def test_when_the_search_says_nothing_and_why() -> None:
    assert room.hear(subject(kind="point"), {}) == Testimony(room.NAME)
    for lacking in ("modes", "position", "potential"):
        found = room.hear(subject(**{lacking: None}), {})
        assert found == Testimony(room.NAME, absent="no search")


@pytest.mark.parametrize(("dimension", "more"), [(4, False), (5, True)])
def test_the_largest_missing_mode_is_named(
    dimension: int, more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    center = np.array([1.5, 2.5, 3.5, 4.5, 5.5])[:dimension]
    small, large = (Mode(i * center, np.ones(dimension), 0.0) for i in (7, 1))
    lacking = [(small, 0.2, 0.05), (large, 0.4, 0.035), (small, 0.3, 0.02)]

    def missing(*arguments: Any) -> list[tuple[Mode, float, float]]:
        given.append(arguments)
        return lacking

    monkeypatch.setattr(room, "missing_modes", missing)
    monkeypatch.setattr(room, "_lower_bound", lambda *_: -3.0)
    one = subject(modes=(small, large))
    found = room.hear(one, {})
    ((potential, modes_, u, least),) = given
    assert potential is one.potential and modes_ == [small, large] and least == -3.0
    np.testing.assert_array_equal(u, np.arange(100.0)[:, None])
    assert found.detail is lacking
    for words in (*found.words, found.rules_out):
        assert "40%" in words and "3.5%" in words and "1.5, 2.5, 3.5, 4.5" in words
        assert ("4.5, ..." in words) is more and "5.5" not in words
    assert found.words[0].startswith("A mode at")
    lacking.clear()
    assert room.hear(one, {}).rules_out == "" and len(room.hear(one, {}).words) == 1


@pytest.mark.parametrize(
    ("numbers", "bound"),
    [
        (None, -8.0),
        ({}, -8.0),
        ({"elbo": -5.0, "log_evidence": -3.0, "khat": 0.49}, -3.0),
        ({"elbo": -5.0, "log_evidence": -3.0, "khat": 0.5}, -5.0),  # 1 - 1 / log10 100
        ({"elbo": -5.0, "log_evidence": -3.0, "khat": 0.51}, -5.0),
        ({"elbo": -5.0, "log_evidence": -3.0}, -5.0),
        ({"elbo": -9.0, "log_evidence": -9.0, "khat": 0.1}, -8.0),
        ({"elbo": math.nan, "log_evidence": -3.0, "khat": 0.1}, -8.0),
        ({"elbo": -math.inf, "log_evidence": -3.0, "khat": 0.1}, -8.0),
        ({"log_evidence": -3.0, "khat": 0.1}, -8.0),
    ],
)
def test_the_lower_bound_of_the_evidence(
    numbers: dict[str, float] | None, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger of the Gaussian's, -8 here, and of the evidence where the weights are usable, else of
    the ELBO.
    """
    monkeypatch.setattr(room, "gaussian_elbo", lambda potential, u: -8.0 if u.ndim == 2 else 0.0)
    heard = {}
    if numbers is not None:
        given = {name: np.array([value]) for name, value in numbers.items()}
        heard = {importance.NAME: Testimony(importance.NAME, numbers=given)}
    assert room._lower_bound(subject(), heard) == bound


def test_the_modes_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
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

    def find(potential: Any, u: np.ndarray, seed: int) -> Any:
        asked.append((potential, u.tolist(), seed))
        return []

    monkeypatch.setattr(room, "find_modes", find)
    fit: Any = Fitted()
    assert room.search_modes(fit, 3) == []
    assert asked == [(200, 3), ("potential", position.reshape(8, 3).tolist(), 3)]
    for lacking in ("model", "data"):
        bare: Any = Fitted()
        setattr(bare, lacking, None)
        assert room.search_modes(bare) is None
    assert len(asked) == 2
    fit.groups = set()
    assert room.search_modes(fit) is None


# on a model ------------------------------------------------------------------------------------------


def two_modes(where: torch.Tensor, log_odds: torch.Tensor) -> None:
    """x in the plane: N(0, I) with odds exp(log_odds) to one against N(where, I)."""
    x = pyro.sample("x", dist.Normal(torch.zeros_like(where), 100.0).to_event(1))
    first = -0.5 * x.square().sum(-1) + log_odds
    second = -0.5 * (x - where).square().sum(-1)
    pyro.factor("density", torch.logaddexp(first, second))


def potential_of(model: object, **data: np.ndarray | float) -> Potential:
    with precision(torch.float64):
        tensors = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in data.items()}
        return Potential(model, tensors)  # type: ignore[arg-type]


def test_a_mode_without_draws_is_missed() -> None:
    potential = potential_of(two_modes, where=np.array([9.0, 0.0]), log_odds=math.log(4.0))
    u = np.random.default_rng(0).standard_normal((50_000, 2))  # a few reach into the valley
    found = missing_modes(potential, find_modes(potential, u), u, -math.inf)
    assert len(found) == 1
    mode, expected, share = found[0]
    np.testing.assert_allclose(mode.center, [9.0, 0.0], atol=0.01)
    assert expected == pytest.approx(0.2, abs=0.01) and share == 0


def test_a_mode_with_its_draws_is_not() -> None:
    potential = potential_of(two_modes, where=np.array([9.0, 0.0]), log_odds=0.0)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((2000, 2)) + 9.0 * np.outer(rng.random(2000) < 0.5, [1.0, 0.0])
    assert missing_modes(potential, find_modes(potential, u), u, -math.inf) == []


def test_a_mode_of_little_mass_does_not_count() -> None:
    potential = potential_of(two_modes, where=np.array([9.0, 0.0]), log_odds=math.log(1000.0))
    u = np.random.default_rng(0).standard_normal((2000, 2))
    assert missing_modes(potential, find_modes(potential, u), u, -math.inf) == []
