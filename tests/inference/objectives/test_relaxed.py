"""Relaxed and enumerated objectives of categorical latents against sums over all states."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import guidebook as gb
from guidebook.errors import GuideError, ModelError, SettingError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.enumerated import EnumeratedELBO, enumerated_rows
from guidebook.inference.objectives.relaxed import RelaxedELBO, gumbel_softmax
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters

X = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()


def pair(latents=2, categories=3):
    torch.manual_seed(0)
    model = DiscreteVAE(5, latents, categories, (6,)).double()
    encoder = mlp((5, 6, latents * categories))
    return model, AmortizedCategorical(encoder, latents, categories).double()


@pytest.fixture
def local():
    with local_parameters():
        yield


def exact_elbo(model, guide):
    states = model.states()
    with torch.no_grad():
        log_q = guide.posterior(X).base_dist.logits  # (n, L, K)
        log_q = torch.einsum("nlk,slk->ns", log_q, states)
        return (log_q.exp() * (model.log_joint(X) - log_q)).sum()


@pytest.mark.usefixtures("local")
def test_the_enumerated_bound_is_the_sum_over_states():
    model, guide = pair()
    expected = exact_elbo(model, guide).item()
    assert -EnumeratedELBO().loss(model, guide, x=X) == pytest.approx(expected, rel=1e-12)
    assert -EnumeratedELBO().loss(model, guide, x=X, size=80) == pytest.approx(10 * expected)
    log_p, log_q, _ = enumerated_rows(model, guide, {"x": X})
    torch.testing.assert_close(log_p.logsumexp(0), model.log_evidence(X), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(8).double(), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("local")
def test_the_enumerated_bound_is_pyros_with_a_plate_of_latents():
    """TraceEnum_ELBO enumerates a plate of one latent; the same parameters give the same bound."""
    torch.manual_seed(0)
    decoder, encoder = mlp((3, 6, 5)).double(), mlp((5, 3)).double()

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(logits=x.new_zeros(3)))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("row", len(x)):
            pyro.sample(
                "z", dist.OneHotCategorical(logits=encoder(x)), infer={"enumerate": "parallel"}
            )

    theirs = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x=X)
    assert EnumeratedELBO().loss(model, guide, x=X) == pytest.approx(theirs, rel=1e-10)


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


def test_training_the_exact_bound_with_a_table_for_an_encoder_reaches_the_evidence():
    """With one latent and a free q for every row the gap closes: a categorical is any distribution."""
    model, _ = pair(1, 4)
    model.requires_grad_(False)
    rows = torch.eye(8, dtype=torch.float64)

    class Table(AmortizedCategorical):
        def posterior(self, x):
            return super().posterior(rows)

    guide = Table(torch.nn.Linear(8, 4).double(), 1, 4)
    fit = gb.svi(
        model, guide, {"x": X}, objective=EnumeratedELBO(), steps=3000, progress=False,
        optim=pyro.optim.Adam({"lr": 0.03}),
    )  # fmt: skip
    assert -fit.history[-1] == pytest.approx(model.log_evidence(X).sum().item(), abs=1e-4)


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
