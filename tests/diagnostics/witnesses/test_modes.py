"""What wrong shares of modes do to means and standard deviations, against mixtures in closed form."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.basins import basins_of
from guidebook.diagnostics.numerics.modes import Mode, find_modes
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses import modes as room
from guidebook.diagnostics.witnesses.modes import harm
from guidebook.programs.potential import Potential
from guidebook.scope import precision
from tests.diagnostics.witnesses.basins_given import NONE, Line, basins, draws, subject, weighted_by


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the evidence besides."""
    monkeypatch.setattr(room, "lower_bound", lambda *_: -math.inf)
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
    heard = {importance.NAME: Testimony(importance.NAME, detail=[weighted_by(weights)])}
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
    heard = {importance.NAME: Testimony(importance.NAME, detail=[weighted_by(even)])}
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
        monkeypatch.setattr(room, "lower_bound", lambda *_, least=least: least)
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
        monkeypatch.setattr(room, "lower_bound", lambda *_: -math.inf)
        found = room.hear(subject(u, basins([0.0, 20.0], [0.5, 0.5])), {})
        assert (found.estimate is not None) is heard


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
    monkeypatch.setattr(room, "lower_bound", lambda *_: total)
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


@pytest.mark.usefixtures("unbounded")
@pytest.mark.parametrize(("raw", "weighted"), [("R", "W"), ("R", ""), ("", "W"), ("", "")])
def test_mass_beyond_the_draws_is_stated_besides_the_modes(
    raw: str, weighted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts where shares are right; where they are wrong they are the reason that is given."""
    heard = {
        importance.NAME: Testimony(importance.NAME, detail=[weighted_by(np.full(10_000, 1e-4))])
    }
    monkeypatch.setattr(room, "beyond", lambda *_: (raw, weighted))
    one = room.hear(subject(draws([100], [0.0]), basins([0.0], [1.0])), {})
    two = basins([0.0, 20.0], [0.7, 0.3])
    right = room.hear(subject(draws([7000, 3000], [0.0, 20.0]), two), heard)
    wrong = room.hear(subject(draws([9000, 1000], [0.0, 20.0]), two), heard)
    some = bool(raw or weighted)
    for found in (one, right):
        assert (list(found.against) or [""]) == [raw]
        assert (list(found.against_weighted) or [""]) == [weighted]
        assert (found.far is None) is some and (found.agreement == "") is some
        assert (found.remedy == room.WIDER) is some
        assert {raw, weighted} - {""} <= set(found.words)
    assert "wrong shares" in wrong.against[0] and "wrong shares" in wrong.against_weighted[0]
    assert "hold several modes" in wrong.remedy
    assert (wrong.far is None) is some
