"""Coordinate ascent: no sweep lowers the ELBO, and it ends at a fixed point."""

import numpy as np
import pyro
import pytest
import torch

from guidebook import Status
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.inference.cavi import cavi
from tests.inference.cavi.clusters import COVARIANCES, clusters, fitted, mixture


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def assert_same_q(one, other, tolerance):
    for name, value in one.guide.natural.items():
        torch.testing.assert_close(other.guide.natural[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("apart", [0.5, 4.0])
def test_no_sweep_lowers_the_elbo(covariance, apart):
    fit = fitted(mixture(covariance), clusters(apart=apart), tolerance=1e-12)
    rises = -np.diff(fit.history)
    assert fit.status is Status.CONVERGED and len(rises) == fit.notes["sweeps"] >= 2
    assert rises.min() >= -1e-10 * abs(fit.history[-1])
    assert fit.history[0] - fit.history[-1] > 1e-4


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_it_ends_at_a_fixed_point_and_at_a_stationary_elbo(covariance, concentration):
    x = clusters()
    fit = fitted(mixture(covariance, concentration=concentration), x, tolerance=0.0, sweeps=400)
    guide, rows = fit.guide, torch.from_numpy(x)
    _, message = guide.local(rows, guide.expected(guide.natural))
    for name, value in guide.prior.items():
        torch.testing.assert_close(value + message[name], guide.natural[name], rtol=1e-6, atol=1e-6)


def test_every_restart_reports_where_it_ended_and_the_best_is_kept():
    x = clusters(K=5, n=50, apart=1.5)
    model = mixture("diagonal", K=5)
    fit = fitted(model, x, restarts=4, seed=3)
    ends = fit.notes["restarts_objective"]
    assert len(ends) == 4 and fit.history[-1] == min(ends)
    alone = [fitted(model, x, seed=3 + i).history[-1] for i in range(4)]
    assert ends == pytest.approx(alone, rel=1e-12)


def test_the_seed_alone_decides():
    x, model = clusters(apart=1.0), mixture("full")
    pyro.set_rng_seed(1)
    first = fitted(model, x, seed=5)
    pyro.set_rng_seed(2)
    before = torch.get_rng_state()
    assert np.array_equal(fitted(model, x, seed=5).history, first.history)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_passed_in_stays_as_it_is():
    x, model = clusters(), mixture("full")
    guide, kept = MixtureMeanField(model), clusters()
    before = {n: v.clone() for n, v in guide.state_dict().items()}
    cavi(model, guide, {"x": x}, progress=False)
    assert np.array_equal(x, kept)
    assert all(torch.equal(v, before[n]) for n, v in guide.state_dict().items())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_chunks_give_what_the_whole_gives(covariance, tmp_path):
    x, model = clusters(), mixture(covariance)
    whole = fitted(model, x, chunk=1000)
    pieces = fitted(model, x, chunk=7)
    np.testing.assert_allclose(pieces.history, whole.history, rtol=1e-10)
    assert_same_q(whole, pieces, 1e-10)
    np.save(tmp_path / "x.npy", x)
    mapped = fitted(model, np.load(tmp_path / "x.npy", mmap_mode="r"), chunk=7)
    assert_same_q(pieces, mapped, 1e-12)


def test_too_few_sweeps_are_said():
    fit = fitted(mixture("full"), clusters(apart=1.0), sweeps=1)
    assert fit.status is Status.STILL_MOVING and len(fit.history) == 2
