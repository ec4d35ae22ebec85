"""Parameters and networks: pyro.param, pyro.module, PyroModule, PyroSample, PyroParam."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.transforms import affine_autoregressive, conditional_affine_coupling
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import DenseNN, PyroModule, PyroParam, PyroSample, pyro_method
from pyro.nn.module import to_pyro_module_
from torch import nn

from tests.programs.laws.handlers import DATA, by
from tests.programs.laws.program import Program

POSITIVE = constraints.positive
ROWS = torch.tensor([[0.2, -1.0], [1.3, 0.4], [-0.7, 0.9], [0.1, 0.5], [-1.4, -0.3]])
RESULT = torch.tensor([0.1, 1.6, -0.4, 0.5, -1.7])
TABLE = {"x": ROWS, "y": RESULT}


def noisy(x, y=None):
    noise = pyro.param("noise", torch.tensor(0.8), constraint=POSITIVE)
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def by_hand(x, y=None):
    loc = pyro.param("loc", lambda: torch.tensor(0.4))
    pyro.sample(
        "slope", dist.Normal(loc, pyro.param("scale", torch.tensor(0.3), constraint=POSITIVE))
    )


def sharing(x, y=None):
    """A guide that names the model's parameter, too."""
    noise = pyro.param("noise", torch.tensor(0.8), constraint=POSITIVE)
    pyro.sample("slope", dist.Normal(pyro.param("loc", torch.tensor(0.4)), 0.2 * noise))


def registered(net):
    def model(x, y=None):
        linear = pyro.module("net", net)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(linear(x).squeeze(-1) + shift, 0.5), obs=y)

    return model, AutoNormal(model)


def network():
    return registered(nn.Linear(2, 1))


class Regression(PyroModule):
    """Weights with priors, in the layer that has them."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 3.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 3.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


class Scaled(PyroModule):
    """A parameter with a constraint, and a prior that reads another."""

    def __init__(self):
        super().__init__()
        self.noise = PyroParam(torch.tensor(0.7), constraint=POSITIVE)
        self.shift = PyroSample(dist.Normal(0.0, 1.0))
        self.slope = PyroSample(lambda self: dist.Normal(self.shift, 1.0))

    def forward(self, x, y=None):
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(self.shift + self.slope * x, self.noise), obs=y)


class Methods(PyroModule):
    """Model and guide are methods of one module."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.4))
        self.scale = PyroParam(torch.tensor(0.3), constraint=POSITIVE)
        self.noise = PyroParam(torch.tensor(0.8), constraint=POSITIVE)

    @pyro_method
    def model(self, x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(slope * x, self.noise), obs=y)

    @pyro_method
    def guide(self, x, y=None):
        pyro.sample("slope", dist.Normal(self.loc, self.scale))


def methods():
    both = Methods()
    return both.model, both.guide


def bayesian_network():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    to_pyro_module_(net)
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            prior = dist.Normal(0.0, 1.0).expand(value.shape).to_event(value.dim())
            setattr(module, name, PyroSample(prior))

    def model(x, y=None):
        mean = net(x).squeeze(-1)
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model, AutoDiagonalNormal(model)


class Encoded(nn.Module):
    """q(z | x) from a network of pyro.nn, in a plain torch module."""

    def __init__(self):
        super().__init__()
        self.net = DenseNN(2, [4], param_dims=[1, 1])

    def forward(self, x, y=None):
        pyro.module("encoder", self.net)
        loc, log_scale = self.net(x)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(loc.squeeze(-1), log_scale.squeeze(-1).exp()))


def coded(x, y=None):
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def frozen():
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    return registered(net)


def of_module(make):
    def made():
        model = make()
        return model, AutoDiagonalNormal(model)

    return made


class Centre(PyroModule):
    """A normal q of the slope, its centre a parameter."""

    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.tensor(0.4))
        self.scale = PyroParam(torch.tensor(0.3), constraint=POSITIVE)

    def forward(self, x, y=None):
        pyro.sample("slope", dist.Normal(self.loc, self.scale))


def not_shown():
    """A guide of two halves, of which the first stays as it is."""
    first = Centre()

    def model(x, y=None):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        noisy(x, None if y is None else y - shift)

    def guide(x, y=None):
        with poutine.block(hide_types=["param"]):
            first(x)
            scale = pyro.param("width", torch.tensor(0.3), constraint=POSITIVE)
        pyro.sample("shift", dist.Normal(pyro.param("at", torch.tensor(0.2)), scale))

    return model, guide


def learnt_prior():
    """A density that reads its network when it is asked, after the run."""
    flow = affine_autoregressive(2, hidden_dims=[3])

    def model(x, y=None):
        pyro.module("flow", flow)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        line = pyro.sample("line", dist.TransformedDistribution(base, [flow]))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(line[0] + line[1] * x, 0.7), obs=y)

    return model, AutoNormal(model)


def learnt_likelihood():
    """The same, given what it depends on."""
    flow = conditional_affine_coupling(2, 1, hidden_dims=[3])

    def model(x, y=None):
        pyro.module("flow", flow)
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("row", len(x)):
            given = flow.condition((slope * x).unsqueeze(-1))
            pairs = None if y is None else torch.stack([x, y], -1)
            pyro.sample("pair", dist.TransformedDistribution(base, [given]), obs=pairs)

    return model, AutoNormal(model)


def without_its_parameter():
    return noisy, AutoNormal(poutine.block(noisy, expose=["slope"]))


PARAMETERS = (
    Program("pyro.param", "`pyro.param` in the model", by(noisy), DATA),
    Program("guide by hand", "`pyro.param` in the guide, lazily made", lambda: (noisy, by_hand), DATA),
    Program("shared parameter", "one `pyro.param` in model and guide", lambda: (noisy, sharing), DATA),
    Program("pyro.module", "`pyro.module`", network, TABLE),
    Program("frozen weights", "`requires_grad_(False)`", frozen, TABLE),
    Program("PyroSample", "`PyroModule`, `PyroSample`", of_module(Regression), TABLE),
    Program("PyroParam", "`PyroParam`, `PyroSample` of a function", of_module(Scaled), DATA),
    Program("pyro_method", "`pyro_method`: model and guide of one module", methods, DATA),
    Program("to_pyro_module_", "`to_pyro_module_`: a Bayesian network", bayesian_network, TABLE),
    Program("hidden parameters", '`poutine.block(hide_types=["param"])`', not_shown, DATA,
            note="they stay as they are, as Pyro's do"),
    Program("block exposes a site", "`poutine.block(expose=)` of a model with parameters",
            without_its_parameter, DATA),
    Program("learnt prior", "a flow of `pyro.distributions.transforms` as prior, by `pyro.module`",
            learnt_prior, DATA),
    Program("learnt likelihood", "a conditional flow as likelihood, by `pyro.module`", learnt_likelihood,
            DATA),
    Program("encoder", "`pyro.nn.DenseNN` in an `nn.Module`", lambda: (coded, Encoded()), TABLE),
)  # fmt: skip
