"""Stein's identities on Gaussians, where shift and sd ratio are known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.numerics.psis import Importance
from guidebook.diagnostics.witnesses import annealed
from guidebook.diagnostics.witnesses import stein as module
from guidebook.diagnostics.witnesses.importance import NAME as WEIGHTS
from guidebook.diagnostics.witnesses.stein import (
    STEIN_LIMIT,
    Stein,
    _found,
    _worst_of,
    hear,
    stein,
    stein_from_surface,
)

COVARIANCE = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.3], [0.0, 0.3, 4.0]])
MEAN = np.array([1.0, -2.0, 30.0])
NAMES = ["a", "b", "c"]


def gradient(u: np.ndarray) -> np.ndarray:
    return -(u - MEAN) @ np.linalg.inv(COVARIANCE)


def draws(mean: np.ndarray, covariance: np.ndarray, size: int = 4000) -> np.ndarray:
    return np.random.default_rng(0).multivariate_normal(mean, covariance, size)


def test_the_posterior_has_no_discrepancy() -> None:
    u = draws(MEAN, COVARIANCE, 100_000)
    found = stein(u, gradient(u), NAMES)
    assert found is not None
    assert found.discrepancy < 5 / np.sqrt(100_000)  # the draws' own sampling error


def test_mean_field_narrowness_is_measured_exactly() -> None:
    """q has the conditional sds; the regression of a linear gradient has no noise at all."""
    precision = np.linalg.inv(COVARIANCE)
    u = draws(MEAN, np.diag(1 / np.diagonal(precision)), 20_000)
    found = stein(u, gradient(u), NAMES)
    assert found is not None and found.covariance is not None
    np.testing.assert_allclose(found.covariance, COVARIANCE, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.mean, MEAN, rtol=1e-8)
    expected = u.std(0) / np.sqrt(np.diagonal(COVARIANCE))
    np.testing.assert_allclose(found.sd_ratio, expected, rtol=1e-8)
    assert "narrow" in found.worst()


def test_a_needle_far_away_is_seen() -> None:
    """k-hat is blind to this one: facts.md has 0.01 for draws that are wrong by many sds."""
    u = draws(MEAN + 50, 1e-8 * np.eye(3))
    found = stein(u, gradient(u), NAMES)
    assert found is not None and found.discrepancy > 10
    np.testing.assert_allclose(
        found.shift, (u.mean(0) - MEAN) / np.sqrt(np.diagonal(COVARIANCE)), rtol=1e-4
    )


def test_weights_mend_the_identities() -> None:
    u = draws(MEAN, 1.5 * COVARIANCE, 50_000)
    centred = u - MEAN
    quadratic = np.einsum("si,ij,sj->s", centred, np.linalg.inv(COVARIANCE), centred)
    weights = np.exp(-0.5 * quadratic * (1 - 1 / 1.5))
    weights /= weights.sum()
    raw, weighted = stein(u, gradient(u), NAMES), stein(u, gradient(u), NAMES, weights)
    assert raw is not None and weighted is not None
    assert raw.discrepancy > 0.15 > 0.03 > weighted.discrepancy


def test_a_saddle_has_infinite_discrepancy() -> None:
    u = draws(MEAN, COVARIANCE)
    found = stein(u, +0.5 * (u - MEAN), NAMES)
    assert found is not None and found.discrepancy == np.inf and found.covariance is None


def test_too_few_draws_say_nothing() -> None:
    u = draws(MEAN, COVARIANCE, 10)
    assert stein(u, gradient(u), NAMES) is None


def test_the_surface_of_lp_stands_in_for_gradients() -> None:
    u = draws(MEAN, 0.25 * COVARIANCE)
    centred = u - MEAN
    lp = 7 - 0.5 * np.einsum("si,ij,sj->s", centred, np.linalg.inv(COVARIANCE), centred)
    found = stein_from_surface(u, lp, NAMES)
    assert found is not None
    np.testing.assert_allclose(
        found.sd_ratio, u.std(0) / np.sqrt(np.diagonal(COVARIANCE)), rtol=1e-6
    )


def test_a_rough_surface_says_nothing() -> None:
    u = draws(MEAN, COVARIANCE)
    assert stein_from_surface(u, np.random.default_rng(1).normal(size=len(u)), NAMES) is None


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_units_do_not_matter(scale: float) -> None:
    u = draws(MEAN, 0.25 * COVARIANCE)
    one, other = stein(u, gradient(u), NAMES), stein(scale * u, gradient(u) / scale, NAMES)
    assert one is not None and other is not None
    np.testing.assert_allclose(one.sd_ratio, other.sd_ratio, rtol=1e-6)


def subject_of(moved: list[float], size: int = 400, **facts: Any) -> Subject:
    """Draws of N(moved, 1) of a coordinate, a column each, for the posterior N(0, 1), exactly."""
    z = np.random.default_rng(0).standard_normal((size, len(moved)))
    z = (z - z.mean(0)) / z.std(0) + np.array(moved)
    given: dict[str, Any] = {"position": z[:, :, None], "gradient": -z[:, :, None]}
    given |= {
        "kind": "density",
        "names": ["z"],
        "coordinates": ["z"],
        "discrete": np.array([False]),
    }
    return Subject(values=z[:, :, None], **given | facts)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Testimony]:
    """The testimony on draws of these discrepancies, NaN where they are not known."""

    def one(shift: float) -> Stein | None:
        each, unit = np.ones(1), np.eye(1)
        return None if math.isnan(shift) else Stein(["z"], shift * each, each, each, each, unit)

    def of(*raw: float, weighted: list[float] | None = None) -> Testimony:
        found = [one(shift) for shift in raw], weighted and [one(shift) for shift in weighted], ""
        monkeypatch.setattr(module, "_found", lambda *_: found)
        return hear(subject_of([0.0] * len(raw)), {})

    return of


def test_the_limit_of_the_discrepancy_is_kept(given: Callable[..., Testimony]) -> None:
    above = math.nextafter(STEIN_LIMIT, 1)
    found = given(STEIN_LIMIT, above, math.nan, weighted=[0.34, STEIN_LIMIT, math.nan])
    assert [bool(words) for words in found.against] == [False, True, False]
    assert [bool(words) for words in found.against_weighted] == [False, True, False]
    assert found.supports is not None and found.supports.tolist() == [True, True, False]
    assert found.checks is not None and found.checks.tolist() == [True, True, False]
    np.testing.assert_array_equal(found.numbers["stein"], [STEIN_LIMIT, above, math.nan])


def test_the_identities_are_cited_where_all_hold(given: Callable[..., Testimony]) -> None:
    for held in ((0.0,), (STEIN_LIMIT,), (0.1, 0.2)):
        assert "hold" in given(*held).agreement
    for broken in ((0.36,), (0.1, 0.36), (0.1, math.nan)):
        assert given(*broken).agreement == ""


def test_words_of_one_posterior_and_of_rows() -> None:
    """Draws moved by 0.25 sd; of rows moved by 0.1, 0.25 and 0.4 the median and the largest."""
    found = hear(subject_of([0.25]), {})
    assert found.detail[0].discrepancy == pytest.approx(0.25)
    (words,) = found.words
    assert "Discrepancy 0.25" in words and found.detail[0].worst() in words
    (words,) = hear(subject_of([0.1, 0.4, 0.25]), {}).words
    assert "median 0.25" in words and "at most 0.4," in words and "3 rows" in words


def test_one_row_that_cannot_be_judged_is_silent() -> None:
    subject = subject_of([0.1, 0.25])
    assert subject.gradient is not None
    subject.gradient[0, 0] = math.nan
    found = hear(subject, {})
    assert not found.absent and found.detail[0] is None
    np.testing.assert_allclose(found.numbers["stein"], [math.nan, 0.25])
    assert "median 0.25" in found.words[0]


def test_why_the_identities_are_not_known() -> None:
    assert "draws" in hear(subject_of([0.0], 20), {}).absent
    facts: dict[str, Any] = {"gradient": None, "lacks": {"gradient": "a discrete latent"}}
    assert hear(subject_of([0.0], **facts), {}).absent == "a discrete latent"
    assert "gradient" in hear(subject_of([0.0], gradient=None), {}).absent
    assert hear(subject_of([0.0], kind="point"), {}) == Testimony(module.NAME)


def test_a_surface_is_said_to_stand_in() -> None:
    subject = subject_of([0.25], gradient=None, lacks={"gradient": "no potential"})
    lp = -0.5 * np.square(subject.values[:, :, 0])
    facts: dict[str, Any] = {"gradient": None, "lacks": subject.lacks, "log_density": lp}
    found = hear(subject_of([0.25], **facts), {})
    assert "no potential" in found.words[0] and "0.25" in found.words[1]
    assert found.numbers["stein"] == pytest.approx([0.25])


def test_weights_are_used_where_all_posteriors_have_them() -> None:
    """Draws of N(0.5, 1) with the exact weights of N(0, 1) lose their shift."""
    subject = subject_of([0.5], 4000)
    weights = np.exp(-0.5 * subject.values[:, 0, 0])
    weights /= weights.sum()
    heard = {WEIGHTS: Testimony(WEIGHTS, detail=[Importance(weights, 0.1, 0.1, 3000.0)])}
    raw, weighted, instead = module._found(subject, weights[:, None])
    assert weighted is not None and weighted[0] is not None and raw[0] is not None and not instead
    assert raw[0].shift == pytest.approx([0.5]) and abs(weighted[0].shift[0]) < 0.1
    found = hear(subject, heard)
    assert found.against[0] and found.against_weighted == [""] and found.checks == [True]
    unknown = hear(subject, {})
    assert unknown.against_weighted == [""] and unknown.checks == [False]


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_columns_that_are_linear_in_those_before_are_left_out(unit: float) -> None:
    """The last of a simplex, a constant, and what differs from a column by less than 1e-6 of its sd."""
    z = np.random.default_rng(0).standard_normal((500, 3))
    z = np.linalg.qr(z - z.mean(0))[0] * math.sqrt(500)  # of covariance I, exactly
    a, b, other = z.T
    columns = [a, b, 1 - a - b, np.ones(500), a + 0.95e-6 * other, b + 1.05e-6 * other]
    values = 5 + unit * np.column_stack(columns)
    assert module._independent_columns(values) == [0, 1, 5]


def test_a_surface_is_of_one_posterior_only() -> None:
    facts: dict[str, Any] = {"gradient": None, "log_density": -np.ones((400, 2))}
    assert "gradient" in hear(subject_of([0.0, 0.1], **facts), {}).absent


def two_basins() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws (S, 1, 1) of two normals at -20 and 20, the second shifted by 0.5; gradients, weights, places."""
    rng = np.random.default_rng(0)
    place = np.repeat([0, 1], [600, 400])
    z = rng.standard_normal(1000)
    u = (np.where(place == 0, -20.0, 20.5) + z)[:, None, None]
    slope = -(u - np.where(place == 0, -20.0, 20.0)[:, None, None])
    weights = rng.dirichlet(np.ones(1000))[:, None]
    return u, slope, weights, place


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_basins_the_worst_is_stated(turned: bool) -> None:
    u, slope, weights, place = two_basins()
    if turned:
        place = 1 - place
    inside = u[:, 0, 0] > 0
    alone = weights[inside, 0] / weights[inside, 0].sum()
    for given, own in ((None, None), (weights, alone)):
        found = _worst_of(u, slope, ["x"], given, place)
        expected = stein(u[inside, 0], slope[inside, 0], ["x"], own)
        assert found is not None and expected is not None
        assert found.discrepancy == pytest.approx(expected.discrepancy, rel=1e-9)
        assert found.shift[0] == pytest.approx(expected.shift[0], rel=1e-9)
    three = np.where(np.arange(1000) < 300, 2, place)  # the right ones in two
    found = _worst_of(u, slope, ["x"], None, three)
    expected = stein(u[inside, 0], slope[inside, 0], ["x"])
    assert found is not None and expected is not None
    assert found.discrepancy == pytest.approx(expected.discrepancy, rel=1e-9)
    few = np.where(np.arange(1000) == 0, 2, place)  # one draw says nothing
    assert _worst_of(u, slope, ["x"], None, few) is not None
    assert _worst_of(u[:1], slope[:1], ["x"], None, few[:1]) is None


