"""EM of a Gaussian mixture: scikit-learn's likelihood, the gradient zero at the mode, bad input."""

import warnings

import numpy as np
import pyro
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.mixture import GaussianMixture as Oracle

import guidebook as gb
from guidebook.errors import DataError, SettingError
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.models.mixture import GaussianMixture

QUIET = {"progress": False}


def standardised(raw):
    return (raw - raw.mean(0)) / raw.std(0)


IRIS = standardised(load_iris().data)


@pytest.mark.parametrize(("covariance", "theirs"), [("full", "full"), ("diagonal", "diag")])
@pytest.mark.parametrize("K", [1, 2])
def test_the_likelihood_is_that_of_scikit_learn(covariance, theirs, K):
    """From the place where ours ended theirs does not climb any further, and means the same."""
    model = GaussianMixture(K, 4, covariance)
    fit = gb.em(model, MixtureMode(model, prior=False), {"x": IRIS}, tolerance=1e-12, **QUIET)
    assert fit.status is gb.Status.CONVERGED
    values = fit.guide.values
    oracle = Oracle(
        K, covariance_type=theirs, reg_covar=0.0, tol=1e-12, max_iter=1000,
        weights_init=values["weights"].numpy(), means_init=values["loc"].numpy(),
        precisions_init=values["precision"].numpy(),
    )  # fmt: skip
    oracle.fit(IRIS)
    assert oracle.score(IRIS) * len(IRIS) == pytest.approx(-fit.history[-1], abs=1e-3)
    np.testing.assert_allclose(oracle.means_, values["loc"], atol=2e-3)
    np.testing.assert_allclose(oracle.precisions_, values["precision"], rtol=2e-2)


@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
def test_the_end_is_a_maximum_of_likelihood_times_prior(covariance):
    """By autodiff of the densities written with torch: the gradient by every parameter is zero."""
    model = GaussianMixture(2, 4, covariance, concentration=2.0, mean_precision=0.5, df=7.0)
    fit = gb.em(model, MixtureMode(model), {"x": IRIS}, tolerance=1e-13, **QUIET)
    at = {n: v.clone().requires_grad_() for n, v in fit.guide.values.items()}
    value = objective(model, at, torch.as_tensor(IRIS))
    assert value.item() == pytest.approx(-fit.history[-1], rel=1e-9)
    slopes = dict(zip(at, torch.autograd.grad(value, list(at.values())), strict=True))
    weights = slopes.pop("weights")
    torch.testing.assert_close(weights, weights.mean().expand_as(weights), rtol=1e-4, atol=1e-3)
    for name, slope in slopes.items():
        assert float(slope.abs().max()) < 2e-2, name
    assert np.diff(fit.history).max() <= 0


def objective(model, at, x):
    """log p(x | theta) + log p(theta) by torch.distributions."""
    dist = torch.distributions
    K, D = model.K, model.D
    total = dist.Dirichlet(torch.full((K,), 2.0, dtype=x.dtype)).log_prob(at["weights"])
    if model.covariance == "full":
        precision = at["precision"]
        scale = torch.eye(D, dtype=x.dtype)
        wishart = dist.Wishart(torch.tensor(7.0, dtype=x.dtype), scale, validate_args=False)
        total = total + wishart.log_prob(precision).sum()
    elif model.covariance == "diagonal":
        precision = torch.diag_embed(at["precision"])
        half = torch.tensor(0.5, dtype=x.dtype)
        total = total + dist.Gamma(7 * half, half).log_prob(at["precision"]).sum()
    else:
        precision = torch.eye(D, dtype=x.dtype).expand(K, D, D)
    prior = dist.MultivariateNormal(torch.zeros(D, dtype=x.dtype), precision_matrix=precision / 2)
    total = total + prior.log_prob(at["loc"]).sum()
    rows = dist.MultivariateNormal(at["loc"], precision_matrix=precision)
    score = rows.log_prob(x[:, None]) + at["weights"].log()
    return total + score.logsumexp(-1).sum()


def test_a_point_is_no_posterior():
    model = GaussianMixture(2, 4, "diagonal")
    fit = gb.em(model, MixtureMode(model), {"x": IRIS}, **QUIET)
    tree = fit.posterior(5)
    assert "log_q" not in tree["sample_stats"]
    first = tree["posterior"]["loc"].values[0, :, :, 0]  # in the order of the other draws
    assert (np.diff(first, axis=1) > 0).all()
    assert gb.compare({"em": fit}).verdicts["em"] is not gb.Verdict.TRUST


