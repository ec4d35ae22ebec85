"""The categorical decoder against its equation and a sum over its states; its guide's shapes."""

import itertools

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats
from scipy.special import logsumexp

from guidebook.errors import GuideError, ModelError, SettingError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.scope import local_parameters

X = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)
    with local_parameters():
        yield


def test_log_joint_and_evidence_are_sums_written_out():
    model = DiscreteVAE(5, 2, 3, (4,)).double()
    terms = []
    for i, j in itertools.product(range(3), range(3)):
        z = torch.zeros(2, 3, dtype=torch.float64)
        z[0, i] = z[1, j] = 1.0
        p = model.decode(z).detach().numpy()
        terms.append(-2 * np.log(3) + stats.bernoulli(p).logpmf(X.numpy()).sum(-1))
        with torch.no_grad():
            conditioned = poutine.condition(model, {"z": z.expand(4, 2, 3)})
            whole = poutine.trace(conditioned).get_trace(X).log_prob_sum().item()
        assert whole == pytest.approx(terms[-1].sum(), rel=1e-12)
    expected = np.stack(terms, -1)
    np.testing.assert_allclose(model.log_joint(X).detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(model.log_evidence(X).detach(), logsumexp(expected, -1), rtol=1e-12)


def test_shapes_simulation_and_mini_batches():
    model = DiscreteVAE(5, 2, 3, (4,)).double()
    trace = poutine.trace(model).get_trace(size=9)
    assert trace.nodes["z"]["value"].shape == (9, 2, 3)
    assert trace.nodes["x"]["value"].shape == (9, 5)
    assert bool((trace.nodes["z"]["value"].sum(-1) == 1).all())
    assert model.decode(torch.rand(7, 4, 2, 3, dtype=torch.float64)).shape == (7, 4, 5)
    guide = AmortizedCategorical(torch.nn.Linear(5, 6), 2, 3).double()
    posterior = guide.posterior(X)
    assert (posterior.batch_shape, posterior.event_shape) == ((4,), (2, 3))
    part = poutine.trace(guide).get_trace(x=X, size=40)
    expected = 10 * posterior.log_prob(part.nodes["z"]["value"]).sum()
    torch.testing.assert_close(part.log_prob_sum(), expected, rtol=1e-12, atol=1e-12)


def test_settings_out_of_range():
    for arguments in ((0, 2, 3), (5, 0, 3), (5, 2, 1)):
        with pytest.raises(SettingError, match="two categories"):
            DiscreteVAE(*arguments)
    with pytest.raises(GuideError, match="two categories"):
        AmortizedCategorical(torch.nn.Linear(5, 6), 2, 1)
    with pytest.raises(GuideError, match="last layer 6 outputs"):
        AmortizedCategorical(torch.nn.Linear(5, 4), 2, 3).double()(X)
    with pytest.raises(GuideError, match="pass x=tensor"):
        AmortizedCategorical(torch.nn.Linear(5, 6), 2, 3)(size=3)
    with pytest.raises(ModelError, match="size=0"):
        DiscreteVAE(5, 2, 3)(size=0)
    with pytest.raises(ModelError, match="states"):
        DiscreteVAE(5, 20, 10).states()
