"""Gumbel-softmax and straight-through bounds of discrete latents."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import guidebook as gb
from guidebook.errors import GuideError, ModelError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.enumerated import EnumeratedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO, _Relaxed, gumbel_softmax
from guidebook.inference.objectives.rows import At, values_of
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters
from tests.inference.objectives.discrete.pairs import LOGITS, X, exact_elbo, one_hot, pair


@pytest.fixture
def local():
    with local_parameters():
        yield


def test_gumbel_softmax_draws_the_category_with_its_probability():
    torch.manual_seed(0)
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0], dtype=torch.float64)
    draws = gumbel_softmax(logits.expand(40_000, 4), 0.7)
    torch.testing.assert_close(draws.sum(-1), torch.ones(40_000).double())
    share = torch.nn.functional.one_hot(draws.argmax(-1), 4).double().mean(0)
    p = logits.softmax(-1)
    z = (share - p) / (p * (1 - p) / 40_000).sqrt()
    assert z.abs().max() < 5  # false alarm 2e-6
    colder = gumbel_softmax(logits.expand(1000, 4), 0.01)
    assert (colder.max(-1).values > 0.99).double().mean() > 0.9


@pytest.mark.usefixtures("local")
def test_straight_through_is_an_unbiased_estimate_of_the_bound():
    model, guide = pair()
    objective = RelaxedELBO(0.5, straight_through=True, particles=50)
    torch.manual_seed(2)
    draws = -np.array([objective.loss(model, guide, x=X) for _ in range(60)])
    z = (draws.mean() - exact_elbo(model, guide).item()) / (draws.std(ddof=1) / math.sqrt(60))
    assert abs(z) < 4.5  # false alarm 3e-5


@pytest.mark.usefixtures("local")
def test_the_kl_of_the_relaxed_bound_is_exact_and_weighed():
    model, guide = pair()
    seeds = iter((1, 1, 1))

    def loss(**settings):
        torch.manual_seed(next(seeds))
        return RelaxedELBO(0.5, **settings).loss(model, guide, x=X)

    q = guide.posterior(X).base_dist.probs.detach()
    kl = (q * (q * 3).log()).sum().item()
    one, two, none = loss(), loss(beta=2.0), loss(beta=0.0)
    assert two - one == pytest.approx(kl, rel=1e-9)
    assert one - none == pytest.approx(kl, rel=1e-9)


OBJECTIVES = [
    pytest.param(lambda: RelaxedELBO(exponential(1.0, 0.3)), id="relaxed"),
    pytest.param(lambda: RelaxedELBO(linear(1.0, 0.5), straight_through=True), id="straight"),
    pytest.param(lambda: RelaxedELBO(0.5, beta=linear(0, 1), particles=3), id="particles"),
    pytest.param(Trace_ELBO, id="score"),
    pytest.param(EnumeratedELBO, id="exact"),
]


@pytest.mark.parametrize("make", OBJECTIVES)
def test_captured_is_pyros_svi_step_by_step(make):
    model, guide = pair()
    both = [
        gb.svi(
            model, guide, {"x": X}, objective=make(), steps=30, batch_size=4, progress=False,
            compile=how, seed=3,
        ).history
        for how in ("graph", False)
    ]  # fmt: skip
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, linear(1.0, 0.0)])
def test_a_temperature_of_zero_names_the_remedy(temperature):
    with pytest.raises(SettingError, match=r"temperature .*exponential\(1.0, 0.5\)"):
        RelaxedELBO(temperature)


@pytest.mark.usefixtures("local")
def test_guides_that_cannot_be_relaxed_or_enumerated_are_refused():
    torch.manual_seed(0)
    model, guide = VAE(5, 2, (4,)).double(), AmortizedNormal(mlp((5, 4)), 2).double()
    with pytest.raises(GuideError, match="no one-hot categorical site"):
        RelaxedELBO().loss(model, guide, x=X)
    with pytest.raises(GuideError, match="OneHotCategorical"):
        EnumeratedELBO().loss(model, guide, x=X)
    model, guide = pair(20, 3)
    with pytest.raises(ModelError, match="3,486,784,401 states"):
        EnumeratedELBO().loss(model, guide, x=X)

    def coins(x):
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(len(x))))

    with pytest.raises(GuideError, match="cannot relax"):
        RelaxedELBO().loss(coins, coins, x=X)


def relaxed(program, straight_through=False, seed=0):
    """What a program returns where its categoricals are relaxed, and how many were found."""
    torch.manual_seed(seed)
    found = _Relaxed(0.7, straight_through)
    with found:
        value = program()
    return value, found.found


def test_the_defaults_of_relaxed_and_enumerated_bounds():
    one, exact = RelaxedELBO(), EnumeratedELBO()
    assert one.numbers == {"temperature": 0.5, "beta": 1.0} and not one.straight_through
    assert (one.num_particles, one.max_plate_nesting) == (1, 1)
    assert (exact.num_particles, exact.max_plate_nesting) == (1, 1)


def test_relaxed_draws_are_the_softmax_of_logits_with_gumbel_noise():
    """By hand, over the last of three dimensions; and what lies on the edge is finite."""
    logits = LOGITS.expand(4, 2, 3)
    torch.manual_seed(0)
    uniform = torch.rand(4, 2, 3, dtype=torch.float64)
    torch.manual_seed(0)
    found = gumbel_softmax(logits, 0.7)
    torch.testing.assert_close(found, ((logits - (-uniform.log()).log()) / 0.7).softmax(-1))


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_a_uniform_number_on_the_edge_gives_a_finite_draw(edge, monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, edge))
    found = gumbel_softmax(LOGITS, 0.7)
    torch.testing.assert_close(found, (LOGITS / 0.7).softmax(-1))


@pytest.mark.usefixtures("local")
def test_straight_through_is_the_largest_of_the_relaxed_draw_with_its_gradient():
    logits = LOGITS.expand(4, 2, 3).clone().requires_grad_()
    weight = torch.arange(24.0, dtype=torch.float64).reshape(4, 2, 3)

    def program():
        with pyro.plate("row", 4):
            return pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1))

    soft, found = relaxed(program)
    hard, again = relaxed(program, straight_through=True)
    assert found == again == 1
    expected = torch.nn.functional.one_hot(soft.argmax(-1), 3).double()
    torch.testing.assert_close(hard.detach(), expected, rtol=0, atol=1e-15)
    slopes = [torch.autograd.grad((weight * z).sum(), logits)[0] for z in (soft, hard)]
    torch.testing.assert_close(slopes[1], slopes[0])
    assert bool((slopes[0] != 0).all())


@pytest.mark.usefixtures("local")
def test_values_that_are_given_are_not_drawn_anew():
    given = torch.eye(3, dtype=torch.float64)[:2]

    def at_given():
        with At({"z": given}):
            return one_hot()

    def observed():
        return pyro.sample("z", dist.OneHotCategorical(logits=LOGITS).to_event(1), obs=given)

    for program in (at_given, observed):
        value, found = relaxed(program)
        assert torch.equal(value, given) and found == 0


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("size", [None, 20])
@pytest.mark.parametrize("particles", [1, 3])
def test_the_relaxed_bound_is_the_sum_of_its_parts(particles, size):
    """x_i ~ N(w z_i + v_i, 1) for rows that are not masked; z relaxed, v continuous; beta is 2."""
    w, x = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.4, -0.3]).double()
    seen = torch.tensor([True, False])

    def rows():
        index = None if size is None else torch.arange(2)
        return pyro.plate("row", size or 2, subsample=index)

    def model(x):
        with rows():
            z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros_like(LOGITS)))
            v = pyro.sample("v", dist.Normal(x.new_zeros(2), 1.0))
            with pyro.poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal((z * w).sum(-1) + v, 1.0), obs=x)

    def guide(x):
        with rows():
            pyro.sample("z", dist.OneHotCategorical(logits=LOGITS))
            pyro.sample("v", dist.Normal(x, 0.5))

    objective = RelaxedELBO(0.7, beta=2.0, particles=particles)
    torch.manual_seed(1)
    at = values_of(objective._drawn(guide, {"x": x}))
    z, v = at["z"].reshape(particles, 2, 3), at["v"].reshape(particles, 2)
    p = LOGITS.softmax(-1)
    fit = dist.Normal((z * w).sum(-1) + v, 1.0).log_prob(x)[:, 0].sum()
    kl = particles * (p * (3 * p).log()).sum()
    kl = kl + (dist.Normal(x, 0.5).log_prob(v) - dist.Normal(0.0, 1.0).log_prob(v)).sum()
    expected = (2 * kl - fit) / particles * (10 if size else 1)
    torch.manual_seed(1)
    assert objective.loss(model, guide, x=x) == pytest.approx(float(expected), rel=1e-10)
