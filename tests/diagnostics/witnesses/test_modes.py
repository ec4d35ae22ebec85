"""What wrong shares of modes do to means and standard deviations, against mixtures in closed form."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.numerics.basins import Basins, basins_of
from guidebook.diagnostics.numerics.modes import Mode, find_modes
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses import modes as room
from guidebook.diagnostics.witnesses.modes import gaussian_elbo, harm
from guidebook.diagnostics.witnesses.subject import Subject
from guidebook.diagnostics.witnesses.testimony import Testimony
from guidebook.programs.potential import Potential
from guidebook.scope import precision


class Line:
    """A potential whose one site is u itself; its lower bound of the evidence is -inf."""

    dtype = torch.float64
    device = torch.device("cpu")
    model: object = None

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        return {"x": u}


def basins(
    centers: list[float], masses: list[float], sd: float = 1.0, error: float = 0.01
) -> Basins:
    """Normal basins on the line, 4,000 draws of each."""
    noise = np.random.default_rng(1).standard_normal(4000)
    modes = [
        Mode(np.full(1, c), np.full((1, 1), sd), math.log(m))
        for c, m in zip(centers, masses, strict=True)
    ]
    count = len(modes)
    return Basins(
        [[mode] for mode in modes],
        np.log(masses),
        np.full(count, error),
        np.concatenate([c + sd * noise for c in centers])[:, None],
        np.repeat(np.arange(count), 4000),
        np.full(4000 * count, 1 / 4000),
        np.ones(count, bool),
    )


NONE = Basins([], *([np.zeros(0)] * 2), np.zeros((0, 1)), *([np.zeros(0)] * 3))


def draws(shares: list[int], centers: list[float], sd: float = 1.0) -> np.ndarray:
    """So many at each centre."""
    rng = np.random.default_rng(0)
    return np.concatenate(
        [c + sd * rng.standard_normal(n) for n, c in zip(shares, centers, strict=True)]
    )


def subject(u: np.ndarray, found: Basins | None, **changes: Any) -> Subject:
    facts: dict[str, Any] = {
        "kind": "density",
        "names": ["x"],
        "coordinates": ["x"],
        "values": u.reshape(-1, 1, 1),
        "discrete": np.zeros(1, bool),
        "position": u.reshape(-1, 1, 1),
        "potential": Line(),
        "modes": found,
        "lacks": {"modes": "no search"},
    }
    return Subject(**(facts | changes))


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the evidence besides."""
    monkeypatch.setattr(room, "_lower_bound", lambda *_: -math.inf)
    monkeypatch.setattr(room, "_listed", lambda *_: 1.0)


# what wrong shares do ------------------------------------------------------------------------------


def test_the_harm_is_that_of_the_two_mixtures() -> None:
    rng = np.random.default_rng(0)
    mass, share = rng.random(3), rng.random(3)
    means, variances = rng.normal(size=(3, 4)) + 1e6, rng.random((3, 4))
    shift, log_ratio = harm(mass, share, means, variances)
    p, q = mass / mass.sum(), share / share.sum()
    mean = p @ means
    sd_p = np.sqrt(p @ variances + p @ np.square(means - mean))
    sd_q = np.sqrt(q @ variances + q @ np.square(means - q @ means))
    np.testing.assert_allclose(shift, (q @ (means - mean)) / sd_p, rtol=1e-6)
    np.testing.assert_allclose(log_ratio, np.log(sd_q / sd_p), rtol=1e-6)


@pytest.mark.parametrize(("share", "off"), [(0.5, 0.0), (0.8, 0.6), (1.0, 1.0)])
def test_of_two_far_and_even_modes(share: float, off: float) -> None:
    """The mean moves by 2 share - 1 of the sd, and the variance falls by its square."""
    means, variances = np.array([[100.0], [-100.0]]), np.full((2, 1), 1e-6)
    shift, log_ratio = harm(np.ones(2), np.array([share, 1 - share]), means, variances)
    assert shift[0] == pytest.approx(off, abs=1e-6)
    if share < 1:
        assert log_ratio[0] == pytest.approx(0.5 * math.log(1 - off**2), abs=1e-6)


# the witness ---------------------------------------------------------------------------------------


def test_when_the_search_says_nothing_and_why() -> None:
    one = basins([0.0], [1.0])
    u = draws([100], [0.0])
    assert room.hear(subject(u, one, kind="point"), {}) == Testimony(room.NAME)
    for lacking in ("modes", "position", "potential"):
        found = room.hear(subject(u, one, **{lacking: None}), {})
        assert found == Testimony(room.NAME, absent="no search")


