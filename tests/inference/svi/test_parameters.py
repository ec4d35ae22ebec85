"""Parameters of model and guide, wherever they are written: every step is the step of pyro.infer.SVI."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from pyro.infer.autoguide.initialization import init_to_mean
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam
from torch import nn

import guidebook as gb
from guidebook.scope import precision

STEPS, RATE = 6, 0.05
Y = torch.tensor([3.1, 2.2, 5.0, 4.4, -0.7, 1.9], dtype=torch.float64)
X = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)


def tied():
    """The guide's standard deviation is the model's noise: one pyro.param in both."""

    def model(y=None):
        s = pyro.param("s", torch.tensor(1.5), constraint=constraints.positive)
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(m, s), obs=y)

    def guide(y=None):
        s = pyro.param("s", torch.tensor(1.5), constraint=constraints.positive)
        pyro.sample("m", dist.Normal(pyro.param("l", torch.tensor(0.5)), s))

    return model, guide, {"y": Y}


def _line(network):
    def model(x, y=None):
        pyro.module("slope", network)
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(m + network(x[:, None])[:, 0], 1.0), obs=y)

    return model


def _linear():
    torch.manual_seed(3)
    return nn.Linear(1, 1)


def one_network():
    """A network that both register, under two names."""
    network = _linear()

    def guide(x, y=None):
        pyro.module("other", network)
        pyro.sample("m", dist.Normal(network.weight.sum(), 0.3))

    return _line(network), guide, {"x": X, "y": Y}


def network_of_the_guide():
    """A network that the model registers and the guide, a PyroModule, holds."""
    network = _linear()

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.network = network
            self.scale = PyroParam(torch.tensor(0.3), constraint=constraints.positive)

        def forward(self, x, y=None):
            pyro.sample("m", dist.Normal(self.network(x[:1, None]).sum(), self.scale))

    return _line(network), Guide(), {"x": X, "y": Y}


def called_module():
    """A PyroModule that a function calls without registering it."""
    torch.manual_seed(3)
    net = PyroModule[nn.Linear](1, 1)
    net.bias = PyroParam(torch.full((1,), 0.7), constraint=constraints.positive)

    def model(x, y=None):
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", 6):
            pyro.sample("y", dist.Normal(m + net(x[:, None])[:, 0], 1.0), obs=y)

    return model, AutoNormal(model), {"x": X, "y": Y}


def easy():
    """An EasyGuide with a pyro.param statement."""

    def model(y=None):
        m, s = pyro.sample("m", dist.Normal(0.0, 5.0)), pyro.sample("s", dist.LogNormal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, s).expand([6]).to_event(1), obs=y)

    @easy_guide(model)
    def guide(self, y=None):
        loc = pyro.param("loc", torch.tensor([1.0, 0.5]))
        self.group(match="m|s").sample("both", dist.Normal(loc, 0.3).to_event(1))

    return model, guide, {"y": Y}


def reparametrised():
    """A degree of centring that is learnt."""

    def model(y=None):
        m, t = pyro.sample("m", dist.Normal(0.0, 5.0)), pyro.sample("t", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", 6):
            z = pyro.sample("z", dist.Normal(m, t))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    story = poutine.reparam(model, {"z": LocScaleReparam()})
    return story, AutoNormal(story), {"y": Y}


def rows_of_a_batch():
    """Parameters of rows, of which a plate takes some."""

    def model(y):
        with pyro.plate("rows", 6, subsample_size=4) as rows:
            pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y[rows])

    def guide(y):
        with pyro.plate("rows", 6, subsample_size=4):
            scale = pyro.param("scale", 0.5 + torch.arange(6) / 6, constraints.positive, 0)
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.arange(6.0), event_dim=0), scale))

    return model, guide, {"y": Y}


def listed():
    """An autoguide of some sites and a function of the others."""

    def model(y=None):
        m, s = pyro.sample("m", dist.Normal(0.0, 5.0)), pyro.sample("s", dist.LogNormal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, s).expand([6]).to_event(1), obs=y)

    def of_m(y=None):
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(2.0)), 0.4))

    guide = AutoGuideList(model)
    guide.append(AutoDelta(poutine.block(model, hide=["m"]), init_loc_fn=init_to_mean))
    guide.append(of_m)
    return model, guide, {"y": Y}


def statements_of_modules():
    """Modules with pyro.param and pyro.module statements of their own, one name in both."""

    class Story(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _linear()

        def forward(self, x, y=None):
            pyro.module("story", self)
            s = pyro.param("s", torch.tensor(2.0), constraint=constraints.positive)
            m = pyro.sample("m", dist.Normal(0.0, 10.0))
            with pyro.plate("rows", 6):
                pyro.sample("y", dist.Normal(m + self.net(x[:, None])[:, 0], s), obs=y)

    class Family(PyroModule):
        def forward(self, x, y=None):
            s = pyro.param("s", torch.tensor(2.0), constraint=constraints.positive)
            pyro.sample("m", dist.Normal(pyro.param("l", torch.tensor(0.5)), s))

    return Story(), Family(), {"x": X, "y": Y}


PAIRS = (
    tied, one_network, network_of_the_guide, called_module, easy, reparametrised, rows_of_a_batch,
    listed, statements_of_modules,
)  # fmt: skip


def of_pyro(pair):
    """The losses of pyro.infer.SVI."""
    with precision(torch.float64):
        model, guide, data = pair()
        for part in (model, guide):
            if isinstance(part, nn.Module):
                part.double()
        pyro.clear_param_store()
        guide(**data)  # as Guidebook runs both once before the first step
        pyro.clear_param_store()
        torch.manual_seed(5)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
        losses = [svi.step(**data) for _ in range(STEPS)]
    pyro.clear_param_store()
    return losses


@pytest.mark.parametrize("compile", ["graph", False])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
def test_the_steps_are_those_of_pyro(pair, compile):
    with precision(torch.float64):
        model, guide, data = pair()
    before = {id(p): p.detach().clone() for part in (model, guide) if isinstance(part, nn.Module)
              for p in part.parameters()}  # fmt: skip
    fit = gb.svi(
        model, guide, data, objective=Trace_ELBO(), optim=pyro.optim.Adam({"lr": RATE}),
        steps=STEPS, seed=5, compile=compile, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(fit.history, of_pyro(pair), rtol=1e-6)
    assert len(set(fit.history)) == STEPS
    assert not list(pyro.get_param_store())
    for part in (model, guide):
        if isinstance(part, nn.Module):
            assert all(torch.equal(p, before[id(p)]) for p in part.parameters() if id(p) in before)
