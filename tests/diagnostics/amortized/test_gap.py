"""The gap ledger: every term against its closed form on a linear decoder, and by quadrature."""

import math
import tracemalloc

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import guidebook as gb
from guidebook.diagnostics.amortized import rows as latent_rows
from guidebook.diagnostics.amortized.gap import gap_ledger, importance_bound
from guidebook.errors import GuideError, SettingError
from guidebook.guides import AmortizedNormal, LinearGaussianPosterior, encoder_width
from guidebook.models import VAE, LinearVAE

N, P, D = 40, 6, 3


@pytest.fixture(scope="module")
def linear():
    """A linear decoder whose posterior is correlated: the maximum-likelihood one, turned."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator) @ torch.randn(D, P, generator=generator)
    x = (x + 0.5 * torch.randn(N, P, generator=generator)).double()
    model = LinearVAE.maximum_likelihood(x, D).double().requires_grad_(False)
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=generator).double())
    with torch.no_grad():
        model.weight.copy_(model.weight @ turn)
    return model, x


def fitted(model, x, covariance):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = torch.nn.Linear(P, encoder_width(D, covariance))
        guide = AmortizedNormal(encoder, D, covariance=covariance).double()
    return gb.svi(model, guide, {"x": x}, steps=400, compile="graph", progress=False)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_every_term_is_the_closed_form(linear, covariance) -> None:
    model, x = linear
    fit = fitted(model, x, covariance)
    exact = LinearGaussianPosterior(fit.model)
    found = gap_ledger(fit, rows=N, seed=1)
    posterior = exact.posterior(x)
    evidence = exact.log_evidence(x)
    inverse = torch.linalg.inv(posterior.covariance_matrix)
    # the best diagonal normal has the precisions of the posterior's diagonal
    diagonal = inverse.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    approximation = 0.5 * (diagonal - inverse.logdet()) if covariance == "diagonal" else 0.0
    approximation = torch.as_tensor(approximation).expand(N).double()
    if covariance == "diagonal":
        assert float(approximation.mean()) > 0.1
    q = fit.guide.posterior(x)
    q = MultivariateNormal(q.mean, torch.diag_embed(q.variance)) if covariance == "diagonal" else q
    elbo = (evidence - kl_divergence(q, posterior)).detach()
    best = evidence - approximation
    assert found.family == f"{covariance} normal"
    for name, truth in (("elbo", elbo), ("best_elbo", best), ("amortisation", best - elbo)):
        value, error = getattr(found, name), getattr(found, f"{name}_se")
        # the search ends within a few hundredths; 40 z-scores of 500 pairs, false alarm 1e-4
        z = (value - truth.detach().numpy()) / np.hypot(error, 0.01)
        assert np.square(z).sum() < chi2.isf(1e-4, N), name
    # annealing: the delta method's errors are of few chains, so they may be half too small
    off = (found.evidence - evidence.detach().numpy()) / np.hypot(found.sandwich.error, 0.005)
    assert np.square(off / 1.5).sum() < chi2.isf(1e-4, N)
    terms = found.terms()
    # false alarm 1e-5 each
    for name, truth in (("evidence", evidence), ("approximation", approximation)):
        off = terms[name].value - float(truth.mean())
        assert abs(off) < 4.5 * terms[name].se + 0.005, name
        assert terms[name].se < 0.05, name
    parts = terms["elbo"].value + terms["amortisation"].value + terms["approximation"].value
    assert parts == pytest.approx(terms["evidence"].value, abs=1e-9)
    assert "amortisation gap" in found.sentence()


def test_the_exact_posterior_has_no_gaps(linear) -> None:
    model, x = linear
    guide = LinearGaussianPosterior(model)
    found = gap_ledger(gb.exact(model, guide, {"x": x}), rows=10, steps=30)
    evidence = guide.log_evidence(x).detach().numpy()[found.rows]
    for value in (found.elbo, found.bound):
        np.testing.assert_allclose(value, evidence, atol=1e-6)
    # Adam steps away from where it starts, and a short search is not quite back
    np.testing.assert_allclose(found.evidence, evidence, atol=0.02)
    assert np.abs(found.amortisation).max() < 0.02


def test_a_nonlinear_decoder_against_quadrature() -> None:
    """The best normal by a direct search on a grid, and the evidence, of three rows."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = (
            VAE(2, 1, (8,), likelihood="gaussian", scale=0.4).double().requires_grad_(False).eval()
        )
        for p in model.decoder.parameters():
            p.mul_(2.0)
        guide = AmortizedNormal(torch.nn.Linear(2, 2), 1).double()
        x = model(size=3).detach()
    fit = gb.svi(model, guide, {"x": x}, steps=200, compile="graph", progress=False)
    found = gap_ledger(fit, rows=3, chains=64, seed=4)
    z = torch.linspace(-6, 6, 2001).double()
    width = float(z[1] - z[0])
    log_joint = Normal(model.decode(z[:, None]), 0.4).log_prob(x[:, None]).sum(-1)
    log_joint = log_joint + Normal(0.0, 1.0).log_prob(z)
    evidence = (log_joint.logsumexp(1) + math.log(width)).numpy()
    means, sds = torch.linspace(-3, 3, 121).double(), torch.logspace(-1.6, 0.3, 60).double()
    weight = Normal(means[:, None, None], sds[None, :, None]).log_prob(z).exp() * width
    entropy = 0.5 + 0.5 * math.log(2 * math.pi) + sds.log()
    elbo = torch.einsum("msz,nz->nms", weight, log_joint) + entropy
    inside = weight.sum(-1) > 0.999  # narrow ones fall between the points of the grid
    best = torch.where(inside & (sds > 5 * width), elbo, -torch.inf).amax((1, 2)).numpy()
    assert (np.abs(found.evidence - evidence) < 5 * found.sandwich.error + 0.01).all()
    assert (found.best_elbo < best + 4 * found.best_elbo_se + 0.01).all()
    assert (found.best_elbo > best - 4 * found.best_elbo_se - 0.05).all()
    q = fit.guide.posterior(x)
    own = Normal(q.mean, q.variance.sqrt())
    at = own.log_prob(z[:, None, None]).squeeze(-1).mT.exp() * width
    expected = (at * log_joint).sum(1) + own.entropy().squeeze(-1)
    assert (np.abs(found.elbo - expected.detach().numpy()) < 5 * found.elbo_se + 0.01).all()


