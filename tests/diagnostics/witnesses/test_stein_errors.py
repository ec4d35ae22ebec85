"""Stein's identities: the stated error against replications, directions, and when nothing is said.

With R = 200 replications the ratio of a standard deviation to the stated one has an error of 5 %:
outside 0.75 to 1.25 is a false alarm below 1e-6.
"""

import math

import numpy as np
import pytest

from guidebook.diagnostics.witnesses.stein import Stein, stein, stein_from_surface

LOW, HIGH = 0.75, 1.25
SD = np.array([1.0, 3.0])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_stated_error_is_that_of_the_matching_mean(weighted: bool) -> None:
    """The posterior is N(0, SD^2) and gradients carry independent noise: mean / sd varies by shift_se."""
    rng = np.random.default_rng(0)
    scaled, stated = [], []
    for _ in range(200):
        u = SD * (0.2 + rng.standard_normal((400, 2)))
        noise = rng.standard_normal((400, 2)) * 0.6 / SD
        weights = np.exp(-0.4 * np.square(u[:, 0] / SD[0])) if weighted else None
        if weights is not None:
            weights /= weights.sum()
        found = stein(u, -u / SD**2 + noise, ["a", "b"], weights)
        assert found is not None
        scaled.append(found.mean / SD)
        stated.append(found.shift_se)
    spread = np.std(scaled, axis=0, ddof=1) / np.sqrt(np.square(stated).mean(0))
    assert (spread > LOW).all() and (spread < HIGH).all()
    assert (np.abs(np.mean(scaled, 0)) < 5 * np.mean(stated, 0) / math.sqrt(200)).all()


@pytest.mark.parametrize(
    ("moved", "factor"), [(0.0, 1.0), (0.0, 0.4), (0.0, 2.0), (1.0, 0.5), (-1.0, 1.0)]
)
def test_the_stated_error_of_a_surface_is_that_of_its_maximum(moved: float, factor: float) -> None:
    """Draws of N(moved SD, (factor SD)^2) for the posterior N(0, SD^2), noise of sd 0.02 on lp."""
    rng = np.random.default_rng(0)
    scaled, stated = [], []
    for _ in range(200):
        z = moved + factor * rng.standard_normal((400, 2))
        lp = -0.5 * np.square(z).sum(1) + 0.02 * rng.standard_normal(400)
        found = stein_from_surface(SD * z, lp, ["a", "b"])
        assert found is not None
        scaled.append(found.mean / SD)
        stated.append(found.shift_se)
    spread = np.std(scaled, axis=0, ddof=1) / np.sqrt(np.square(stated).mean(0))
    assert (spread > LOW).all() and (spread < HIGH).all()


def both(u: np.ndarray) -> list[Stein | None]:
    """By gradients and by the surface of lp, for the posterior N(0, SD^2)."""
    lp = 3 - 0.5 * np.square(u / SD).sum(1)
    names = ["a", "b"]
    return [stein(u, -u / SD**2, names), stein_from_surface(u, lp, names)]


@pytest.mark.parametrize(
    ("moved", "factor", "name", "way", "number"),
    [
        ((0.0, 0.5), (1.0, 1.0), "b", "high", "0.5"),
        ((-0.5, 0.0), (1.0, 1.0), "a", "low", "0.5"),
        ((0.0, 0.0), (1.0, 0.5), "b", "narrow", "0.5"),
        ((0.0, 0.0), (2.0, 1.0), "a", "wide", "2"),
        ((0.6, 0.0), (1.0, 0.58), "a", "high", "0.6"),  # 0.6 > |log 0.58| = 0.54
        ((0.0, 0.5), (1.0, 0.58), "b", "narrow", "0.58"),
    ],
)
def test_directions(
    moved: tuple[float, float], factor: tuple[float, float], name: str, way: str, number: str
) -> None:
    """Draws moved and scaled exactly: what is off, which way and by how much is known."""
    z = np.random.default_rng(0).standard_normal((2000, 2))
    z = (z - z.mean(0)) / z.std(0)
    expected = max(np.abs(moved).max(), np.abs(np.log(factor)).max())
    for found in both(SD * (np.array(moved) + np.array(factor) * z)):
        assert found is not None and found.covariance is not None
        words = found.worst()
        assert words.startswith(name) and way in words and number in words
        others = {"high", "low", "narrow", "wide"} - {way}
        assert not any(other in words for other in others) and "-" not in words
        assert found.discrepancy == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(found.mean, 0, atol=1e-8)
        np.testing.assert_allclose(found.covariance, np.diag(SD**2), atol=1e-8)
        np.testing.assert_allclose(np.abs(found.shift), np.abs(moved), atol=1e-8)
        np.testing.assert_allclose(found.sd_ratio, factor, rtol=1e-8)