def test_more_components_than_rows_and_duplicated_rows():
    """With a prior they are no trouble: what the data do not decide is at the prior's mode."""
    x = np.repeat(IRIS[:3], 2, axis=0)
    model = GaussianMixture(8, 4, "full", concentration=2.0, df=7.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = gb.em(model, MixtureMode(model), {"x": x}, **QUIET)
    assert fit.status is gb.Status.CONVERGED
    assert bool(fit.guide.values["precision"].isfinite().all())


def test_a_component_that_shrinks_to_a_point_is_said():
    """Without a prior the likelihood of three distinct rows in four dimensions is unbounded."""
    x = np.repeat(IRIS[:3], 4, axis=0)
    model = GaussianMixture(3, 4, "full")
    fit = gb.em(model, MixtureMode(model, prior=False), {"x": x}, **QUIET)
    assert fit.status is gb.Status.STOPPED_BY_NAN
    assert "use a prior, fewer components" in fit.notes["nan"]


def test_bad_settings():
    with pytest.raises(SettingError, match="at least 1, or prior=False"):
        MixtureMode(GaussianMixture(2, 2, concentration=0.5))
    wine = standardised(load_wine().data).copy()
    wine[4, 2] = np.nan
    model = GaussianMixture(2, 13, "diagonal")
    with pytest.raises(DataError, match="NaN"):
        gb.em(model, MixtureMode(model), {"x": wine}, **QUIET)


# the steps by hand ------------------------------------------------------------------------------

X = torch.as_tensor(np.random.default_rng(0).normal(1.0, 1.3, size=(12, 2)))


def started(covariance, prior=True, concentration=1.7):
    model = GaussianMixture(
        3, 2, covariance, concentration=concentration, mean_precision=0.5, df=4.0
    )
    guide = MixtureMode(model, prior=prior)
    return model, guide, guide.start({"x": X}, 0)


def of_rows(model, at, x):
    """Normal distributions of every component, (K,)."""
    D = x.shape[1]
    precision = at.get("precision", torch.ones(model.K, D, dtype=x.dtype))
    if precision.dim() == 2:
        precision = torch.diag_embed(precision)
    return torch.distributions.MultivariateNormal(at["loc"], precision_matrix=precision)


@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
@pytest.mark.parametrize("concentration", [None, 1.7])
def test_an_e_step_is_the_log_density_of_the_rows(covariance, concentration):
    model, guide, at = started(covariance, concentration=concentration)
    score = of_rows(model, at, X).log_prob(X[:, None])
    score = score + (at["weights"].log() if "weights" in at else -np.log(3))
    message, bound = guide.e_step({"x": X}, at)
    assert float(bound) == pytest.approx(float(score.logsumexp(1).sum()), rel=1e-10)
    assert ("weights" in message) is (concentration is not None)
    if concentration is not None:
        torch.testing.assert_close(message["weights"], score.softmax(1).sum(0))


@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
@pytest.mark.parametrize("concentration", [None, 1.7])
@pytest.mark.parametrize("prior", [True, False])
def test_an_m_step_is_at_the_maximum_of_the_expected_log_joint(covariance, concentration, prior):
    """By autodiff of sum_ik r_ik log p(x_i, z_i = k | theta) + log p(theta): its slope is zero there."""
    model, guide, before = started(covariance, prior, concentration)
    message, _ = guide.e_step({"x": X}, before)
    score = of_rows(model, before, X).log_prob(X[:, None])
    score = score + (before["weights"].log() if "weights" in before else 0.0)
    share = score.softmax(1)
    found = guide.m_step(message, before)
    at = {n: v.clone().requires_grad_() for n, v in found.items()}
    value = (share * of_rows(model, at, X).log_prob(X[:, None])).sum()
    if "weights" in at:
        value = value + (share * at["weights"].log()).sum()
    if prior:
        value = value + log_prior(model, at)
        expected = log_prior(model, at).item()
        assert float(guide.log_prior(found)) == pytest.approx(expected, rel=1e-10)
    else:
        assert float(guide.log_prior(found)) == 0.0
    slopes = dict(zip(at, torch.autograd.grad(value, list(at.values())), strict=True))
    if "weights" in slopes:
        of_weights = slopes.pop("weights")
        torch.testing.assert_close(of_weights, of_weights.mean().expand(3))
        assert float(found["weights"].sum()) == pytest.approx(1.0)
    for slope in slopes.values():
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-8)


def log_prior(model, at):
    dist, one = torch.distributions, torch.ones((), dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    if "weights" in at:
        total = total + dist.Dirichlet(1.7 * one.expand(3)).log_prob(at["weights"])
    if model.covariance == "full":
        scale = torch.eye(2, dtype=torch.float64)
        wishart = dist.Wishart(4.0 * one, scale, validate_args=False)
        total = total + wishart.log_prob(at["precision"]).sum()
    elif model.covariance == "diagonal":
        total = total + dist.Gamma(2.0 * one, 0.5 * one).log_prob(at["precision"]).sum()
    precision = of_rows(model, at, X).precision_matrix
    loc = dist.MultivariateNormal(torch.zeros(2).double(), precision_matrix=0.5 * precision)
    return total + loc.log_prob(at["loc"]).sum()


def test_the_limit_of_the_concentration_and_what_a_finished_guide_holds():
    for concentration in (None, 1.0):
        assert MixtureMode(GaussianMixture(2, 2, concentration=concentration)).prior is True
    MixtureMode(GaussianMixture(2, 2, concentration=0.5), prior=False)
    model, guide, at = started("diagonal")
    same, copied = guide.finished(model, {n: v.clone().requires_grad_() for n, v in at.items()})
    assert not any(value.requires_grad for value in copied.values.values())
    assert same is model and copied is not guide and guide.values["loc"] is not at["loc"]
    torch.testing.assert_close(copied.values, at)
    assert set(copied.state_dict()) >= {"weights", "precision", "loc"}
    assert not torch.equal(guide.values["loc"], at["loc"])


@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
def test_the_sites_of_the_guide_are_those_of_the_model(covariance):
    model, guide, at = started(covariance)
    _, guide = guide.finished(model, at)
    trace = pyro.poutine.trace(guide).get_trace(X)
    sites = {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}
    sites.pop("component", None)
    of_model = pyro.poutine.trace(model).get_trace(X)
    for name, node in sites.items():
        assert node["fn"].event_shape == of_model.nodes[name]["fn"].event_shape, name
        assert node["value"].shape == of_model.nodes[name]["value"].shape
    assert "weights" in sites and "loc" in sites
    torch.testing.assert_close(sites["loc"]["value"], at["loc"])
    if covariance == "full":
        cholesky = sites["log_cholesky"]["value"]
        torch.testing.assert_close(cholesky, model.log_cholesky(at["precision"]))
