"""Networks of functions: trained as Pyro trains them, evaluated afterwards, saved with their buffers."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import guidebook as gb

STEPS, RATE = 5, 0.05


def network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), nn.Linear(4, 3))


def pair(decoder):
    """A decoder with running averages and dropout in functions; q is fixed but for its mean."""

    def model(x=None):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", 12):
            z = pyro.sample("z", dist.Normal(torch.zeros(12, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x=None):
        with pyro.plate("rows", 12):
            pyro.sample("z", dist.Normal(pyro.param("l", torch.zeros(12, 2)), 1.0).to_event(1))

    return model, guide


def data():
    return {"x": torch.randn(12, 3, generator=torch.Generator().manual_seed(1))}


@pytest.fixture(scope="module")
def fitted():
    decoder = network()
    model, guide = pair(decoder)
    settings = {"optim": pyro.optim.Adam({"lr": RATE}), "steps": STEPS, "progress": False}
    fit = gb.svi(model, guide, data(), objective=Trace_ELBO(), compile=False, seed=4, **settings)
    return fit, decoder


def test_steps_and_running_averages_are_those_of_pyro(fitted):
    fit, _ = fitted
    decoder = network()
    torch.manual_seed(4)
    svi = SVI(*pair(decoder), pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
    losses = [svi.step(**data()) for _ in range(STEPS)]
    pyro.clear_param_store()
    np.testing.assert_allclose(fit.history, losses, rtol=1e-5)
    found = fit.model.values()
    state = {f"decoder$$${name}": value for name, value in decoder.state_dict().items()}
    assert set(found) == set(state)
    for name, value in state.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert int(found["decoder$$$1.num_batches_tracked"]) == STEPS


def test_the_network_of_the_user_stays_as_it_was(fitted):
    _, decoder = fitted
    assert all(m.training for m in decoder.modules())
    for name, value in network().state_dict().items():
        assert torch.equal(decoder.state_dict()[name], value)
    assert all(isinstance(p, nn.Parameter) for p in decoder.parameters())


def test_the_density_of_the_fit_is_that_of_the_network_in_evaluation_mode(fitted):
    fit, _ = fitted
    values = fit.model.values()
    decoder = network()
    decoder.load_state_dict({n.removeprefix("decoder$$$"): v for n, v in values.items()})
    decoder.eval()
    tree = fit.posterior(20)
    z = torch.tensor(tree["posterior"]["z"].values[0])
    with torch.no_grad():
        log_p = dist.Normal(0.0, 1.0).log_prob(z).sum((1, 2))
        mean = decoder(z.reshape(-1, 2).float()).reshape(20, 12, 3)
        log_p += dist.Normal(mean, 1.0).log_prob(data()["x"]).sum((1, 2))
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], log_p, rtol=1e-5)
    after = fit.model.values()
    assert all(torch.equal(after[name], value) for name, value in values.items())


def test_a_saved_fit_has_its_running_averages(fitted, tmp_path):
    fit, _ = fitted
    torch.manual_seed(9)
    other = copy.deepcopy(network())  # untrained, with averages of its own
    other[1].running_mean.fill_(7.0)
    model, guide = pair(other)
    again = gb.load(fit.save(tmp_path / "fit.pt"), model=model, guide=guide, data=data())
    u = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    for left, right in zip(again.potential(u), fit.potential(u), strict=True):
        torch.testing.assert_close(left, right)
    assert float(other[1].running_mean[0]) == 7.0
