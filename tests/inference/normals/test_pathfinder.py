"""Pathfinder: its curvature against BFGS itself, its mixture on normals in closed form."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.errors import ModelError, SettingError
from guidebook.inference.normals import pathfinder as room
from guidebook.inference.normals.pathfinder import curvatures

QUIET: dict[str, Any] = {"progress": False}
MEAN = np.array([1.0, -2.0, 0.5, 3.0])
ROOT = np.array([[2.0, 0, 0, 0], [0.5, 0.1, 0, 0], [0.0, 0.02, 1.0, 0], [1.0, 0.0, 0.3, 30.0]])
COVARIANCE = ROOT @ ROOT.T


def correlated(mean: torch.Tensor, root: torch.Tensor) -> None:
    """u ~ N(mean, root root')."""
    pyro.sample("u", dist.MultivariateNormal(mean, scale_tril=root))


def two_bumps(where: torch.Tensor, log_odds: torch.Tensor) -> None:
    """x in the plane: N(0, I) with odds exp(log_odds) to one against N(where, I)."""
    x = pyro.sample("x", dist.Normal(torch.zeros_like(where), 100.0).to_event(1))
    first = -0.5 * x.square().sum(-1) + log_odds
    pyro.factor("density", torch.logaddexp(first, -0.5 * (x - where).square().sum(-1)))


def test_the_inverse_curvature_is_that_of_bfgs_from_the_diagonal() -> None:
    """H of the compact form is J BFGS updates, one after the other, of diag(alpha)."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5, 5))
    hessian = A @ A.T + np.eye(5)
    S = rng.normal(size=(5, 3))
    Z = hessian @ S
    alpha = rng.random(5) + 0.5
    H = np.diag(alpha)
    for s, z in zip(S.T, Z.T, strict=True):
        rho = 1 / (s @ z)
        left = np.eye(5) - rho * np.outer(s, z)
        H = left @ H @ left.T + rho * np.outer(s, s)
    np.testing.assert_allclose(room._inverse(alpha, S, Z), H, rtol=1e-10)


def test_the_diagonal_is_that_of_one_update_of_the_curvature() -> None:
    """Of diag(1 / alpha) by BFGS, its diagonal inverted (Gilbert and Lemarechal 1989)."""
    rng = np.random.default_rng(1)
    alpha, s, z = rng.random(4) + 0.5, rng.normal(size=4), rng.normal(size=4)
    z = z * np.sign(s * z)  # s'z > 0
    B = np.diag(1 / alpha)
    scaled = alpha * z  # the inverse curvature takes z for s
    scale = (z @ scaled) / (z @ s)
    update = scale * B + np.outer(z, z) / (z @ s) - scale * np.outer(B @ s, B @ s) / (s @ B @ s)
    np.testing.assert_allclose(room._diagonal(alpha, s, z), 1 / np.diagonal(update))


def test_of_a_normal_every_full_history_gives_it_back() -> None:
    """D = 2 with exact line searches: after two steps BFGS has the curvature of a quadratic."""
    precision = np.array([[3.0, 1.0], [1.0, 2.0]])
    path, curvature = [np.array([4.0, -3.0])], np.eye(2)
    for _ in range(2):
        slope = -precision @ path[-1]
        direction = curvature @ slope
        length = (slope @ direction) / (direction @ precision @ direction)
        path.append(path[-1] + length * direction)
        found = curvatures(path, [-precision @ u for u in path])
        curvature = found[-1][1] @ found[-1][1].T
    mean, factor = found[-1]
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(precision), rtol=1e-8)
    np.testing.assert_allclose(mean, 0.0, atol=1e-8)


def test_a_correlated_normal_is_found_and_trusted() -> None:
    data = {"mean": MEAN, "root": ROOT}
    fit = gb.pathfinder(correlated, data, paths=4, **QUIET)
    assert fit.status.good and fit.notes["paths"] == 4
    assert max(fit.notes["elbo"]) == pytest.approx(0.0, abs=0.3)  # the evidence is 1; of 20 draws
    found = gb.compare({"pathfinder": fit})
    assert found.verdicts["pathfinder"] in (Verdict.TRUST, Verdict.REWEIGHT)
    draws = found.weighted("pathfinder", 4000)["posterior"]["u"].values.reshape(-1, 4)
    sd = np.sqrt(np.diagonal(COVARIANCE))
    np.testing.assert_allclose((draws.mean(0) - MEAN) / sd, 0.0, atol=0.1)
    np.testing.assert_allclose(draws.std(0) / sd, 1.0, atol=0.1)


@pytest.mark.parametrize("odds", [1.0, 4.0])
def test_two_modes_have_their_shares(odds: float) -> None:
    data = {"where": np.array([9.0, 0.0]), "log_odds": np.array(math.log(odds))}
    fit = gb.pathfinder(two_bumps, data, paths=10, seed=1, **QUIET)
    x = fit.posterior(20_000, seed=2)["posterior"]["x"].values[0]
    share = odds / (1 + odds)
    assert (x[:, 0] < 4.5).mean() == pytest.approx(share, abs=0.05)
    assert gb.compare({"pathfinder": fit}).verdicts["pathfinder"] is not Verdict.REJECT


def test_the_seed_alone_decides() -> None:
    data = {"mean": MEAN, "root": ROOT}
    one, same, other = (
        gb.pathfinder(correlated, data, paths=3, seed=seed, **QUIET) for seed in (3, 3, 4)
    )
    assert one.notes == same.notes and one.notes != other.notes


def test_it_is_saved_and_loaded(tmp_path: Any) -> None:
    data = {"mean": MEAN, "root": ROOT}
    fit = gb.pathfinder(correlated, data, paths=3, **QUIET)
    fit.save(tmp_path / "fit.nc")
    again = gb.load(tmp_path / "fit.nc", model=correlated, data=data)
    one, other = (f.posterior(50, seed=1)["posterior"]["u"].values for f in (fit, again))
    np.testing.assert_array_equal(one, other)


def test_a_path_that_finds_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"mean": MEAN, "root": ROOT}
    best, calls = room._best, iter(range(100))
    monkeypatch.setattr(room, "_best", lambda *a: best(*a) if next(calls) else None)
    fit = gb.pathfinder(correlated, data, paths=3, **QUIET)
    assert fit.notes["paths"] == 2 and len(fit.guide.log_shares) == 3
    assert float(fit.guide.log_shares[2]) == -1e4
    monkeypatch.setattr(room, "_best", lambda *_: None)
    with pytest.warns(UserWarning, match="mode"):
        none = gb.pathfinder(correlated, data, paths=2, **QUIET)
    assert not none.status.good and none.notes["paths"] == 0


@pytest.mark.parametrize("wrong", [{"paths": 0}, {"elbo_draws": 1}, {"paths": 2.5}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        gb.pathfinder(correlated, {"mean": MEAN, "root": ROOT}, **{**QUIET, **wrong})


def test_discrete_sites_are_refused() -> None:
    def model(y: torch.Tensor) -> None:
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(k, 1.0), obs=y)

    with pytest.raises(ModelError):
        gb.pathfinder(model, {"y": np.array(0.3)}, **QUIET)
