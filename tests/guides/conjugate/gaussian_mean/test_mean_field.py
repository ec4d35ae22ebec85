"""Mean field of a Gaussian mean and precision, against quadrature and Pyro."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import special, stats

import guidebook as gb
from guidebook.errors import GuideError
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from tests.guides.conjugate.gaussian_mean.story import DATA, PRIOR, X, log_joint, marginals, story


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def elbo_by_quadrature(guide):
    """E_q[log p - log q] with SciPy's densities, Gauss-Hermite in mu, Gauss-Laguerre in tau."""
    m, v, a, b = (float(getattr(guide, f"q_{n}")) for n in ("loc", "variance", "shape", "rate"))
    at_mu, of_mu = special.roots_hermitenorm(40)
    at_tau, of_tau = special.roots_genlaguerre(60, a - 1)
    mu, tau = m + math.sqrt(v) * at_mu[:, None], at_tau[None, :] / b
    weights = of_mu[:, None] / of_mu.sum() * of_tau[None, :] / of_tau.sum()
    log_q = stats.norm(m, math.sqrt(v)).logpdf(mu) + stats.gamma(a, scale=1 / b).logpdf(tau)
    mu, tau = np.broadcast_arrays(mu, tau)
    return float((weights * (log_joint(mu, tau) - log_q)).sum())


def test_every_elbo_is_that_of_quadrature_and_none_falls():
    guide = GaussianMeanField(**PRIOR)
    first = guide.elbo(DATA).item()  # q is the prior's
    elbos = [first]
    for elbo in itertools.islice(guide.coordinate_updates(DATA), 6):
        assert elbo.item() == pytest.approx(elbo_by_quadrature(guide), abs=1e-7)
        assert elbo.item() == pytest.approx(guide.elbo(DATA).item(), abs=1e-12)
        elbos.append(elbo.item())
    assert np.diff(elbos).min() > -1e-12 and elbos[-1] > first + 1
    evidence = NormalGammaPosterior(**PRIOR).log_evidence(DATA["x"]).item()
    assert evidence - 0.1 < elbos[-1] < evidence


def test_the_elbo_is_that_of_pyro():
    # 1,000 draws: within five standard errors, false alarm below 1e-6, fixed seed.
    guide = GaussianMeanField(**PRIOR)
    elbo = guide.solve(DATA).item()
    weights = []
    with torch.no_grad():
        for _ in range(1000):
            drawn = poutine.trace(guide).get_trace(**DATA)
            joint = poutine.trace(poutine.replay(story, drawn)).get_trace(**DATA)
            weights.append((joint.log_prob_sum() - drawn.log_prob_sum()).item())
    error = np.std(weights, ddof=1) / math.sqrt(len(weights))
    assert abs(np.mean(weights) - elbo) < 5 * error < 0.1


def test_coordinate_ascent_ends_at_the_fixed_point_which_is_a_maximum():
    climbed, solved = GaussianMeanField(**PRIOR), GaussianMeanField(**PRIOR)
    *_, elbo = itertools.islice(climbed.coordinate_updates(DATA), 60)
    assert solved.solve(DATA).item() == pytest.approx(elbo.item(), abs=1e-12)
    for name, value in climbed.named_buffers():
        assert getattr(solved, name).item() == pytest.approx(value.item(), rel=1e-12)
    for name in ("q_loc", "q_variance", "q_shape", "q_rate"):
        setattr(solved, name, getattr(solved, name).clone().requires_grad_())
    found = torch.autograd.grad(solved.elbo(DATA), list(dict(solved.named_buffers()).values()))
    assert len(found) == 4
    for gradient in found:
        assert abs(gradient.item()) < 1e-10


def test_means_are_exact_and_variances_too_small_by_the_stated_factors():
    guide = GaussianMeanField(**PRIOR)
    guide.solve(DATA)
    mu, tau = marginals()
    a = NormalGammaPosterior(**PRIOR).posterior(DATA["x"]).shape.item()
    assert guide.q_loc.item() == pytest.approx(mu.mean(), rel=1e-12)
    assert (guide.q_shape / guide.q_rate).item() == pytest.approx(tau.mean(), rel=1e-12)
    assert guide.q_variance.item() == pytest.approx(mu.var() * (a - 1) / a, rel=1e-12)
    variance = (guide.q_shape / guide.q_rate**2).item()
    assert variance == pytest.approx(tau.var() * a / (a + 0.5), rel=1e-12)


def test_the_mean_field_guide_is_refused_as_exact_and_keeps_its_state():
    guide = GaussianMeanField(**PRIOR)
    guide.solve(DATA)
    with pytest.raises(GuideError, match="not the posterior"):
        gb.exact(story, guide, {"x": X})
    other = GaussianMeanField(**PRIOR)
    other.load_state_dict(guide.state_dict())
    assert other.elbo(DATA).item() == guide.elbo(DATA).item()
    drawn = other(torch.zeros(3))  # single precision rows, whatever they hold
    assert drawn["mu"].dtype is torch.float32 and list(other.parameters()) == []


def test_draws_of_the_factorised_guide_have_the_density_of_its_buffers():
    guide = GaussianMeanField(**PRIOR)
    guide.solve(DATA)
    trace = poutine.trace(guide).get_trace(**DATA)
    mu, tau = (trace.nodes[n]["value"].item() for n in ("mu", "tau"))
    expected = stats.norm(guide.q_loc.item(), guide.q_variance.sqrt().item()).logpdf(mu)
    expected += stats.gamma(guide.q_shape.item(), scale=1 / guide.q_rate.item()).logpdf(tau)
    assert trace.log_prob_sum().item() == pytest.approx(expected, abs=1e-10)
