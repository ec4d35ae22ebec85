"""The Gaussian mixture: its density, its order of components and its draws."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from scipy import stats

from guidebook.models.mixture import (
    GaussianMixture,
    LogCholeskyWishart,
    cholesky_of,
    log_cholesky_of,
)
from guidebook.scope import precision
from tests.models.mixture.mixtures import LOC, SCALE, definite, draw, mixture

COVARIANCES = ("unit", "diagonal", "full")


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def some_globals(covariance, concentration=0.7, K=2):
    values = {"loc": draw(K, 3)}
    if concentration is not None:
        values["weights"] = draw(K).softmax(-1)
    if covariance == "diagonal":
        values["precision"] = draw(K, 3).exp()
    if covariance == "full":
        values["log_cholesky"] = log_cholesky_of(definite(K, 3))
    return values


def of_components(covariance, values):
    """The components as distributions of torch, batch (K,)."""
    loc = values["loc"]
    if covariance == "full":
        factor = cholesky_of(values["log_cholesky"], 3)
        return td.MultivariateNormal(loc, precision_matrix=factor @ factor.mT)
    scale = values["precision"].rsqrt() if covariance == "diagonal" else torch.ones_like(loc)
    return td.Independent(td.Normal(loc, scale), 1)


def log_joint(model, values, **data):
    trace = poutine.trace(poutine.condition(model, values)).get_trace(**data)
    return trace.log_prob_sum()


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_log_joint_is_the_equation_in_the_docstring(covariance, concentration):
    model, values = mixture(covariance, concentration), some_globals(covariance, concentration)
    x, z = draw(5, 3), torch.tensor([0, 1, 1, 0, 1])
    loc, kappa, m = values["loc"], 0.5, torch.tensor(LOC, dtype=torch.float64)
    components = of_components(covariance, values)
    expected = 0.0
    if concentration is not None:
        expected += stats.dirichlet([0.7, 0.7]).logpdf(values["weights"].numpy())
        expected += float(values["weights"][z].log().sum())
    else:
        expected += 5 * math.log(0.5)
    if covariance == "unit":
        expected += stats.norm(m, 1 / math.sqrt(kappa)).logpdf(loc.numpy()).sum()
    elif covariance == "diagonal":
        tau = values["precision"].numpy()
        expected += stats.gamma(4.5 / 2, scale=2 / SCALE.diagonal().numpy()).logpdf(tau).sum()
        expected += stats.norm(m, 1 / np.sqrt(kappa * tau)).logpdf(loc.numpy()).sum()
    else:
        wishart = LogCholeskyWishart(torch.tensor(4.5).double(), SCALE)
        factor = cholesky_of(values["log_cholesky"], 3)
        of_loc = td.MultivariateNormal(m, precision_matrix=kappa * factor @ factor.mT)
        expected += float(wishart.log_prob(values["log_cholesky"]).sum())
        expected += float(of_loc.log_prob(loc).sum())
    expected += sum(float(components.log_prob(x[i])[k]) for i, k in enumerate(z.tolist()))
    found = log_joint(model, {**values, "z": z}, x=x)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_enumerated_density_is_that_of_mixture_same_family(covariance):
    model, values, x = mixture(covariance), some_globals(covariance), draw(6, 3)
    conditioned = poutine.condition(model, values)
    with precision(torch.float64):  # the log_prob 0 of a deterministic site has the default dtype
        enumerated = -TraceEnum_ELBO(max_plate_nesting=1).loss(conditioned, lambda x: None, x)
    weights = td.Categorical(values["weights"])
    of_x = td.MixtureSameFamily(weights, of_components(covariance, values)).log_prob(x).sum()
    without_rows = poutine.condition(lambda: model.globals(model.prior(x)), values)
    prior = poutine.trace(without_rows).get_trace().log_prob_sum()
    assert enumerated == pytest.approx(float(prior + of_x), abs=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_average_over_mini_batches_is_the_full_log_joint(covariance, batch):
    model, values, x = mixture(covariance), some_globals(covariance), draw(12, 3)
    z = torch.arange(12) % 2
    whole = log_joint(model, {**values, "z": z}, x=x)
    parts = [
        log_joint(model, {**values, "z": z[rows]}, x=x[rows], size=12)
        for rows in torch.arange(12).split(batch)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_vmap_over_globals_equals_one_at_a_time(covariance):
    model, x, z = mixture(covariance), draw(5, 3), torch.tensor([0, 1, 1, 0, 1])
    each = [some_globals(covariance) for _ in range(4)]
    expected = torch.stack([log_joint(model, {**one, "z": z}, x=x) for one in each])
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda values: log_joint(model, {**values, "z": z}, x=x))(stacked)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_log_density_does_not_change_when_components_change_their_places(covariance):
    model, values, x = mixture(covariance, K=3), some_globals(covariance, K=3), draw(4, 3)
    z, order = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 0, 1])
    moved = {name: value[order] for name, value in values.items()}
    before = log_joint(model, {**values, "z": z}, x=x)
    after = log_joint(model, {**moved, "z": order.argsort()[z]}, x=x)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


def test_canonical_order_sorts_by_the_first_coordinate():
    loc = torch.tensor([[[2.0, -9.0], [-1.0, 5.0], [0.5, 7.0]]])
    order = GaussianMixture(3, 2).canonical_order({"loc": loc})
    assert order.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_simulated_rows_have_the_moments_of_the_prior(covariance):
    # Given the globals, z has frequencies `weights` and x - loc_z the component's precision: a
    # chi-squared test and Kolmogorov-Smirnov at 1e-5 each, fixed seed.
    model = mixture(covariance)
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(size=4000)
    nodes = {n: v["value"].double() for n, v in trace.nodes.items() if v["type"] == "sample"}
    z, x = trace.nodes["z"]["value"], nodes["x"]
    assert x.shape == (4000, 3) and set(z.tolist()) <= {0, 1}
    counts = np.bincount(z.numpy(), minlength=2)
    expected = 4000 * nodes["weights"].numpy()
    assert stats.chisquare(counts, expected / expected.sum() * 4000).pvalue > 1e-5
    left = x - nodes["loc"][z]
    if covariance == "full":
        left = (left.unsqueeze(1) @ cholesky_of(nodes["log_cholesky"], 3)[z]).squeeze(1)
    elif covariance == "diagonal":
        left = left * nodes["precision"][z].sqrt()
    squares = left.square().sum(-1).numpy()
    assert stats.kstest(squares, stats.chi2(3).cdf).pvalue > 1e-5


def test_one_row_is_simulated_where_no_number_is_given():
    assert GaussianMixture(2, 3)().shape == (1, 3)


def test_precision_is_the_wisharts_matrix_and_a_deterministic_site():
    trace = poutine.trace(mixture("full")).get_trace(draw(4, 3))
    factor = cholesky_of(trace.nodes["log_cholesky"]["value"], 3)
    site = trace.nodes["precision"]
    assert site["infer"]["_deterministic"]
    torch.testing.assert_close(site["value"], factor @ factor.mT)


@pytest.mark.parametrize("scale", [2.0, (2.0, 2.0, 2.0), 2 * torch.eye(3)])
def test_one_number_a_vector_and_a_matrix_say_the_same(scale):
    full = GaussianMixture(2, 3, inverse_scale=scale).prior()
    diagonal = GaussianMixture(2, 3, "diagonal", inverse_scale=scale).prior()
    assert torch.equal(full["inverse_scale"], 2 * torch.eye(3).expand(2, 3, 3))
    assert torch.equal(diagonal["inverse_scale"], torch.full((2, 3), 2.0))
    assert full["df"].tolist() == [3.0, 3.0]
    assert diagonal["df"].unique().tolist() == [1.0]


def test_dtype_follows_the_data():
    for dtype in (torch.float32, torch.float64):
        trace = poutine.trace(mixture("full")).get_trace(torch.zeros(3, 3, dtype=dtype))
        assert trace.nodes["loc"]["value"].dtype is dtype


def test_weights_are_uniform_where_they_are_not_a_site():
    trace = poutine.trace(mixture("unit", None, K=4)).get_trace(draw(5, 3))
    assert "weights" not in trace.nodes
    z = trace.nodes["z"]["fn"]
    torch.testing.assert_close(z.probs.unique(), torch.tensor([0.25], dtype=torch.float64))
    assert isinstance(z, dist.Categorical)
