"""Normal mean and precision: model, posterior, mean field and Gibbs against SciPy and quadrature."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import special, stats

import guidebook as gb
from guidebook.errors import DataError, GuideError, ModelError, SettingError
from guidebook.guides.conjugate import gaussian_mean as gaussian_mean_module
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.models.gaussian_mean import gaussian_mean

PRIOR = {"loc": 0.5, "strength": 0.7, "shape": 2.5, "rate": 1.3}
X = 1.5 + 0.8 * np.random.default_rng(0).normal(size=12)
DATA = {"x": torch.from_numpy(X)}


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def story(x=None, size=None):
    return gaussian_mean(x, size, **PRIOR)


def log_joint(mu, tau, x=X):
    """By SciPy; mu and tau may be arrays."""
    mu, tau = np.asarray(mu), np.asarray(tau)
    of_tau = stats.gamma(PRIOR["shape"], scale=1 / PRIOR["rate"]).logpdf(tau)
    of_mu = stats.norm(PRIOR["loc"], 1 / np.sqrt(PRIOR["strength"] * tau)).logpdf(mu)
    of_x = stats.norm(mu[..., None], 1 / np.sqrt(tau[..., None])).logpdf(x).sum(-1)
    return of_tau + of_mu + of_x


def marginals():
    """The exact posterior of mu (Student t) and of tau."""
    q = NormalGammaPosterior(**PRIOR).posterior(DATA["x"])
    spread = math.sqrt(q.rate / (q.strength * q.shape))
    return stats.t(2 * q.shape.item(), loc=q.loc.item(), scale=spread), stats.gamma(
        q.shape.item(), scale=1 / q.rate.item()
    )


# the model --------------------------------------------------------------------------------------


def scored(mu, tau, **data):
    values = {n: torch.as_tensor(v, dtype=torch.float64) for n, v in (("mu", mu), ("tau", tau))}
    return poutine.trace(poutine.condition(story, values)).get_trace(**data).log_prob_sum()


def test_log_joint_is_the_equation_in_the_docstring():
    assert scored(0.3, 2.0, **DATA).item() == pytest.approx(log_joint(0.3, 2.0), abs=1e-10)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_average_over_mini_batches_is_the_full_log_joint(batch):
    parts = [scored(0.3, 2.0, x=piece, size=12) for piece in DATA["x"].split(batch)]
    assert torch.stack(parts).mean().item() == pytest.approx(log_joint(0.3, 2.0), abs=1e-10)


def test_log_joint_in_vmap_and_in_vectorised_particles():
    mu, tau = torch.randn(5).double(), torch.rand(5).double() + 0.5
    expected = log_joint(mu.numpy(), tau.numpy())
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda m, t: scored(m, t, **DATA))(mu, tau)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    def vectorised():
        with pyro.plate("particle", 5, dim=-2):
            story(**DATA)

    values = {"mu": mu.unsqueeze(1), "tau": tau.unsqueeze(1)}
    trace = poutine.trace(poutine.condition(vectorised, values)).get_trace()
    trace.compute_log_prob()
    total = sum(trace.nodes[n]["log_prob"].sum(-1) for n in ("tau", "mu", "x"))
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_prior_predictive_rows_are_student_t():
    # x ~ t with 2 a degrees of freedom, scale^2 = b / a (1 + 1 / strength). At 1e-5, fixed seed.
    with torch.no_grad():
        drawn = np.array([story(size=3)[2].item() for _ in range(3000)])
    a, b, k = PRIOR["shape"], PRIOR["rate"], PRIOR["strength"]
    marginal = stats.t(2 * a, loc=PRIOR["loc"], scale=math.sqrt(b / a * (1 + 1 / k)))
    assert stats.kstest(drawn, marginal.cdf).pvalue > 1e-5


# the exact posterior ----------------------------------------------------------------------------


def test_evidence_is_scipys_multivariate_t():
    a, b, k = PRIOR["shape"], PRIOR["rate"], PRIOR["strength"]
    marginal = stats.multivariate_t(
        np.full(12, PRIOR["loc"]), b / a * (np.eye(12) + np.ones((12, 12)) / k), df=2 * a
    )
    found = NormalGammaPosterior(**PRIOR).log_evidence(DATA["x"]).item()
    assert found == pytest.approx(marginal.logpdf(X), abs=1e-9)


@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_exact_confirms_the_posterior(defaults, offset):
    data = {"x": X + offset}
    guide = NormalGammaPosterior() if defaults else NormalGammaPosterior(**PRIOR)
    fit = gb.exact(gaussian_mean if defaults else story, guide, data)
    expected = guide.log_evidence(torch.from_numpy(data["x"])).item()
    assert fit.notes["log_evidence"] == pytest.approx(expected, rel=1e-10)


def test_one_row_by_hand():
    # m0 = 0, strength = a = b = 1, x = 2: m = 1, strength 2, a = 3/2, b = 1 + 1/2 * 1/2 * 4 = 2.
    guide = NormalGammaPosterior(loc=0.0, strength=1.0, shape=1.0, rate=1.0)
    q = guide.posterior(torch.tensor([2.0], dtype=torch.float64))
    assert [v.item() for v in q] == pytest.approx([1.0, 2.0, 1.5, 2.0], abs=1e-12)


def test_draws_have_the_posteriors_marginals():
    # Two Kolmogorov-Smirnov tests at 1e-5, fixed seed.
    fit = gb.exact(story, NormalGammaPosterior(**PRIOR), {"x": X})
    tree = fit.posterior(4000, seed=1)
    for name, marginal in zip(("mu", "tau"), marginals(), strict=True):
        assert stats.kstest(tree["posterior"][name].values.ravel(), marginal.cdf).pvalue > 1e-5


def test_posterior_errors():
    guide = NormalGammaPosterior()
    with pytest.raises(GuideError, match="needs all 100 rows and was given 12"):
        guide(DATA["x"], size=100)
    with pytest.raises(DataError, match="no x"):
        guide()
    with pytest.raises(DataError, match=r"x \(12, 1\)"):
        guide(DATA["x"].unsqueeze(1))
    for wrong in ({"strength": 0.0}, {"shape": -1.0}, {"rate": math.inf}, {"loc": math.nan}):
        for kind in (NormalGammaPosterior, GaussianMeanField):
            with pytest.raises(SettingError, match="positive"):
                kind(**wrong)
    with pytest.raises(ModelError, match="at least one row"):
        gaussian_mean(size=0)
    with pytest.raises(DataError, match="NaN at index"):
        gb.exact(gaussian_mean, guide, {"x": np.array([0.0, np.nan])})


# mean field -------------------------------------------------------------------------------------


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


# Gibbs ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", [NormalGammaPosterior, GaussianMeanField])
def test_the_limits_of_the_prior(kind):
    for name in ("strength", "shape", "rate"):
        assert getattr(kind(**{name: 0.25}), name) == 0.25
        for wrong in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(SettingError, match=f"{name}={wrong}"):
                kind(**{name: wrong})
    for wrong in (math.inf, -math.inf, math.nan):
        with pytest.raises(SettingError, match="must be finite"):
            kind(loc=wrong)
    defaults = {n: getattr(kind(), n) for n in PRIOR}
    assert defaults == {n: v for n, v in gaussian_mean.__kwdefaults__.items() if n in PRIOR}


def test_all_rows_may_be_said_to_be_all_and_keep_their_dtype():
    guide = NormalGammaPosterior(**PRIOR)
    assert guide(DATA["x"], size=12)["mu"].dtype is torch.float64
    for name, value in guide.posterior(DATA["x"].float())._asdict().items():
        assert value.dtype is torch.float32, name
    field = GaussianMeanField(**PRIOR)
    for name, value in field.named_buffers():
        assert value.dtype is torch.float64, name
    assert field()["mu"].dtype is torch.float64


def test_draws_of_the_factorised_guide_have_the_density_of_its_buffers():
    guide = GaussianMeanField(**PRIOR)
    guide.solve(DATA)
    trace = poutine.trace(guide).get_trace(**DATA)
    mu, tau = (trace.nodes[n]["value"].item() for n in ("mu", "tau"))
    expected = stats.norm(guide.q_loc.item(), guide.q_variance.sqrt().item()).logpdf(mu)
    expected += stats.gamma(guide.q_shape.item(), scale=1 / guide.q_rate.item()).logpdf(tau)
    assert trace.log_prob_sum().item() == pytest.approx(expected, abs=1e-10)


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


def test_draws_are_in_the_precision_of_the_data() -> None:
    guide = GaussianMeanField()
    for dtype in (torch.float32, torch.float64):
        assert {v.dtype for v in guide(torch.zeros(3, dtype=dtype)).values()} == {dtype}
    assert {v.dtype for v in guide().values()} == {torch.float64}


def test_a_sweep_draws_mu_with_the_generators_own_doubles() -> None:
    guide = GaussianMeanField()
    x = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64)
    tau = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = guide.sweep({"tau": tau}, {"x": x}, torch.Generator().manual_seed(3))
    exact = guide.posterior(x)
    noise = torch.randn(2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = exact.loc + noise / (exact.strength * tau).sqrt()
    torch.testing.assert_close(found["mu"], expected, rtol=1e-14, atol=0)
