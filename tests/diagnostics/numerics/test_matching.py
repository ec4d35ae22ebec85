"""Moment matching against closed forms: normals moved to normals, and the density of a split."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.numerics import matching
from guidebook.diagnostics.numerics.matching import (
    MOMENTS,
    Affine,
    Matching,
    _enough,
    _merit,
    _steps,
    _worst_moment,
    between,
    identity,
    log_mixture,
    match,
    moved,
)
from guidebook.diagnostics.numerics.psis import Importance, khat_limit, khat_of_moment, psis
from guidebook.diagnostics.witnesses.stein import stein

M = np.array([[2.0, 0.0], [1.0, 0.5]])
T = Affine(M, np.array([3.0, -1.0]))
Q = stats.multivariate_normal([0.5, -0.2], [[1.0, 0.3], [0.3, 2.0]])


def test_affine_maps_compose_and_invert() -> None:
    u = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_allclose(T(u), u @ M.T + [3.0, -1.0])
    np.testing.assert_allclose(T.inverse(T(u)), u, atol=1e-12)
    other = Affine(np.array([[0.0, 1.0], [-3.0, 0.2]]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(other.after(T)(u), other(T(u)), atol=1e-12)
    assert other.after(T).log_det == pytest.approx(np.log(3.0))  # 3 times det M = 1
    assert Affine(-4 * np.eye(1), np.zeros(1)).log_det == pytest.approx(np.log(4.0))


def test_draws_go_through_the_maps_in_turns() -> None:
    u = np.random.default_rng(0).normal(size=(7, 2))
    v = moved((identity(2), T), u)
    np.testing.assert_array_equal(v[::2], u[::2])
    np.testing.assert_array_equal(v[1::2], T(u[1::2]))
    np.testing.assert_array_equal(moved((T,), u), T(u))


def test_the_density_of_a_split_is_that_of_the_mixture() -> None:
    """Half of the draws from N(m, C), half from N(Mm + b, MCM')."""
    image = stats.multivariate_normal(T(Q.mean[None])[0], M @ Q.cov @ M.T)
    v = np.random.default_rng(1).normal(size=(50, 2)) * 3
    expected = np.log(0.5 * Q.pdf(v) + 0.5 * image.pdf(v))
    np.testing.assert_allclose(log_mixture((identity(2), T), Q.logpdf, v), expected, rtol=1e-10)
    np.testing.assert_allclose(log_mixture((T,), Q.logpdf, v), image.logpdf(v), rtol=1e-10)


@pytest.mark.parametrize(("maps", "inverted"), [((identity(2), T), 51), ((T,), 0)])
def test_known_densities_of_the_draws_spare_their_own_maps(
    maps: tuple[Affine, ...], inverted: int
) -> None:
    """log r is the same, and log q is evaluated once a draw (of 51) and map but its own."""
    u = Q.rvs(51, random_state=3)
    v, at = moved(maps, u), []

    def log_q(u: np.ndarray) -> np.ndarray:
        at.append(len(u))
        found: np.ndarray = Q.logpdf(u)
        return found

    found = log_mixture(maps, log_q, v, Q.logpdf(u))
    assert sum(at) == inverted
    np.testing.assert_allclose(found, log_mixture(maps, Q.logpdf, v), rtol=1e-10)


SIZE = 10_000
P = stats.multivariate_normal([0.4, -1.0], [[1.0, 0.9], [0.9, 1.0]])
STARTS = {
    "independent": ([0.4, -1.0], np.diag([0.19, 0.19])),  # the mean-field optimum, 1 / diag C^-1
    "shifted and narrow": ([1.2, -1.0], np.diag([0.3, 0.5])),
    "wide": ([0.0, 0.0], np.diag([60.0, 60.0])),
}


def matched(
    start: tuple[list[float], np.ndarray], target: Callable[[np.ndarray], np.ndarray]
) -> tuple[Matching, np.ndarray, np.ndarray]:
    """What was found, fresh draws moved by it, and their log ratios."""
    q = stats.multivariate_normal(*start)
    u, fresh = (q.rvs(SIZE, random_state=seed) for seed in (0, 1))
    found = match(target, u, target(u) - q.logpdf(u), q.logpdf)
    assert found is not None
    v = moved(found.maps, fresh)
    return found, v, target(v) - log_mixture(found.maps, q.logpdf, v)


@pytest.mark.parametrize("start", STARTS.values(), ids=list(STARTS))
def test_normals_are_moved_to_a_normal(start: tuple[list[float], np.ndarray]) -> None:
    """Fresh draws have its weighted moments within four standard errors (five numbers: one alarm in
    3,000), and weights of which more than half are effective. log p may lack a constant.
    """
    found, v, ratio = matched(start, lambda u: P.logpdf(u) + 7.0)
    weights = psis(ratio)
    assert weights is not None and found.khat < 0.5 and weights.khat < 0.5
    assert found.khat < found.khat_before and 2 <= found.rounds <= 30 and len(found.maps) == 1
    assert weights.ess > 0.5 * SIZE and found.together < 0.5
    w, z = weights.weights, np.linalg.solve(np.linalg.cholesky(P.cov), (v - P.mean).T).T
    for function in (z, np.column_stack([np.square(z) - 1, z[:, 0] * z[:, 1]])):
        assert (np.abs(w @ function) < 4 * np.sqrt(np.square(w) @ np.square(function))).all()
    assert np.log(np.mean(np.exp(ratio))) == pytest.approx(7.0, abs=0.05)


def test_the_richest_moments_are_named_once() -> None:
    found, _, _ = matched(STARTS["independent"], P.logpdf)
    steps = len(found.steps)
    assert found.words == f"mean and covariance, in {steps} step{'s' if steps > 1 else ''}"
    half = Matching((identity(1), identity(1)), ("mean", "mean and variances"), 1.0, 0.3, 0.2, 4)
    assert half.words == "mean and variances, of half of the draws, in 2 steps"
    assert Matching((identity(1),), ("mean",), 1.0, 0.3, 0.2, 4).words == "mean, in 1 step"


def test_weights_that_can_be_used_are_left_alone() -> None:
    q = stats.norm(0, 1.1)
    u = q.rvs((SIZE, 1), random_state=0)
    ratio = stats.norm(0, 1).logpdf(u)[:, 0] - q.logpdf(u)[:, 0]
    assert match(lambda v: stats.norm(0, 1).logpdf(v)[:, 0], u, ratio) is None
    assert match(lambda v: v[:, 0], u, np.full(SIZE, np.nan)) is None


def peak_on_a_floor(u: np.ndarray) -> np.ndarray:
    """log of 0.5 N(0, 0.3^2) + 0.5 N(0, 3^2) in two dimensions."""
    parts = [stats.multivariate_normal([0, 0], s**2 * np.eye(2)).logpdf(u) for s in (0.3, 3.0)]
    total: np.ndarray = np.logaddexp(*parts) + np.log(0.5)
    return total


def test_draws_are_split_where_one_map_is_not_enough() -> None:
    """Draws of N(0, 0.4^2), between the peak and the floor: wide ones leave the peak empty."""
    q = stats.multivariate_normal([0, 0], 0.16 * np.eye(2))
    u = q.rvs(SIZE, random_state=0)
    ratio = peak_on_a_floor(u) - q.logpdf(u)
    alone = match(peak_on_a_floor, u, ratio)
    split = match(peak_on_a_floor, u, ratio, q.logpdf)
    assert alone is not None and split is not None
    assert (len(alone.maps), len(split.maps)) == (1, 2)
    np.testing.assert_array_equal(split.maps[0].matrix, np.eye(2))
    np.testing.assert_array_equal(split.maps[1].matrix, alone.maps[0].matrix)
    assert split.rounds == alone.rounds + 1 <= 31
    assert alone.together == np.inf and split.together == split.khat
    khats = []
    for one in (alone, split):
        v = moved(one.maps, u)
        ratio = peak_on_a_floor(v) - log_mixture(one.maps, q.logpdf, v)
        found = psis(ratio)
        assert found is not None and found.khat == pytest.approx(one.khat, abs=1e-6)
        khats.append(max(found.khat, *(khat_of_moment(ratio, column) for column in v.T)))
    assert khats[1] < khats[0] - 0.05


def test_gradients_point_where_weights_cannot() -> None:
    """Twenty coordinates with correlations 0.9, and independent ones, shifted and narrow: a few of 4,000
    draws carry the weight, and a normal is found from the gradients all the same.
    """
    covariance = 0.1 * np.eye(20) + 0.9
    p, precision = stats.multivariate_normal(np.zeros(20), covariance), np.linalg.inv(covariance)
    q = stats.multivariate_normal(np.full(20, 0.1), np.diag(0.4 / np.diagonal(precision)))
    u = q.rvs(4000, random_state=0)
    ratio = p.logpdf(u) - q.logpdf(u)
    weights = psis(ratio)
    assert weights is not None and weights.ess < 100
    alone = match(p.logpdf, u, ratio)
    assert alone is None or alone.rounds > 10
    told = stein(u, -u @ precision, [f"u[{i}]" for i in range(20)])
    assert told is not None and told.covariance is not None
    first = between(u.mean(0), np.cov(u, rowvar=False), told.mean, told.covariance)
    assert first is not None
    found = match(p.logpdf, u, ratio, q.logpdf, first)
    assert found is not None and max(found.khat, found.together) < 0.5 and found.rounds <= 5
    assert found.steps[0] == "mean and covariance by gradients" == found.words.split(",")[0]
    v = moved(found.maps, q.rvs(4000, random_state=1))
    # of 210 second moments, whose errors are at most sqrt(2 / 4000): one alarm in 2,000
    assert np.abs(np.cov(v, rowvar=False) - covariance).max() < 5.0 * np.sqrt(2 / 4000) * 1.5


def test_draws_that_leave_out_what_the_others_saw_are_known_by_both_together() -> None:
    """Draws of width 1.5, moved to 0.9, where nine tenths of the mass are within 1 and the rest within 5:
    k-hat falls, for the moved draws see less of the rest.
    """

    def target(u: np.ndarray) -> np.ndarray:
        parts = [
            np.log(share) + stats.multivariate_normal([0, 0], s**2 * np.eye(2)).logpdf(u)
            for share, s in ((0.9, 1.0), (0.1, 5.0))
        ]
        total: np.ndarray = np.logaddexp(*parts)
        return total

    q = stats.multivariate_normal([0, 0], 2.25 * np.eye(2))
    u = q.rvs(SIZE, random_state=0)
    shrinking = Affine(0.6 * np.eye(2), np.zeros(2))
    found = match(target, u, target(u) - q.logpdf(u), q.logpdf, shrinking)
    assert found is not None and found.steps == ("mean and covariance by gradients",)
    assert found.khat < found.khat_before and found.khat < 0.7 < found.together


def test_a_singular_covariance_has_no_map() -> None:
    one, zero = np.eye(2), np.zeros(2)
    assert between(zero, np.ones((2, 2)), zero, one) is None
    assert between(zero, one, zero, np.zeros((2, 2))) is None
    there = between(zero, one, np.ones(2), 4 * one)
    assert there is not None
    np.testing.assert_allclose(there(one), 2 * one + 1)


def test_few_draws_give_no_covariance() -> None:
    """Of 45 draws in five dimensions, fewer than ten each, means and variances alone are matched."""
    q = stats.multivariate_normal(np.zeros(5), np.eye(5))
    u = q.rvs(45, random_state=0)
    target = stats.multivariate_normal(np.full(5, 0.7), 2 * np.eye(5)).logpdf
    found = match(target, u, target(u) - q.logpdf(u))
    assert found is None or "covariance" not in found.words


# the limits of the search ---------------------------------------------------------------------------


def weights_of(khat: float, ess: float = 80.0, size: int = 100) -> Importance:
    return Importance(np.full(size, 1 / size), khat, 0.1, ess)


def test_weights_are_good_enough_below_one_half_with_half_of_the_draws_effective() -> None:
    assert _enough(weights_of(0.49)) and not _enough(weights_of(0.5))
    assert _enough(weights_of(0.2, 50.0)) and not _enough(weights_of(0.2, 49.9))


def test_of_weights_that_can_be_used_the_effective_draws_count_of_others_k_hat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    v, limit = np.arange(100.0)[:, None], khat_limit(100)
    for worst, merit in ((limit - 0.01, 80.0), (limit, -limit), (0.9, -0.9), (-1.0, 80.0)):
        monkeypatch.setattr(matching, "_worst_moment", lambda *_, worst=worst: worst)
        assert _merit(weights_of(0.1), np.zeros(100), v) == merit
        monkeypatch.setattr(matching, "_worst_moment", lambda *_: -np.inf)
        assert _merit(weights_of(worst), np.zeros(100), v) == merit


def test_the_worst_second_moment_of_forty_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose weights cannot be fitted has no k-hat, and is the worst."""
    monkeypatch.setattr(matching, "khat_of_moment", lambda _, column: column[0])
    assert _worst_moment(np.zeros(3), np.array([[0.1, 0.4, 0.2]])) == 0.4
    assert _worst_moment(np.zeros(3), np.array([[0.1, np.nan, 0.2]])) == np.inf
    assert _worst_moment(np.zeros(3), np.arange(50.0)[None]) == 39.0


def test_maps_of_few_draws_or_without_spread_are_left_out() -> None:
    """Ten draws a dimension for a covariance; a variance of nil, of draws or of weights, has no map."""
    rng = np.random.default_rng(0)

    def names(v: np.ndarray, weights: np.ndarray | None = None) -> list[str]:
        even = np.full(len(v), 1 / len(v))
        return [name for name, _ in _steps(v, even if weights is None else weights)]

    assert names(rng.normal(size=(20, 2))) == list(MOMENTS[:3])
    assert names(rng.normal(size=(19, 2))) == list(MOMENTS[:2])
    assert names(rng.normal(size=(20, 1))) == list(MOMENTS[:2])
    v = rng.normal(size=(20, 2))
    v[:2, 0] = 1.0
    two = np.r_[0.5, 0.5, np.zeros(18)]
    assert names(v, two) == [MOMENTS[0]]  # the two with weight agree in the first coordinate
    v[:, 0] = 1.0
    assert names(v) == [MOMENTS[0]]


def test_a_covariance_is_tried_first_only_where_k_hat_is_low(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No map lowers k-hat here, so that all are tried: what log p is asked for has their moments."""
    u = Q.rvs(400, random_state=0)
    weights = np.random.default_rng(1).dirichlet(np.ones(400))
    wanted = np.cov(u, rowvar=False, aweights=weights, ddof=0)
    for khat, order in ((0.49, [2, 1, 0]), (0.5, [0, 1, 2]), (0.8, [0, 1, 2])):
        asked: list[np.ndarray] = []
        fixed = Importance(weights, khat, 0.1, 40.0)
        monkeypatch.setattr(matching, "psis", lambda _, fixed=fixed: fixed)
        assert (
            match(lambda v, asked=asked: asked.append(v) or np.zeros(400), u, np.zeros(400)) is None
        )
        assert len(asked) == 4  # at the draws, then by each map
        covariances = [np.cov(v, rowvar=False, ddof=0) for v in asked[1:]]
        found = [
            0 if np.allclose(one, np.cov(u, rowvar=False, ddof=0)) else 1 + np.allclose(one, wanted)
            for one in covariances
        ]
        assert found == order
        np.testing.assert_allclose([v.mean(0) for v in asked[1:]], [weights @ u] * 3)


def test_thirty_rounds_are_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    khats = iter(np.arange(100.0, 0.0, -1.0))
    monkeypatch.setattr(matching, "psis", lambda _: weights_of(next(khats)))
    found = match(lambda v: np.zeros(len(v)), Q.rvs(100, random_state=0), np.zeros(100))
    assert found is not None and (found.rounds, len(found.steps)) == (30, 29)
    assert found.khat == found.khat_before - 29


@pytest.mark.parametrize(("scale", "maps"), [(1.8, 1), (3.0, 2)])
def test_moved_draws_that_are_good_enough_are_not_split(scale: float, maps: int) -> None:
    """A t of four degrees of freedom by draws N(0, 1.2^2) with infinite variance of the weights, and so
    many times wider: 0.7 and 0.46 of these are effective, and more of half of each.
    """
    q, t, calls = stats.norm(0, 1.2), stats.t(4), []

    def log_p(v: np.ndarray) -> np.ndarray:
        calls.append(len(v))
        found: np.ndarray = t.logpdf(v)[:, 0]
        return found

    def log_q(v: np.ndarray) -> np.ndarray:
        found: np.ndarray = q.logpdf(v)[:, 0]
        return found

    u = q.rvs((1000, 1), random_state=0)
    wider = Affine(scale * np.eye(1), np.zeros(1))
    ratio = log_p(u) - log_q(u)
    calls.clear()
    found = match(log_p, u, ratio, log_q, wider)
    assert found is not None and len(found.maps) == maps and found.rounds == len(calls)
    shares = [one.ess / 1000 for one in (
        psis(t.logpdf(scale * u)[:, 0] - log_q(u)),
        psis(log_p(moved((identity(1), wider), u)) - log_mixture(
            (identity(1), wider), log_q, moved((identity(1), wider), u))),
    ) if one is not None]  # fmt: skip
    assert shares[1] > shares[0] and (shares[0] >= 0.5) == (maps == 1)
    # where log q costs too much for all draws they are not split, and the first ones looked at together
    few = match(log_p, u, ratio, log_q, wider, fresh=300)
    assert few is not None and len(few.maps) == 1
    maps_of_few = (identity(1), few.maps[0])
    v = moved(maps_of_few, u[:300])
    expected = psis(log_p(v) - log_mixture(maps_of_few, log_q, v))
    assert expected is not None and few.together == pytest.approx(expected.khat, rel=1e-9)


def test_of_two_that_are_as_good_the_draws_are_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    khats = iter([0.9, 0.8, 0.8, 0.8, 0.8, 0.8])
    monkeypatch.setattr(matching, "psis", lambda _: weights_of(next(khats, 0.8)))
    found = match(lambda v: np.zeros(len(v)), Q.rvs(100, random_state=0), np.zeros(100), Q.logpdf)
    assert found is not None and len(found.maps) == 1
