"""Exchangeable components: weights of labelled draws know the evidence, whichever mode q sits in."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch

import guidebook as gb
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.inference.cavi import cavi
from guidebook.models.hierarchical import eight_schools
from guidebook.models.mixture import GaussianMixture
from guidebook.programs.labels import (
    canonical_positions,
    exchangeable,
    in_canonical_order,
    log_labellings,
    log_q_of_labelled,
    permutations,
    permuted,
)
from guidebook.programs.owned import Owned
from guidebook.programs.potential import Potential


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def clusters(n, apart, K, seed=1):
    rng = np.random.default_rng(seed)
    return apart * (np.arange(n) % K)[:, None] + rng.normal(size=(n, 1))


def evidence_of(fit, draws=20_000):
    """log of the mean weight, its standard error by the delta method, and the draws of `loc`."""
    tree = fit.posterior(draws, seed=2)
    weights = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values.ravel()
    top = weights.max()
    scaled = np.exp(weights - top)
    error = scaled.std(ddof=1) / math.sqrt(draws) / scaled.mean()
    return top + math.log(scaled.mean()), error, tree["posterior"]["loc"].values[0, ..., 0]


# evidence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("K", "n"), [(2, 12), (3, 9)])
@pytest.mark.parametrize("apart", [1.0, 5.0])
def test_evidence_of_a_guide_in_one_mode_is_the_enumerated_one(K, n, apart):
    # Within 4.5 standard errors of the weights' mean, false alarm below 1e-4, fixed seeds. Where
    # components overlap, q itself is too narrow for its weights to have a variance: it is widened.
    x = clusters(n, apart, K)
    model = GaussianMixture(K, 1, "unit", None, apart * (K - 1) / 2, 0.1)
    fit = cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    hyper = fit.guide.hyper()
    wider = {**hyper, "mean_precision": hyper["mean_precision"] / 4}
    fit.guide.adopt(fit.guide.natural_of(wider))
    found, error, loc = evidence_of(fit)
    _, exact = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    assert abs(found - float(exact)) < 4.5 * error + 1e-9, (found, error, float(exact))
    assert error < 0.05
    assert (np.diff(loc, axis=1) > 0).all()


def test_evidence_does_not_depend_on_the_mode_q_sits_in():
    x, model = clusters(12, 4.0, 2), GaussianMixture(2, 1, "unit", None, 2.0, 0.1)
    fit = cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    first, _, loc = evidence_of(fit, 2000)
    fit.guide.adopt({name: value.flip(0) for name, value in fit.guide.natural.items()})
    second, error, other = evidence_of(fit, 2000)
    assert abs(first - second) < 6 * error
    np.testing.assert_allclose(loc.mean(0), other.mean(0), atol=0.1)


def test_the_enumerated_posterior_has_constant_weights_in_order_too():
    x, model = clusters(8, 1.0, 2), GaussianMixture(2, 1, "unit", None, 0.5, 0.2)
    fit = gb.exact(model, EnumeratedMixture(model), {"x": x})
    tree = fit.posterior(500)
    weights = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values
    _, exact = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    np.testing.assert_allclose(weights, float(exact), atol=1e-8)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_all_sites_move_together_and_densities_are_those_of_the_sum(covariance):
    """log q of draws of every site, against the sum over permutations written out."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (6, 2)), rng.normal(1, 1, (6, 2))])
    model = GaussianMixture(2, 2, covariance, 1.0, 0.5, 0.3, 4.0, 1.0)
    fit = cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    u, log_q = fit.approximation.draw(20, seed=1)
    values = fit.potential.constrain(u[0])
    _, log_det = fit.potential(u[0])

    def one(values):
        with pyro.poutine.trace() as traced, pyro.poutine.condition(data=values):
            fit.guide(torch.from_numpy(x))
        return float(sum(traced.trace.nodes[n]["fn"].log_prob(v).sum() for n, v in values.items()))

    for i in range(20):
        here = {s.name: values[s.name][i] for s in fit.sites}
        swapped = {name: value.flip(0) for name, value in here.items()}
        expected = np.logaddexp(one(here), one(swapped)) + float(log_det[i])
        assert float(log_q[0, i]) == pytest.approx(expected, abs=1e-8)
        assert here["loc"][0, 0] < here["loc"][1, 0]


# the pieces -------------------------------------------------------------------------------------