def test_the_bound_streams(linear, monkeypatch) -> None:
    model, x = linear
    fit = fitted(model, x, "diagonal")
    seen: list[int] = []
    original = latent_rows.row_terms

    def counted(fit, x, z, latents):
        seen.append(len(z))
        return original(fit, x, z, latents)

    monkeypatch.setattr(latent_rows, "row_terms", counted)
    whole, error = importance_bound(fit, x, draws=1500, seed=3)
    assert max(seen) <= 20_000
    seen.clear()
    tracemalloc.start()
    pieces, _ = importance_bound(fit, x, draws=1500, at_once=7000, seed=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(seen) <= 7000 and sum(seen) == 1500 * N
    assert peak < 50_000_000
    np.testing.assert_allclose(pieces, whole, rtol=1e-12)
    assert (error > 0).all()
    with pytest.raises(SettingError, match="at_once=0"):
        importance_bound(fit, x, at_once=0)


def test_the_bound_is_log_mean_w_and_its_error() -> None:
    """x | z ~ N(z, 1), z ~ N(0, 1), q = N(0, 1): w = N(x; z, 1), with moments in closed form."""
    model = LinearVAE(1, 1).double().requires_grad_(False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
        model.log_scale.zero_()

    class Prior(AmortizedNormal):
        def posterior(self, x):
            return dist.Normal(torch.zeros_like(x), 1.0).to_event(1)

    guide = Prior(torch.nn.Linear(1, 2), 1).double()
    x = torch.tensor([[0.0], [0.5], [-1.0]]).double()
    with pytest.warns(UserWarning, match="collapsed"):  # q is the prior, as it was made to be
        fit = gb.svi(model, guide, {"x": x}, steps=2, compile="graph", progress=False)
    value, error = importance_bound(fit, x, draws=20_000, seed=0)
    first = Normal(0.0, math.sqrt(2)).log_prob(x).squeeze(-1).exp()
    # E w^2 = N(x; 0, 3/2) / (2 sqrt(pi)): the square of a unit normal density is half as wide
    second = Normal(0.0, math.sqrt(1.5)).log_prob(x).squeeze(-1).exp() / (2 * math.sqrt(math.pi))
    expected = ((second / first**2 - 1) / 20_000).sqrt().numpy()
    np.testing.assert_allclose(error, expected, rtol=0.05)
    assert (np.abs(value - first.log().numpy()) < 4.5 * expected).all()


def test_other_guides_are_told() -> None:
    model, guide = gb.models.eight_schools, None
    data = gb.datasets.eight_schools()
    guide = gb.guides.mean_field(model)
    fit = gb.svi(model, guide, data, steps=20, compile="graph", progress=False)
    with pytest.raises(GuideError, match="AmortizedNormal"):
        gap_ledger(fit)
