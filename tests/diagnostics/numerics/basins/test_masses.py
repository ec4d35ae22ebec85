"""Masses of basins and their errors, by weighted draws and by Laplace."""

import math
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from guidebook.diagnostics.numerics import basins as room
from guidebook.diagnostics.numerics.basins import search
from guidebook.diagnostics.numerics.modes import Mode
from guidebook.diagnostics.numerics.psis import Importance
from tests.diagnostics.numerics.basins.bumps import Bumps, found, two


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


# every number by itself --------------------------------------------------------------------------


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


def test_known_modes_and_the_number_of_starts_reach_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, int]] = []

    def find(potential: Any, u: np.ndarray, seed: int, known: Any, starts: int) -> list[Mode]:
        asked.append((list(known), starts))
        return []

    known = found(two(1, 8.0, 0.5, 1.0))
    monkeypatch.setattr(room, "find_modes", find)
    assert len(room.search_around(None, np.zeros((5, 1)), known=known, starts=3)) == 0  # type: ignore[arg-type]
    position = {"position": (("chain", "draw", "u"), np.zeros((1, 5, 1)))}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "unconstrained": xr.Dataset(position)})
    fit = SimpleNamespace(model=1, data=1, potential=None, posterior=lambda *_: tree)
    room.search(fit, starts=7)  # type: ignore[arg-type]
    assert asked == [([mode for group in known.modes for mode in group], 3), ([], 7)]