def log_q(values):
    """A density that tells its components apart."""
    scale = torch.arange(1, values["a"].shape[1] + 1)
    return -(values["a"] * scale).square().sum(-1) - (values["b"] * scale[:, None]).sum((-2, -1))


@pytest.mark.parametrize("K", [1, 2, 4])
def test_log_q_of_labelled_draws_sums_over_all_permutations(K):
    values = {"a": torch.randn(7, K).double(), "b": torch.randn(7, K, 3).double()}
    terms = [
        log_q({name: value[:, list(order)] for name, value in values.items()})
        for order in itertools.permutations(range(K))
    ]
    expected = torch.stack(terms).logsumexp(0)
    torch.testing.assert_close(log_q_of_labelled(log_q, values, K), expected)


def test_labelled_density_integrates_to_one_over_the_ordered_half():
    """q = N(0.3, 1) N(-0.2, 1): twice-counted mass is not lost, by a grid over a < b."""
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    inside = a < b
    values = {"a": torch.stack([a[inside], b[inside]], -1)}
    normal = torch.distributions.Normal(torch.tensor([0.3, -0.2], dtype=torch.float64), 1.0)
    density = log_q_of_labelled(lambda v: normal.log_prob(v["a"]).sum(-1), values, 2).exp()
    cell = float(grid[1] - grid[0]) ** 2
    # the cells on the diagonal, left out here, hold half their mass
    diagonal = normal.log_prob(torch.stack([grid, grid], -1)).sum(-1).exp().sum()
    assert float((density.sum() + diagonal) * cell) == pytest.approx(1.0, abs=1e-6)


def test_all_permutations_up_to_five_then_exchanges_of_two():
    for K in range(1, 6):
        assert sorted(permutations(K)) == sorted(itertools.permutations(range(K)))
    of_six = permutations(6)
    assert len(of_six) == len(set(of_six)) == 1 + 15
    assert of_six[0] == tuple(range(6))
    assert all(sorted(order) == list(range(6)) for order in of_six)
    assert {sum(i != k for i, k in enumerate(order)) for order in of_six[1:]} == {2}


def test_permuting_takes_every_axis_behind_the_component_along():
    order = torch.tensor([[2, 0, 1], [0, 1, 2]])
    value = torch.randn(2, 3, 2, 2)
    found = permuted({"a": value, "b": value[..., 0, 0]}, order)
    for s in range(2):
        assert torch.equal(found["a"][s], value[s, order[s]])
        assert torch.equal(found["b"][s], value[s, order[s], 0, 0])


def test_draws_with_chains_are_put_in_order():
    model = GaussianMixture(3, 2)
    loc = torch.randn(4, 5, 3, 2)
    values, moved = in_canonical_order(model, {"loc": loc})
    assert bool((values["loc"][..., 0].diff(dim=-1) >= 0).all())
    already = (loc[..., 0].diff(dim=-1) >= 0).all(-1)
    assert moved == pytest.approx(1 - float(already.double().mean()))
    torch.testing.assert_close(values["loc"].sum(-2), loc.sum(-2))


def test_models_without_an_order_are_left_as_they_are():
    values = {"theta": torch.randn(5, 8)}
    found, moved = in_canonical_order(eight_schools, values)
    assert found["theta"] is values["theta"] and moved == 0.0
    assert exchangeable(eight_schools) is None and log_labellings(eight_schools) == 0.0


def test_a_model_that_owns_its_parameters_is_as_exchangeable_as_the_one_inside():
    model = GaussianMixture(3, 1)
    assert exchangeable(Owned(model)) is model
    assert log_labellings(Owned(model)) == pytest.approx(math.log(6))
    assert exchangeable(Owned(eight_schools)) is None


def test_positions_in_order_are_left_as_they_are_to_the_last_bit():
    model = GaussianMixture(2, 1)
    potential = Potential(model, {"x": torch.zeros(3, 1)})
    u = 0.1 * torch.randn(8, sum(site.size for site in potential.sites))
    ordered = canonical_positions(potential, u)
    assert not torch.equal(ordered, u)  # some had to be moved
    assert canonical_positions(potential, ordered) is ordered


def test_the_number_of_labellings():
    for K in (1, 2, 5):
        found = log_labellings(GaussianMixture(K, 1))
        assert found == pytest.approx(math.log(math.factorial(K)), abs=1e-12)
