"""Gibbs sweeps of a Gaussian mean and precision."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from guidebook.errors import DataError
from guidebook.guides.conjugate import gaussian_mean as gaussian_mean_module
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from tests.guides.conjugate.gaussian_mean.story import DATA, PRIOR, marginals


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def assert_is_the_posterior(state):
    # mu, tau, and lambda_n tau (mu - m_n)^2 ~ chi^2(1) independent of tau: four tests at 1e-5.
    q = NormalGammaPosterior(**PRIOR).posterior(DATA["x"])
    mu, tau = marginals()
    square = (q.strength * state["tau"] * (state["mu"] - q.loc) ** 2).numpy()
    assert stats.kstest(state["mu"].numpy(), mu.cdf).pvalue > 1e-5
    assert stats.kstest(state["tau"].numpy(), tau.cdf).pvalue > 1e-5
    assert stats.kstest(square, stats.chi2(1).cdf).pvalue > 1e-5
    assert stats.spearmanr(square, state["tau"].numpy()).pvalue > 1e-5


def test_a_gibbs_sweep_leaves_the_posterior_as_it_is():
    q = NormalGammaPosterior(**PRIOR).posterior(DATA["x"])
    tau = dist.Gamma(q.shape, q.rate).sample((20_000,))
    state = {"mu": dist.Normal(q.loc, (q.strength * tau).rsqrt()).sample(), "tau": tau}
    guide = GaussianMeanField(**PRIOR)
    assert_is_the_posterior(state)
    swept = guide.sweep(state, DATA, torch.Generator().manual_seed(0))
    assert swept.keys() == set(guide.sites) and not torch.equal(swept["tau"], tau)
    assert_is_the_posterior(swept)


def test_gibbs_from_the_prior_reaches_the_posterior():
    # The dependence on the start shrinks by about 1 / (2 a_n + 1) a sweep: 10 are plenty.
    guide, generator = GaussianMeanField(**PRIOR), torch.Generator().manual_seed(1)
    state = guide.initial(DATA, 20_000, generator)
    prior = stats.gamma(PRIOR["shape"], scale=1 / PRIOR["rate"])
    assert stats.kstest(state["tau"].numpy(), prior.cdf).pvalue > 1e-5
    square = PRIOR["strength"] * state["tau"] * (state["mu"] - PRIOR["loc"]) ** 2
    assert stats.kstest(square.numpy(), stats.chi2(1).cdf).pvalue > 1e-5
    for _ in range(10):
        state = guide.sweep(state, DATA, generator)
    assert_is_the_posterior(state)


def test_the_generator_alone_decides_the_draws():
    guide, runs = GaussianMeanField(), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        state = guide.initial(DATA, 3, generator)
        runs.append(guide.sweep(state, DATA, generator))
        torch.randn(5)  # torch's own generator moves between the runs
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in ("mu", "tau"))
    with pytest.raises(DataError, match="data must hold all rows"):
        guide.initial({}, 3, torch.Generator())


def test_gibbs_of_single_precision_rows_is_in_double_precision():
    guide, data = GaussianMeanField(**PRIOR), {"x": DATA["x"].float()}
    state = guide.initial(data, 3, torch.Generator().manual_seed(0))
    swept = guide.sweep(state, data, torch.Generator().manual_seed(0))
    for value in (*state.values(), *swept.values()):
        assert value.dtype is torch.float64 and value.shape == (3,)


def test_gibbs_begins_at_draws_of_the_prior_in_the_precision_of_the_data() -> None:
    """mu = loc + e / sqrt(strength tau), e the numbers that the generator gives after those of tau."""
    guide = GaussianMeanField(loc=1.5, strength=0.5, shape=3.0, rate=2.0)
    x = torch.zeros(4, dtype=torch.float64)
    found = guide.initial({"x": x}, 3, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    tau = gaussian_mean_module._gamma(x.new_full((3,), 3.0), x.new_full((), 2.0), generator)
    noise = torch.randn(3, generator=generator, dtype=torch.float64)
    assert torch.equal(found["tau"], tau)
    torch.testing.assert_close(found["mu"], 1.5 + noise / (0.5 * tau).sqrt(), rtol=1e-14, atol=0)


def test_a_sweep_draws_mu_with_the_generators_own_doubles() -> None:
    guide = GaussianMeanField()
    x = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
    tau = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = guide.sweep({"tau": tau}, {"x": x}, torch.Generator().manual_seed(3))
    exact = guide.posterior(x)
    noise = torch.randn(2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = exact.loc + noise / (exact.strength * tau).sqrt()
    torch.testing.assert_close(found["mu"], expected, rtol=1e-14, atol=0)
