"""Rows in chunks and on disk, seeds, starts and precision of EM."""

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook import Status
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.inference.em import em
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE
from tests.inference.em.fitted import DIGITS, IRIS, WINE, both, fitted, noise_of


@both
def test_chunks_of_rows_give_what_all_rows_give(kind):
    fits = [fitted(kind, DIGITS, 3, iterations=15, chunk=c) for c in (100, 5000)]
    np.testing.assert_allclose(fits[0].history, fits[1].history, rtol=1e-12)
    for one, other in zip(fits[0].model.parameters(), fits[1].model.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=0, atol=1e-10)


def test_a_read_only_memory_map_streams(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, DIGITS.astype(np.float32))  # whole numbers: nothing is rounded
    mapped = np.load(path, mmap_mode="r")
    settings = {"iterations": 10, "chunk": 256, "progress": False}
    torch.manual_seed(0)
    model = FactorAnalysis(DIGITS.shape[1], 3).double()
    fit = em(model, FactorPosterior(model), {"x": mapped}, **settings)
    np.testing.assert_allclose(
        fit.history, fitted(FactorAnalysis, DIGITS, 3, iterations=10).history, rtol=1e-12
    )
    assert fit.posterior(2)["posterior"]["z"].shape == (1, 2, *DIGITS.shape[:1], 3)


def test_more_rows_than_the_start_takes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120_000, 1)) * [1.0, 2.0, 3.0] + rng.normal(size=(120_000, 3)) + 5
    fit = fitted(FactorAnalysis, x, 1, iterations=500)
    # factor analysis of three columns with one factor fits the covariance: S = W W' + Psi
    W = fit.model.weight.detach().numpy()
    found, S = W @ W.T + np.diag(noise_of(fit)), np.cov(x.T, ddof=0)
    assert fit.status is Status.CONVERGED
    np.testing.assert_allclose(found, S, rtol=0, atol=5e-3 * S.max())
    np.testing.assert_allclose(fit.model.bias.detach(), x.mean(0), rtol=0, atol=1e-3)


def test_the_seed_alone_decides_and_nothing_given_is_changed():
    torch.manual_seed(3)
    model = FactorAnalysis(13, 2)
    guide = FactorPosterior(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    first = em(model, guide, {"x": WINE}, seed=4, iterations=20, progress=False)
    torch.manual_seed(99)
    again = em(model, guide, {"x": WINE}, seed=4, iterations=20, progress=False)
    other = em(model, guide, {"x": WINE}, seed=5, iterations=20, progress=False)
    np.testing.assert_array_equal(first.history, again.history)
    assert first.history[0] != other.history[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    torch.manual_seed(3)
    FactorAnalysis(13, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_best_of_several_starts_is_kept():
    fit = fitted(FactorAnalysis, IRIS, 1, restarts=4, iterations=5)
    objectives = fit.notes["restarts_objective"]
    assert len(objectives) == fit.notes["restarts"] == 4 and len(set(objectives)) == 4
    assert fit.history[-1] == min(objectives)
    assert objectives[0] == fitted(FactorAnalysis, IRIS, 1, iterations=5).history[-1]


def test_a_single_precision_model_stays_one_and_em_does_not():
    torch.manual_seed(0)
    model = LinearVAE(4, 2)
    fit = em(model, FactorPosterior(model), {"x": IRIS}, tolerance=1e-12, progress=False)
    assert fit.model.weight.dtype is torch.float32
    double = fitted(LinearVAE, IRIS, 2, tolerance=1e-12)
    assert fit.notes["log_likelihood"] == pytest.approx(double.notes["log_likelihood"], abs=1e-8)
    exact = gb.exact(fit.model, fit.guide, {"x": IRIS})
    assert exact.notes["log_evidence"] == pytest.approx(fit.notes["log_likelihood"], rel=1e-5)


def test_a_fit_gives_draws_and_loads_again(tmp_path):
    fit = fitted(FactorAnalysis, IRIS, 1, iterations=30)
    tree = fit.posterior(50, seed=1)
    assert tree["posterior"]["z"].shape == (1, 50, 150, 1)
    weights = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values
    np.testing.assert_allclose(weights, -fit.history[-1], rtol=1e-9)  # exact: no variance
    assert len(tree["vi_fit"]["objective"]) == 31
    model = FactorAnalysis(4, 1).double()
    path = fit.save(tmp_path / "fit")
    again = gb.load(path, model=model, guide=FactorPosterior(model), data={"x": IRIS})
    assert again.notes == fit.notes and again.engine == "em"
