"""The bound that sums over all states of the discrete latents."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import guidebook as gb
from guidebook.errors import GuideError, ModelError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.inference.objectives.enumerated import EnumeratedELBO, all_states, enumerated_rows
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters
from tests.inference.objectives.discrete.pairs import LOGITS, X, exact_elbo, one_hot, pair


@pytest.fixture
def local():
    with local_parameters():
        yield


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
    # where the gradient is nothing but rounding Adam divides it by its own size: now and then a step leaves
    end = -np.median(fit.history[-300:])
    assert end == pytest.approx(model.log_evidence(X).sum().item(), abs=1e-6)


def test_at_most_65536_states_are_enumerated():
    assert all_states(torch.zeros(16, 2)).shape == (65_536, 16, 2)
    with pytest.raises(ModelError, match="68,921"):
        all_states(torch.zeros(3, 41))
    states = all_states(LOGITS)
    assert states.dtype is torch.float64 and states.shape == (9, 2, 3)
    assert len(states.reshape(9, 6).unique(dim=0)) == 9 and bool((states.sum(-1) == 1).all())


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("name", ["row", "person"])
def test_one_row_of_a_plate_of_any_name_inside_another(name):
    """Two looks at one person: evidence and bound are sums over the three states, by hand."""
    x, w = torch.tensor([[0.4], [-0.3]]).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    logits = LOGITS[:1]

    def model(x):
        with pyro.plate(name, 1, dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros_like(logits)))
            with pyro.plate("look", 2, dim=-2):
                pyro.sample("x", dist.Normal((z * w).sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate(name, 1, dim=-1):
            pyro.sample("z", dist.OneHotCategorical(logits=logits))

    q = logits[0].softmax(-1)
    log_joint = dist.Normal(w, 1.0).log_prob(x).sum(0) - math.log(3)
    expected = float((q * (q.log() - log_joint)).sum())
    found = EnumeratedELBO(name, 2).loss(model, guide, x=x)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("local")
def test_a_categorical_of_the_guide_is_one_in_the_model():
    def guide(x):
        one_hot()

    def model(x):
        with pyro.plate("row", 2):
            pyro.sample("z", dist.Normal(torch.zeros(2, 3).double(), 1.0).to_event(1))

    with pytest.raises(GuideError, match="in both"):
        RelaxedELBO().loss(model, guide, x=X[:2])
