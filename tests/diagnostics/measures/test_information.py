"""Entropies and divergences against closed forms, and the identities of the ELBO."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

import guidebook as gb
from guidebook.diagnostics.amortized.surgery import surgery
from guidebook.diagnostics.measures.identities import bound, bound_by_enumeration
from guidebook.diagnostics.measures.information import (
    Estimate,
    cross_entropy,
    entropy,
    kl,
    mutual_information,
)
from guidebook.errors import DataError, GuideError, ModelError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.exact.conjugate import ConjugateRegression, LinearGaussianPosterior
from guidebook.models.decoders.latent import LinearVAE


def near(found, truth, errors=4.0, exactly=1e-10):
    """Within so many standard errors: at 4 a false-alarm rate of 6e-5 a comparison, fixed seeds."""
    assert found.value == pytest.approx(truth, abs=errors * found.se + exactly)


# between distributions ---------------------------------------------------------------------------


def test_closed_forms_are_used_and_batch_dimensions_summed():
    p = dist.Normal(torch.tensor([0.0, 1.0]).double(), 2.0)
    q = dist.Normal(0.5, 1.0)
    assert entropy(p) == Estimate(pytest.approx(2 * scipy.stats.norm(0, 2).entropy()))
    single = [math.log(1 / 2) + (4 + d * d) / 2 - 0.5 for d in (0.5, 0.5)]
    assert kl(p, q) == Estimate(pytest.approx(sum(single)))
    assert cross_entropy(p, q).value == pytest.approx(entropy(p).value + kl(p, q).value)
    assert kl(p, p).value == 0.0


def mixture(means, scale=1.0):
    means = torch.tensor(means, dtype=torch.float64)
    kinds = dist.Categorical(probs=torch.ones_like(means) / len(means))
    return dist.MixtureSameFamily(kinds, dist.Normal(means, scale))


def test_monte_carlo_stays_within_its_error_of_quadrature():
    p, q = mixture([-2.0, 2.0]), mixture([0.0, 1.0], 2.0)
    x = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    found = entropy(p), cross_entropy(p, q), kl(p, q)
    for estimate, log in zip(found, (-log_p, -log_q, log_p - log_q), strict=True):
        assert 0 < estimate.se < 0.02
        near(estimate, float(torch.trapezoid(log_p.exp() * log, x)))


def test_finite_supports_are_summed_exactly():
    p, q = (
        dist.Binomial(4, torch.tensor(0.3).double()),
        dist.Binomial(4, torch.tensor(0.6).double()),
    )
    pmf, other = (scipy.stats.binom(4, r).pmf(range(5)) for r in (0.3, 0.6))
    assert entropy(p) == Estimate(pytest.approx(-pmf @ np.log(pmf)), 0.0)
    assert cross_entropy(p, q) == Estimate(pytest.approx(-pmf @ np.log(other)), 0.0)
    assert kl(p, q) == Estimate(pytest.approx(pmf @ np.log(pmf / other)), 0.0)


# between draws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_draws_give_the_divergence_within_the_stated_error(D, seed):
    rng = np.random.default_rng(seed)
    root = np.tril(rng.normal(size=(D, D)), -1) + np.diag(rng.uniform(0.5, 4, D))  # correlated
    x = rng.normal(size=(4000, D)) @ root.T
    y = 1.3 * rng.normal(size=(3000, D)) @ root.T + root @ np.full(D, 0.5)
    truth = D * (math.log(1.3) + (1 + 0.25) / (2 * 1.69) - 0.5)
    log_det = np.log(np.diag(root)).sum()
    own = D / 2 * math.log(2 * math.pi * math.e) + log_det
    near(kl(x, y), truth)
    near(entropy(x), own)
    near(cross_entropy(x, y), truth + own)
    assert kl(x, y).se < 0.25 * D
    q = dist.MultivariateNormal(
        torch.from_numpy(root @ np.full(D, 0.5)), scale_tril=1.3 * torch.from_numpy(root)
    )
    near(cross_entropy(x, q), truth + own)
    near(kl(torch.from_numpy(x), q), truth)


def test_draws_of_one_distribution_have_no_divergence():
    rng = np.random.default_rng(0)
    near(kl(rng.normal(size=3000), rng.normal(size=3000)), 0.0)


def test_draws_that_do_not_do_are_named():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    with pytest.raises(DataError, match="at least 80"):
        entropy(x[:50])
    with pytest.raises(DataError, match="one point"):
        entropy(np.repeat(x, 8, 0))
    with pytest.raises(DataError, match="fewer dimensions"):
        entropy(np.column_stack([x, np.ones(200)]))
    with pytest.raises(DataError, match="different widths"):
        kl(x, rng.normal(size=(200, 3)))
    with pytest.raises(DataError, match="draws of both"):
        kl(dist.Normal(0.0, 1.0), x)
    with pytest.raises(DataError, match="finite"):
        entropy(np.full((200, 2), np.nan))


# mutual information ------------------------------------------------------------------------------


def test_mutual_information_of_a_table():
    assert mutual_information(np.outer([0.2, 0.8], [0.5, 0.5])).value == pytest.approx(0, abs=1e-15)
    assert mutual_information(np.diag([3, 3, 3])).value == pytest.approx(math.log(3))
    table = np.array([[10, 3, 0], [2, 5, 7]])
    from sklearn.metrics import mutual_info_score

    assert mutual_information(table).value == pytest.approx(
        mutual_info_score(None, None, contingency=table)
    )
    with pytest.raises(DataError, match="joint table"):
        mutual_information([[0.5, -0.1]])


def amortized(P=3, d=1, rows=400, covariance="diagonal", seed=0):
    """A linear decoder, data and an untrained linear guide."""
    torch.manual_seed(seed)
    model = LinearVAE(P, d).double()
    with torch.no_grad(), pyro.get_param_store().scope():
        data = {"x": model(size=rows)}
    widths = 2 * d if covariance == "diagonal" else d + d * (d + 1) // 2
    return model, AmortizedNormal(nn.Linear(P, widths), d, covariance=covariance).double(), data


def test_surgery_of_an_amortised_guide_against_quadrature():
    model, guide, data = amortized()
    fit = gb.svi(model, guide, data, steps=150, compile="graph", progress=False)
    found = surgery(fit, draws=20)
    q = fit.guide.posterior(data["x"])
    mean, scale = (v.detach().numpy()[:, 0] for v in (q.mean, q.variance.sqrt()))
    z = np.linspace(-12, 12, 6001)
    density = scipy.stats.norm.pdf(z[:, None], mean, scale)
    average = density.mean(1)
    prior = scipy.stats.norm.logpdf(z)
    marginal = np.trapezoid(average * (np.log(average) - prior), z)
    whole = (0.5 * (scale**2 + mean**2 - 1) - np.log(scale)).mean()
    near(found.kl, whole)
    near(found.marginal_kl, marginal)
    near(found.mutual_information, whole - marginal)
    assert found.limit == math.log(400)
    parts = found.mutual_information.value + found.marginal_kl.value
    assert found.kl.value == pytest.approx(parts, abs=1e-12)


def test_surgery_needs_a_guide_of_rows():
    data = gb.pair("linear-regression").data()
    fit = gb.exact(gb.models.linear_regression, ConjugateRegression(), data)
    with pytest.raises(ModelError, match="AmortizedNormal"):
        surgery(fit)


# the identities ----------------------------------------------------------------------------------


def agree(found, evidence):
    """The three forms are one number within their errors, and F is minus it."""
    assert found.evidence_form is not None
    assert found.log_evidence.value == pytest.approx(evidence, abs=1e-6)
    forms = [found.energy_form, found.data_form, found.evidence_form]
    for one in forms:
        for other in forms:
            error = math.hypot(one.se, other.se)
            assert one.value == pytest.approx(other.value, abs=4 * error + 1e-6)
    rest = found.energy_form.value + found.posterior_kl.value
    error = math.hypot(found.energy_form.se, found.posterior_kl.se)
    assert rest == pytest.approx(evidence, abs=4 * error + 1e-6)
    assert found.free_energy.value == -found.energy_form.value


def test_linear_regression_with_the_exact_guide_has_no_gap():
    pair = gb.pair("linear-regression")
    data = pair.data()
    model = pair.model()
    fit = gb.exact(model, pair.exact(model), data)
    found = bound(fit, exact=fit.guide, draws=1000)
    agree(found, fit.notes["log_evidence"])
    assert found.posterior_kl.value == pytest.approx(0, abs=1e-6)
    assert found.energy_form.value == pytest.approx(fit.notes["log_evidence"], abs=1e-6)
    assert found.energy_form.se < 1e-6
    assert found.entropy.se > 0.01  # the terms are noisy, their sum is not


@pytest.mark.parametrize("name", ["mean-field", "full-rank"])
def test_linear_regression_with_a_fitted_guide(name):
    pair = gb.pair("linear-regression")
    data = pair.data()
    model = pair.model()
    fit = gb.svi(
        model, pair.guides[name](model), data, steps=100, compile="graph", progress=False
    )  # fmt: skip
    exact = ConjugateRegression()
    evidence = float(exact.log_evidence(**{k: v.double() for k, v in data.items()}))
    found = bound(fit, exact=exact, draws=2000)
    agree(found, evidence)
    assert found.entropy.se == 0.0
    assert found.posterior_kl.value > 0
    assert found.energy_form.value < evidence
    if name == "mean-field":  # correlated columns: the gap is there to be seen
        assert found.posterior_kl.value > 0.5
    tree = fit.posterior(2000)["sample_stats"]
    plain = float((tree["lp"] - tree["log_q"]).mean())
    assert found.energy_form.value == pytest.approx(plain, abs=4 * found.energy_form.se + 0.1)


@pytest.mark.parametrize("name", ["linear-diagonal", "linear-full", "exact"])
def test_linear_vae(name):
    pair = gb.pair("linear-vae")
    data = {"x": pair.data()["x"][:60].double()}
    model = pair.model().double()
    if name == "exact":
        fit = gb.exact(model, pair.exact(model), data)
    else:
        guide = pair.guides[name](model).double()
        fit = gb.svi(model, guide, data, steps=200, compile="graph", progress=False)
    exact = LinearGaussianPosterior(fit.model)
    evidence = float(exact.log_evidence(data["x"]).detach().sum())
    found = bound(fit, exact=exact, draws=400)
    agree(found, evidence)
    # entropy and both divergences are closed forms; only energy and data term are averages
    assert (found.entropy.se, found.prior_kl.se, found.posterior_kl.se) == (0, 0, 0)
    assert (found.posterior_kl.value > 1) == (name != "exact")


def coins(y=None):
    """Three coins of unknown kind, thrown once: everything is discrete."""
    bias = torch.tensor([0.2, 0.5, 0.9]).double()
    common = pyro.sample("common", dist.Categorical(torch.tensor([0.3, 0.7]).double()))
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).double()[common]
    with pyro.plate("coin", 3):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("y", dist.Bernoulli(bias[kind]), obs=y)


def mean_field_of_coins(y=None):
    pyro.sample("common", dist.Categorical(torch.tensor([0.4, 0.6]).double()))
    with pyro.plate("coin", 3):
        table = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.4, 0.1], [1.0, 0.0, 0.0]]).double()
        pyro.sample("kind", dist.Categorical(table))


def test_the_identities_are_exact_where_everything_is_enumerated():
    data = {"y": torch.tensor([1.0, 0.0, 1.0]).double()}
    found = bound_by_enumeration(coins, mean_field_of_coins, data)
    weights = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    bias = np.array([0.2, 0.5, 0.9])
    heads = weights @ bias
    evidence = math.log(0.3 * heads[0] ** 2 * (1 - heads[0]) + 0.7 * heads[1] ** 2 * (1 - heads[1]))
    assert found.log_evidence.value == pytest.approx(evidence, abs=1e-12)
    forms = found.energy_form, found.data_form, found.evidence_form
    assert [f.value for f in forms] == pytest.approx([forms[0].value] * 3, abs=1e-10)
    assert all(f.se == 0 for f in forms)
    assert found.energy_form.value + found.posterior_kl.value == pytest.approx(evidence, abs=1e-10)
    parts = [[0.4, 0.6], [0.2, 0.3, 0.5], [0.5, 0.4, 0.1]]
    assert found.entropy.value == pytest.approx(sum(scipy.stats.entropy(p) for p in parts))


def posterior_of_coins(y=None):
    """The exact posterior of a single latent: p(common, kind | y) written out by Bayes' rule."""
    bias = torch.tensor([0.2, 0.5, 0.9]).double()
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).double()
    seen = torch.where(y[:, None] > 0, bias, 1 - bias)  # (coin, kind)
    each = torch.einsum("ck,ik->ci", weights, seen).prod(1)
    common = pyro.sample("common", dist.Categorical(torch.tensor([0.3, 0.7]).double() * each))
    with pyro.plate("coin", 3):
        pyro.sample("kind", dist.Categorical(weights[common] * seen))


def test_the_enumerated_posterior_closes_the_gap():
    data = {"y": torch.tensor([1.0, 0.0, 1.0]).double()}
    found = bound_by_enumeration(coins, posterior_of_coins, data)
    assert found.posterior_kl.value == pytest.approx(0, abs=1e-12)
    assert found.energy_form.value == pytest.approx(found.log_evidence.value, abs=1e-12)


def test_what_has_no_bound_is_named():
    data = {"y": torch.zeros(3).double()}
    with pytest.raises(GuideError, match="samples"):
        bound_by_enumeration(coins, lambda y: None, data)

    def continuous(y=None):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(ModelError, match="finite support"):
        bound_by_enumeration(continuous, lambda y: None, data)
    fit = gb.svi(
        continuous, gb.guides.delta(continuous), data, steps=2, compile="graph", progress=False
    )
    with pytest.raises(GuideError, match="point"):
        bound(fit)