def test_the_least_number_of_draws() -> None:
    """25, or four a coordinate; for the surface five a coefficient of the quadratic."""
    u = np.random.default_rng(0).standard_normal((200, 10))
    for dimension, least in ((1, 25), (6, 25), (7, 28), (10, 40)):
        names = list("abcdefghij")[:dimension]
        part = u[:, :dimension]
        assert stein(part[: least - 1], -part[: least - 1], names) is None
        assert stein(part[:least], -part[:least], names) is not None
    for dimension, least in ((1, 15), (2, 30), (3, 50)):
        part, names = u[:, :dimension], ["a", "b", "c"][:dimension]
        lp = -np.square(part).sum(1)
        assert stein_from_surface(part[: least - 1], lp[: least - 1], names) is None
        assert stein_from_surface(part[:least], lp[:least], names) is not None


def test_draws_that_cannot_be_regressed_say_nothing() -> None:
    u = np.random.default_rng(0).standard_normal((100, 2))
    gradient, lp = -u, -0.5 * np.square(u).sum(1)
    broken = gradient.copy()
    broken[3, 1] = np.nan
    assert stein(u, broken, ["a", "b"]) is None
    still = u.copy()
    still[:, 1] = 0.0
    assert stein(still, gradient, ["a", "b"]) is None
    assert stein_from_surface(still, lp, ["a", "b"]) is None
    lp[5] = -np.inf
    assert stein_from_surface(u, lp, ["a", "b"]) is None


@pytest.mark.parametrize(("curvature", "maximum"), [(1.2e-8, True), (0.8e-8, False), (-1.0, False)])
def test_a_curvature_of_rounding_is_no_maximum(curvature: float, maximum: bool) -> None:
    u = np.random.default_rng(0).standard_normal((1000, 2))
    u = np.linalg.qr(u - u.mean(0))[0] * math.sqrt(1000)  # of covariance I, exactly
    found = stein(u, -u * np.array([1.0, curvature]), ["a", "b"])
    assert found is not None and (found.covariance is not None) is maximum
    if not maximum:
        assert found.discrepancy == math.inf and "no maximum" in found.worst()


@pytest.mark.parametrize(
    ("curvatures", "maximum"),
    [
        ((1.0, 1.0), True),
        ((1.0, 1.2e-8), True),
        ((1.0, 0.8e-8), False),
        ((1e-4, 0.5e-8), True),
        ((100.0, 0.8e-6), False),
        ((1.0, -1.0), False),
    ],
)
def test_a_surface_without_a_maximum(curvatures: tuple[float, float], maximum: bool) -> None:
    """Limits are relative to the largest curvature, in units of the draws."""
    u = np.random.default_rng(0).standard_normal((1000, 2))
    u = np.linalg.qr(u - u.mean(0))[0] * math.sqrt(1000)
    found = stein_from_surface(u, -0.5 * np.square(u) @ np.array(curvatures), ["a", "b"])
    assert found is not None and (found.covariance is not None) is maximum
    both_ = stein(u, -u * np.array(curvatures), ["a", "b"])
    assert both_ is not None and (both_.covariance is not None) is maximum