def test_one_mode_is_seen_far_and_none_is_not() -> None:
    u = draws([100], [0.0])
    one = room.hear(subject(u, basins([0.0], [1.0])), {})
    assert one.far is not None and one.far.all() and one.estimate is None and one.agreement
    none = room.hear(subject(u, NONE), {})
    assert none.far is None and none.agreement == "" and "No maximum" in none.words[0]


@pytest.mark.usefixtures("unbounded")
def test_shares_as_they_should_be_speak_for_the_draws() -> None:
    u = draws([7000, 3000], [0.0, 20.0])
    found = room.hear(subject(u, basins([0.0, 20.0], [0.7, 0.3])), {})
    assert found.estimate is not None and found.estimate.within(2.0)[0]
    assert found.far is not None and found.far.all()
    assert list(found.against) == [""] and found.rules_out == "" and found.remedy == ""
    assert "30 % of the posterior mass" in found.words[0] and "within bounds" in found.words[0]
    unnormalised = room.hear(subject(u, basins([0.0, 20.0], [7e8, 3e8])), {})
    assert "30 % of the posterior mass" in unnormalised.words[0]


@pytest.mark.usefixtures("unbounded")
def test_both_modes_visited_in_wrong_shares() -> None:
    """80 : 20 for 50 : 50: the mean is 0.6 sd off; draws weighted to even shares are not."""
    u = draws([8000, 2000], [3.0, -3.0])
    weights = np.where(u > 0, 0.5 / 8000, 0.5 / 2000)
    heard = {importance.NAME: Testimony(importance.NAME, detail=[_weights(weights)])}
    found = room.hear(subject(u, basins([3.0, -3.0], [0.5, 0.5])), heard)
    assert found.estimate is not None and found.weighted is not None
    sd = math.sqrt(10)
    assert found.estimate.shift[0, 0] == pytest.approx(0.6 * 3 / sd, abs=0.02)
    assert found.estimate.bad()[0] and not found.weighted.bad()[0]
    assert "wrong shares" in found.against[0] and found.against_weighted[0] == ""
    assert found.rules_out == ""  # weights can mend it
    assert found.far is not None and not found.far.any() and found.agreement == ""
    assert "signs of x" in found.remedy


@pytest.mark.usefixtures("unbounded")
def test_a_mode_without_draws_rules_out() -> None:
    u = draws([10_000], [0.0])
    even = np.full(10_000, 1e-4)
    heard = {importance.NAME: Testimony(importance.NAME, detail=[_weights(even)])}
    for known in ({}, heard):
        found = room.hear(subject(u, basins([0.0, 20.0], [0.6, 0.4])), known)
        assert "mass where there are no draws: the mode at x = 20" in found.rules_out
        assert "40 % of the posterior mass" in found.rules_out
        assert "0 % of the draws" in found.rules_out and found.words[0].startswith("The mode at")


@pytest.mark.parametrize(
    ("distance", "share", "harmful"),
    [
        (11.0, 0.0064, True),  # 0.64 % of the mass, eleven sds away: 1 / sd ratio^2 = 1.77
        (11.0, 0.0001, False),  # 0.01 %: 1.01
        (4.5, 0.01, False),  # 1 % near by: 1.20, a ratio of 1.1
        (4.5, 0.06, True),  # the mean by 0.18 sd
    ],
)
@pytest.mark.usefixtures("unbounded")
def test_a_mode_counts_by_what_it_does(distance: float, share: float, harmful: bool) -> None:
    u = draws([50_000], [0.0])
    found = room.hear(subject(u, basins([0.0, distance], [1 - share, share])), {})
    assert bool(found.rules_out) is harmful
    assert found.far is not None and found.far.all() is not np.bool_(harmful)
    assert (list(found.against) != [""]) is harmful


@pytest.mark.usefixtures("unbounded")
def test_shares_that_are_known_too_roughly_are_not_trusted() -> None:
    """Draws in proportion, masses within a factor of e: nothing is shown, either way."""
    u = draws([7000, 3000], [0.0, 20.0])
    found = room.hear(subject(u, basins([0.0, 20.0], [0.7, 0.3], error=1.0)), {})
    assert found.estimate is not None and not found.estimate.bad()[0]
    assert "too roughly" in found.against[0] and found.rules_out == ""
    assert found.far is not None and not found.far.any()