def test_basins_are_looked_at_of_one_posterior_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    u, slope, weights, place = two_basins()
    monkeypatch.setattr(module, "visited", lambda *_: place)
    subject = Subject(
        "density", ["x"], u, np.zeros(1, bool), coordinates=["x"], position=u, gradient=slope
    )
    raw, weighted, _ = _found(subject, weights)
    for found, given in ((raw, None), (weighted, weights)):
        expected = _worst_of(u, slope, ["x"], given, place)
        assert found is not None and len(found) == 1 and found[0] is not None
        assert expected is not None and found[0].discrepancy == expected.discrepancy
    assert _found(subject, None)[1] is None
    twice = np.concatenate([u, u], axis=1)
    rows = Subject(
        "density", ["x"], twice, np.zeros(1, bool), coordinates=["x"], position=twice,
        gradient=np.concatenate([slope, slope], axis=1),
    )  # fmt: skip
    whole = stein(u[:, 0], slope[:, 0], ["x"])
    raw = _found(rows, None)[0]
    assert whole is not None and len(raw) == 2
    assert all(one is not None and one.discrepancy == whole.discrepancy for one in raw)


def test_a_surface_is_fitted_to_one_posterior_only() -> None:
    """Of rows without gradients there is none."""
    values = np.random.default_rng(0).standard_normal((500, 2, 1))
    density = -0.5 * np.square(values).sum(2)
    facts: dict[str, Any] = {"kind": "density", "names": ["x"], "discrete": np.zeros(1, bool)}
    rows = Subject(values=values, log_density=density, **facts)
    assert _found(rows, None)[:2] == ([None, None], None)
    one = Subject(values=values[:, :1], log_density=density[:, :1], **facts)
    assert _found(one, None)[0][0] is not None


def test_of_two_branches_known_directly_the_gaussian_is_not_asked() -> None:
    """Half N(-3, 0.2^2), half N(3, 0.2^2), both 0.02 too high, a 150th of the standard deviation: the
    identities fail by much more; of moments that are known they are silent.
    """
    rng = np.random.default_rng(0)
    u = rng.choice([-3.0, 3.0], (2000, 2, 1)) + 0.2 * rng.standard_normal((2000, 2, 1)) + 0.02
    gradient = (3 * np.tanh(75 * u) - u) / 0.04
    subject = Subject(
        kind="density", names=["z"], values=u, discrete=np.zeros(1, bool), coordinates=["z"],
        position=u, gradient=gradient,
    )  # fmt: skip
    assert all(words for words in hear(subject, {}).against)
    error = np.full((2, 1), 0.01)
    off = np.array([[0.0], [0.5]])  # the second is known to be off
    known = Estimate(off, error, 0 * off, error, np.ones((2, 1), bool))
    heard = {annealed.NAME: Testimony(annealed.NAME, estimate=known)}
    against = hear(subject, heard).against
    assert against[0] == "" and "Stein" in against[1]