@pytest.mark.parametrize(("share", "said"), [(0.098, True), (0.102, False)])
def test_a_surface_explains_nine_tenths(share: float, said: bool) -> None:
    """The residual is made orthogonal to the quadratic and has exactly this share of the variance."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal(500)
    z = (z - z.mean()) / z.std()
    design = np.column_stack([np.ones(500), z, z**2])
    noise = rng.standard_normal(500)
    noise -= design @ np.linalg.lstsq(design, noise, rcond=None)[0]
    fine = -0.5 * z**2
    lp = fine + noise * math.sqrt(share / (1 - share) * fine.var() / noise.var())
    assert (stein_from_surface(z[:, None], lp, ["z"]) is not None) is said


def test_correlated_coordinates_from_their_surface() -> None:
    covariance = np.array([[1.0, 0.6], [0.6, 2.0]])
    u = np.random.default_rng(0).standard_normal((500, 2)) + 1
    lp = -0.5 * np.einsum("si,ij,sj->s", u - 2, np.linalg.inv(covariance), u - 2)
    for found in (
        stein_from_surface(u, lp, ["a", "b"]),
        stein(u, -(u - 2) @ np.linalg.inv(covariance), ["a", "b"]),
    ):
        assert found is not None and found.covariance is not None
        np.testing.assert_allclose(found.covariance, covariance, atol=1e-8)
        np.testing.assert_allclose(found.mean, [2.0, 2.0], atol=1e-8)


def test_the_weighted_regression_in_closed_form() -> None:
    """g = -u - u^3 over weighted draws: P = -sum w m g / sum w m^2, m = u - sum w u."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal(500)
    weights = rng.gamma(0.5, 1.0, 500)
    weights /= weights.sum()
    gradient = -u - u**3
    found = stein(u[:, None], gradient[:, None], ["u"], weights)
    assert found is not None and found.covariance is not None
    moved = u - weights @ u
    precision = -(weights @ (moved * gradient)) / (weights @ moved**2)
    centre = weights @ gradient
    assert found.covariance[0, 0] == pytest.approx(1 / precision)
    assert found.mean[0] == pytest.approx(weights @ u + centre / precision)
    assert found.shift[0] == pytest.approx(-centre / math.sqrt(precision))
    assert found.sd_ratio[0] == pytest.approx(math.sqrt(precision * (weights @ moved**2)))
    residual = gradient - centre + precision * moved
    variance = weights @ residual**2 / (1 - weights @ weights)
    expected = math.sqrt(variance * (weights @ weights) / precision)
    assert found.shift_se[0] == pytest.approx(expected)


def test_the_error_of_a_surface_in_closed_form() -> None:
    """15 draws, lp = c + b s + a s^2: the maximum -b / 2a has the error of its gradient by (a, b)."""
    rng = np.random.default_rng(3)
    z = 2 + 3 * rng.standard_normal(15)
    s = (z - z.mean()) / z.std()
    lp = 1 + 0.3 * s - 0.8 * s**2 + 0.1 * rng.standard_normal(15)
    (a, b, _), covariance = np.polyfit(s, lp, 2, cov=True)  # of the variance left / (15 - 3)
    by = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
    found = stein_from_surface(z[:, None], lp, ["z"])
    assert found is not None
    sd = 1 / math.sqrt(-2 * a)
    assert found.shift[0] == pytest.approx(b / (2 * a) / sd)
    assert found.shift_se[0] == pytest.approx(math.sqrt(by @ covariance @ by) / sd)


def test_two_effective_draws_are_enough() -> None:
    """Weights of 1 / 2 on two draws of thirty; a little less on one of them is one draw's."""
    u = np.random.default_rng(0).standard_normal((30, 1))
    weights = np.zeros(30)
    weights[:2] = 0.5
    found = stein(u, -u, ["u"], weights)
    assert found is not None and found.covariance is not None
    assert found.covariance[0, 0] == pytest.approx(1.0)
    weights[:2] = 0.51, 0.49
    assert stein(u, -u, ["u"], weights) is None


def test_curvatures_exactly_at_the_limit_are_no_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    u = np.random.default_rng(0).standard_normal((100, 2))
    lp = -0.5 * np.square(u).sum(1)
    for least, maximum in ((1e-8, False), (math.nextafter(1e-8, 1), True)):
        pair = np.array([least, 1.0]), np.eye(2)
        monkeypatch.setattr(np.linalg, "eigh", lambda _, pair=pair: pair)
        for found in (stein(u, -u, ["a", "b"]), stein_from_surface(u, lp, ["a", "b"])):
            assert found is not None and (found.covariance is not None) is maximum


def test_a_flat_surface_is_explained_and_has_no_maximum() -> None:
    u = np.random.default_rng(0).standard_normal((100, 2))
    found = stein_from_surface(u, np.zeros(100), ["a", "b"])
    assert found is not None and found.discrepancy == math.inf


def test_of_a_shift_and_a_width_as_far_off_the_shift_is_named() -> None:
    one, unit = np.ones(2), np.eye(2)
    far = abs(math.log(2.0))
    found = Stein(["a", "b"], np.array([-far, 0.0]), one, np.array([1.0, 2.0]), one, unit)
    assert "low" in found.worst() and found.worst().startswith("a")