def test_errors_of_masses_and_of_shares_are_in_the_estimate() -> None:
    """By the delta method: the share moves by w (1 - w) times the error of the log odds."""
    place = np.repeat([0, 1], [500, 500])
    means, variances = np.array([[0.0], [10.0]]), np.full((2, 1), 1e-6)
    for error in (0.0, 0.2):
        found = room._estimate(
            basins([0.0, 10.0], [0.5, 0.5], error=error), np.zeros(2), place,
            np.full(1000, 1e-3), means, variances, 0,
        )  # fmt: skip
        # sd of p is 5, a share more moves the mean by 10
        masses = 10 / 5 * 0.25 * error * math.sqrt(2)
        counts = 10 / 5 * math.sqrt(0.25 / 1000)
        expected = math.hypot(masses, counts)
        assert found.shift_se[0, 0] == pytest.approx(expected, rel=0.15)
        assert found.shift[0, 0] == pytest.approx(0.0, abs=1e-12)


def test_what_the_evidence_has_above_the_masses_lies_around_the_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = subject(draws([900, 100], [0.0, 20.0]), basins([0.0, 20.0], [0.1, 0.1]))
    for least, home in ((-math.inf, 0.1), (math.log(0.19), 0.1), (math.log(0.5), 0.4)):
        monkeypatch.setattr(room, "_lower_bound", lambda *_, least=least: least)
        found = np.exp(room._masses(given, given.modes, {}))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, [home, 0.1])


@pytest.mark.parametrize(("inside", "own"), [(50, True), (49, False)])
def test_moments_are_those_of_fifty_draws_or_of_the_basins_own(inside: int, own: bool) -> None:
    u = np.concatenate([np.zeros(1000), np.full(inside, 20.5)])
    given = subject(u, basins([0.0, 20.0], [0.5, 0.5]))
    assert given.modes is not None
    means, variances = room._moments(given, given.modes, given.modes.of(u[:, None]))
    assert means[0, 0] == 0.0 and variances[0, 0] == 0.0
    assert bool(means[1, 0] == 20.5) is own and bool(variances[1, 0] == 0.0) is own
    assert means[1, 0] == pytest.approx(20.0, abs=0.6)


def _weights(w: np.ndarray) -> Any:
    from guidebook.diagnostics.numerics.psis import Importance

    return Importance(w, 0.1, 0.01, 1 / np.square(w).sum())


