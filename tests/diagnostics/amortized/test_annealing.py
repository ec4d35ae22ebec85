"""Annealing from both ends: against the closed evidence of linear decoders, and quadrature."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.stats import chi2

import guidebook as gb
from guidebook.diagnostics.amortized.annealing import (
    annealed_evidence,
    annealed_from_prior,
    evidence_from_prior,
)
from guidebook.diagnostics.amortized.rows import latents_of
from guidebook.errors import SettingError
from guidebook.guides import AmortizedNormal, LinearGaussianPosterior
from guidebook.inference.fits.fit import Fit
from guidebook.models import VAE, LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.graphs.recorded import recording
from guidebook.scope import local_parameters


@pytest.fixture(scope="module")
def linear() -> tuple[Fit, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator) @ torch.randn(3, 6, generator=generator)
    x = (x + 0.5 * torch.randn(30, 6, generator=generator)).double()
    model = LinearVAE.maximum_likelihood(x, 3).double().requires_grad_(False)
    guide = LinearGaussianPosterior(model)
    return gb.exact(model, guide, {"x": x}), guide.log_evidence(x).detach()


def standard(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(n, d).double(), torch.eye(d).double().expand(n, d, d).clone()


def test_from_the_prior_both_ends_meet_at_the_evidence(linear) -> None:
    fit, evidence = linear
    x = fit.data["x"]
    exact = fit.guide.posterior(x).sample()
    found = annealed_evidence(
        fit, x, *standard(30, 3), exact=exact, temperatures=150, chains=32, seed=1
    )
    assert found.exact_start
    # log mean w is off by a normal error: 30 squared z-scores, false alarm 1e-4, and the delta
    # method's error of 32 weights may be a third too small
    for value, error in ((found.lower, found.lower_se), (found.upper, found.upper_se)):
        z = (value - evidence.numpy()) / np.hypot(error, 1e-4)
        assert np.square(z / 1.5).sum() < chi2.isf(1e-4, 30)
    assert np.abs(found.middle - evidence.numpy()).mean() < 0.1
    assert (found.acceptance > 0.4).all()


def test_a_start_at_the_posterior_has_no_error(linear) -> None:
    fit, evidence = linear
    q = fit.guide.posterior(fit.data["x"])
    tril = q.scale_tril.expand(30, 3, 3).clone()
    found = annealed_evidence(fit, fit.data["x"], q.mean, tril, temperatures=5, chains=4)
    np.testing.assert_allclose(found.lower, evidence, atol=1e-6)
    np.testing.assert_allclose(found.upper, evidence, atol=1e-6)


def test_a_nonlinear_decoder_against_quadrature() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = (
            VAE(3, 1, (8,), likelihood="gaussian", scale=0.2).double().requires_grad_(False).eval()
        )
        for p in model.decoder.parameters():
            p.mul_(2.0)
        guide = AmortizedNormal(torch.nn.Linear(3, 2), 1).double()
        x = model(size=20).detach()
    fit = gb.svi(model, guide, {"x": x}, steps=5, compile="graph", progress=False)
    grid = torch.linspace(-8, 8, 8001).double().unsqueeze(-1)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(grid.squeeze(-1))
    likelihood = torch.distributions.Normal(model.decode(grid), 0.2)
    table = likelihood.log_prob(x.unsqueeze(1)).sum(-1) + log_p
    evidence = (table.logsumexp(1) + torch.log(grid[1, 0] - grid[0, 0])).numpy()
    found = annealed_evidence(fit, x, *standard(20, 1), temperatures=150, chains=48, seed=2)
    assert not found.exact_start
    # twenty rows at five standard errors, the delta method's: false alarm below 1e-3
    assert (np.abs(found.lower - evidence) < 5 * found.lower_se + 0.02).all()
    error = np.sqrt(np.square(found.error).sum()) / 20
    assert abs((found.middle - evidence).mean()) < 4 * error and error < 0.1


def test_the_same_seed_gives_the_same_numbers_and_settings_are_checked(linear) -> None:
    fit, _ = linear
    x = fit.data["x"][:4]
    one, two = (
        annealed_evidence(fit, x, *standard(4, 3), temperatures=8, chains=3, seed=7)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.lower, two.lower)
    np.testing.assert_array_equal(one.upper, two.upper)
    with pytest.raises(SettingError, match="temperatures=1"):
        annealed_evidence(fit, x, *standard(4, 3), temperatures=1)


def test_chains_from_the_prior_end_in_both_branches_in_proportion() -> None:
    """z ~ N(0, 1), x | z ~ N(z^2 + z / 2, 0.3^2): two uneven branches a row; moments by quadrature."""

    def model(x: torch.Tensor, size: int | None = None) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.square() + z / 2, 0.3).to_event(1), obs=x)

    guide = AmortizedNormal(mlp((1, 4, 2)), 1)
    x = torch.tensor([[1.0], [2.0], [3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained encoder need not use its latent
        fit = gb.svi(model, guide, {"x": x}, steps=2, compile="graph", progress=False)
    with local_parameters(), torch.no_grad(), recording():
        latents = latents_of(fit, x)
    z, log_w, known, *_ = annealed_from_prior(fit, x, latents, chains=1000, temperatures=60, seed=0)
    assert z.shape == (1000, 3, 1) and log_w.shape == (1000, 3) and not known.any()
    fine = annealed_from_prior(fit, x, latents, chains=32, temperatures=40, seed=0, draws=4000)
    assert fine.z.shape == (4000, 3, 1) and fine.known.all()
    value, value_se, whole = evidence_from_prior(fit, x, seed=1)
    assert whole.all() and (value_se < 0.02).all()
    line = np.linspace(-6, 6, 12_001)
    pairs = ((z, log_w), (fine.z, fine.log_w))
    for row, place in enumerate(x[:, 0].tolist()):
        p = stats.norm.pdf(line) * stats.norm.pdf(place, line**2 + line / 2, 0.3)
        evidence = math.log(p.sum() * (line[1] - line[0]))
        p /= p.sum()
        mean = p @ line
        sd = math.sqrt(p @ np.square(line - mean))
        assert abs(value[row] - evidence) < 5 * value_se[row]
        for ends, logs in pairs:
            w = (logs[:, row] - logs[:, row].max()).exp().numpy()
            found = float(logs[:, row].max()) + math.log(w.mean())
            w /= w.sum()
            error = math.sqrt(np.square(w).sum())
            assert abs(found - evidence) < 5 * error
            z_of = ends[:, row, 0].double().numpy()
            assert abs(w @ z_of - mean) < 5 * error * sd
            assert abs(w @ (z_of > 0) - p[line > 0].sum()) < 5 * error * 0.5