def test_draws_around_modes_that_were_not_listed_cannot_be_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight climbs from draws evenly through the run: half of them must end at a known mode."""
    asked: list[Any] = []

    def climbed(potential: object, modes: list[Mode], u: np.ndarray) -> float:
        asked.append((len(modes), u[:, 0]))
        return 0.49

    monkeypatch.setattr(room, "reached", climbed)
    u = np.arange(701.0)
    found = room.hear(subject(u, basins([0.0, 20.0], [0.5, 0.5])), {})
    assert asked[0][0] == 2
    np.testing.assert_array_equal(asked[0][1], 100.0 * np.arange(8))
    assert found.far is None and found.rules_out == "" and found.estimate is None
    assert "more modes than the search could list" in found.against[0]
    assert found.against_weighted == found.against and "symmetry" in found.remedy
    assert found.words == (room.MORE,)
    for half, heard in ((0.5, True), (0.499, False)):
        monkeypatch.setattr(room, "reached", lambda *_, half=half: half)
        monkeypatch.setattr(room, "_lower_bound", lambda *_: -math.inf)
        found = room.hear(subject(u, basins([0.0, 20.0], [0.5, 0.5])), {})
        assert (found.estimate is not None) is heard


# what to do ----------------------------------------------------------------------------------------


def remedy(one: list[float], other: list[float], log_mass: float = 0.0) -> str:
    modes = [Mode(np.array(one), np.eye(3), 0.0), Mode(np.array(other), np.eye(3), log_mass)]
    nothing = np.zeros(0)
    found = Basins([[m] for m in modes], *([nothing] * 2), np.zeros((0, 3)), *([nothing] * 3))
    u = np.zeros((10, 1, 3))
    given = subject(
        np.zeros(10), found, names=["a[0]", "a[1]", "b"], coordinates=["a[0]", "a[1]", "b"],
        values=u, position=u,
    )  # fmt: skip
    means = np.array([one, other])
    return room._remedy(given, found, np.array([1.0, 0.0]), np.array([0.5, 0.5]), means)


def test_the_remedy_follows_the_symmetry() -> None:
    assert "signs of a reversed" in remedy([5.0, -3.0, 1.0], [-5.0, 3.0, 1.0])
    assert "signs of a, b reversed" in remedy([5.0, -3.0, 2.0], [-5.0, 3.0, -2.0])
    # a standard deviation of 1 has not moved
    assert "signs of a reversed" in remedy([5.0, -3.0, 1.0], [-5.0, 3.0, 2.0])
    assert "components of a in another order" in remedy([5.0, -3.0, 1.0], [-3.0, 5.0, 1.0])
    for one, other, mass in (
        ([5.0, -3.0, 1.0], [-5.0, 3.0, 1.0], 0.3),  # not as heavy
        ([5.0, -3.0, 1.0], [-4.5, 3.0, 1.0], 0.0),  # no image
        ([5.0, 2.0, 1.0], [9.0, 2.0, 1.0], 0.0),
        ([5.0, -3.0, 1.0], [-5.0, 3.0, 1.0], 0.2),  # two tenths of a nat are too many
        ([5.0, -3.0, 1.0], [-3.0, 5.0, 1.0], -0.2),
    ):
        assert "hold several modes" in remedy(one, other, mass)


# the evidence --------------------------------------------------------------------------------------


class Story:
    """Three components that can change places."""

    K = 3

    def canonical_order(self) -> None: ...


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
    given = subject(np.arange(100.0), None)
    assert room._lower_bound(given, heard) == bound


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


@pytest.mark.parametrize(
    ("odds", "inside", "good"),
    [
        (4.0, 0.0, False),  # a fifth of the mass, never visited
        (1.0, 0.5, True),
        (1.0, 0.8, False),
        (1e5, 0.0, True),  # of little mass: 0.001 % nine sds away
        (100.0, 0.0, False),  # 1 %: the variance is 1.8 times as large
        (200.0, 0.0, True),  # 0.5 %: 1.4 times, a ratio of 1.18
    ],
)
def test_on_a_model_of_two_normals(odds: float, inside: float, good: bool) -> None:
    where = np.array([9.0, 0.0])
    potential = potential_of(two_modes, where=where, log_odds=math.log(odds))
    rng = np.random.default_rng(0)
    u = rng.standard_normal((20_000, 2)) + np.outer(rng.random(20_000) < inside, where)
    found = basins_of(potential, find_modes(potential, u[:200]), u[:200])
    one = subject(
        u, found, potential=potential, names=["x[0]", "x[1]"], coordinates=["x[0]", "x[1]"],
        values=u[:, None], position=u[:, None], discrete=np.zeros(2, bool),
    )  # fmt: skip
    told = room.hear(one, {})
    assert told.far is not None
    assert (bool(told.far[0]) and list(told.against) == [""]) is good, told.words


# every number by itself ----------------------------------------------------------------------------


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize(("inside", "missing"), [(1499, True), (1500, False)])
def test_a_mode_with_three_tenths_of_its_share_is_there(inside: int, missing: bool) -> None:
    """Of one half: it is then wrongly weighted, which weights could mend."""
    u = draws([10_000 - inside, inside], [0.0, 20.0])
    found = room.hear(subject(u, basins([0.0, 20.0], [0.5, 0.5])), {})
    assert found.estimate is not None and found.estimate.bad()[0] and found.against[0]
    assert bool(found.rules_out) is missing


@pytest.mark.usefixtures("unbounded")
def test_what_is_told_besides() -> None:
    one = room.hear(subject(draws([100], [0.0]), basins([0.0], [1.0])), {})
    assert one.words == (room.ONE,) and one.far is not None and one.far.shape == (1,)
    two = basins([0.0, 20.0], [0.7, 0.3], error=0.0)
    found = room.hear(subject(draws([7000, 3000], [0.0, 20.0]), two), {})
    assert found.detail is two and found.agreement == room.AGREEMENT
    assert found.estimate is not None and found.estimate.able.tolist() == [[True]]
    # 0.3 of 10,000 draws, 20 apart, in standard deviations of sqrt(1 + 0.21 * 400)
    error = 20 * math.sqrt(0.21 / 10_000) / math.sqrt(1 + 0.21 * 400)
    assert found.estimate.shift_se[0, 0] == pytest.approx(error, rel=0.15)


def test_masses_of_any_height_have_the_same_errors() -> None:
    place = np.repeat([0, 1], [500, 500])
    means, variances = np.array([[0.0], [10.0]]), np.ones((2, 1))
    given = basins([0.0, 10.0], [0.5, 0.5], error=0.1)
    low = room._estimate(given, np.log([1.0, 3.0]), place, np.full(1000, 1e-3), means, variances, 0)
    for height in (-2000.0, 2000.0):
        masses = height + np.log([1.0, 3.0])
        found = room._estimate(given, masses, place, np.full(1000, 1e-3), means, variances, 0)
        for name in ("shift", "shift_se", "log_ratio", "log_ratio_se"):
            np.testing.assert_allclose(getattr(found, name), getattr(low, name), rtol=1e-9)
    apart = room._estimate(
        given, np.array([2000.0, 0.0]), place, np.full(1000, 1e-3), means, variances, 0
    )
    assert apart.shift[0, 0] == pytest.approx(5.0)  # of a standard deviation of the first alone
    assert np.isfinite([apart.shift_se, apart.log_ratio, apart.log_ratio_se]).all()
    sd = math.sqrt(1 + 0.1875 * 100)
    assert low.shift[0, 0] == pytest.approx((5.0 - 7.5) / sd)
    assert low.log_ratio[0, 0] == pytest.approx(math.log(math.sqrt(26.0) / sd))


def test_an_evidence_equal_to_the_masses_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    given = subject(draws([900, 100], [0.0, 20.0]), basins([0.0, 20.0], [0.5, 0.5]))
    assert given.modes is not None
    total = float(np.logaddexp.reduce(given.modes.log_mass))
    monkeypatch.setattr(room, "_lower_bound", lambda *_: total)
    np.testing.assert_array_equal(room._masses(given, given.modes, {}), given.modes.log_mass)


def test_variances_are_those_of_the_draws_and_of_the_basins_own() -> None:
    u = draws([2000, 10], [100.0, 200.0], sd=3.0)
    given = subject(u, basins([100.0, 200.0], [0.5, 0.5], sd=2.0))
    assert given.modes is not None
    means, variances = room._moments(given, given.modes, given.modes.of(u[:, None]))
    assert variances[0, 0] == pytest.approx(np.var(u[:2000])) and means[0, 0] == np.mean(u[:2000])
    assert variances[1, 0] == pytest.approx(4.0, rel=0.15) and means[1, 0] == pytest.approx(
        200, abs=0.2
    )


def test_positions_are_given_in_the_precision_of_the_model() -> None:
    class Single(Line):
        dtype = torch.float32
        asked: Any = None

        def constrain(self, u: Tensor) -> dict[str, Tensor]:
            self.asked = u.dtype
            return {"x": u}

    potential = Single()
    given = subject(np.zeros(100), basins([0.0, 9.0], [0.5, 0.5]), potential=potential)
    assert given.modes is not None
    room._moments(given, given.modes, np.zeros(100, int))
    assert potential.asked is torch.float32


@pytest.mark.parametrize(
    ("expected", "shares", "means", "chosen"),
    [
        ([0.5, 0.5], [1.0, 0.0], [[0.0], [9.0]], (1, 0)),
        ([0.5, 0.5], [0.4, 0.6], [[0.0], [9.0]], (0, 1)),
        ([0.5, 0.3, 0.2], [0.9, 0.05, 0.05], [[0.0], [1.0], [9.0]], (2, 0)),  # nearer, and more off
        ([0.5, 0.3, 0.2], [0.9, 0.0, 0.1], [[0.0], [9.0], [9.0]], (1, 0)),
        ([0.4, 0.1, 0.5], [0.5, 0.4, 0.1], [[0.0], [3.0], [3.0]], (2, 0)),
        ([0.4, 0.5, 0.1], [0.5, 0.1, 0.4], [[5.0, 0], [5.0, 3.0], [9.0, 0]], (2, 0)),
        (
            [0.4, 0.05, 0.55],
            [0.5, 0.45, 0.05],
            [[-9.0], [9.0], [-8.0]],
            (1, 0),
        ),  # too many, far away
        # off by 0.36 at no distance, and by 0.09 at two standard deviations: 0.09 * (1 + 2^2) is more
        ([0.1, 0.4, 0.5], [0.55, 0.04, 0.41], [[0.0], [0.0], [9.0]], (2, 0)),
        # five hundred times the unit of the other column is less of its standard deviations
        ([0.4, 0.5, 0.1], [0.6, 0.4, 0.0], [[0.0, 0.0], [500.0, 0.0], [0.0, 9.0]], (2, 0)),
    ],
)
def test_the_most_harmful_basin_besides_that_of_most_draws(
    expected: list[float], shares: list[float], means: Any, chosen: tuple[int, int]
) -> None:
    for unit in (1.0, -1.0, 1e-3, 1e3):
        found = room._worst(np.array(expected), np.array(shares), unit * np.array(means))
        assert found == chosen


def test_a_place_is_named_by_the_three_marginals_that_are_farthest() -> None:
    names = ["a", "b", "c", "d", "e"]
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1000, 1, 5)) * np.array([1.0, 10.0, 0.1, 1.0, 1.0])
    given = subject(np.zeros(1000), NONE, names=names, values=values)
    means = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, -39.0, 1.2, 6.0, 4.0]])
    expected, shares = np.array([0.5, 0.5]), np.array([0.875, 0.125])
    said = room._described(given, expected, shares, means)
    assert said.startswith("the mode at d = 6, b = -39, e = 4 should hold")  # 5, 4, 3 and 2 sds off
    assert "about 50 % of the posterior mass and holds 12.5 % of the draws" in said
    same = np.array([[1.0] * 5, [1.0, 1.0, 1.0, 6.0, 1.0]])
    assert "the mode at d = 6 should" in room._described(given, expected, shares, same)
    near = np.array([[1.0] * 5, [1.0, 1.0, 1.35, 1.0, 1.5]])  # 3.5 and 0.5 sds off
    assert "at c = 1.35, e = 1.5 should" in room._described(given, expected, shares, near)


def two_of(one: Mode, other: Mode) -> str:
    nothing = np.zeros(0)
    found = Basins([[one], [other]], *([nothing] * 2), np.zeros((0, 2)), *([nothing] * 3))
    u = np.zeros((10, 1, 2))
    given = subject(
        np.zeros(10), found, names=["a", "b"], coordinates=["a", "b"], values=u, position=u
    )
    means = np.array([one.center, other.center])
    return room._remedy(given, found, np.array([1.0, 0.0]), np.array([0.5, 0.5]), means)


@pytest.mark.parametrize("factor", [np.array([2.0, 2.0]), np.array([[2.0, 0.0], [1.2, 1.6]])])
@pytest.mark.parametrize(
    ("off", "alike"), [(0.39, True), (0.41, False), (-0.39, True), (-0.41, False)]
)
def test_an_image_lies_within_a_fifth_of_a_standard_deviation(
    factor: np.ndarray, off: float, alike: bool
) -> None:
    """Of 2, in both coordinates."""
    one = Mode(np.array([9.0, -7.0]), factor, 0.0)
    sign = two_of(one, Mode(np.array([-9.0, 7.0 + off]), factor, 0.19))
    order = two_of(one, Mode(np.array([-7.0 + off, 9.0]), factor, -0.19))
    assert ("signs of a, b" in sign) is alike and ("another order" in order) is alike
    heavier = two_of(one, Mode(np.array([-9.0, 7.0]), factor, 0.21))
    assert "hold several modes" in heavier
    assert "hold several modes" in two_of(one, Mode(one.center + 0.1, factor, 0.0))  # nothing moved


def test_a_fifth_of_a_standard_deviation_is_too_far_and_the_smallest_decides() -> None:
    five = np.array([5.0, 5.0])
    one = Mode(np.array([50.0, -30.0]), five, 0.0)
    for other in ([-49.0, 30.0], [-30.0, 49.0]):
        assert "hold several modes" in two_of(one, Mode(np.array(other), five, 0.0))
    for sd, order in ((np.array([5.0, 10.0]), False), (np.array([10.0, 10.0]), True)):
        one, other = (Mode(np.array(c), sd, 0.0) for c in ([50.0, -30.0], [-30.0, 48.5]))
        assert ("another order" in two_of(one, other)) is order


def test_the_bound_is_computed_in_the_precision_of_the_model() -> None:
    class Single(StandardNormal):
        dtype = torch.float32
        asked: Any = None

        def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
            self.asked = u.dtype
            return super().value_and_grad(u)

    density: Any = Single()
    half = math.sqrt(0.5)
    assert gaussian_elbo(density, np.array([[half], [-half]])) == pytest.approx(0.0, abs=1e-6)
    assert density.asked is torch.float32
