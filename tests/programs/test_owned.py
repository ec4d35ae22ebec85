"""Functions with pyro.param as modules: the values of Pyro's store, kept in the module alone."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

import guidebook as gb
from guidebook.errors import GuideError, ModelError
from guidebook.programs.owned import (
    Joined,
    Owned,
    copied,
    dtype_of,
    parameters_of,
    working_precision,
)
from guidebook.programs.statements import make_local
from guidebook.scope import local_parameters


def guide(n=2):
    loc = pyro.param("loc", torch.full((n,), 1.5))
    scale = pyro.param("scale", lambda: torch.full((n,), 0.3), constraint=constraints.positive)
    return loc, scale


@pytest.mark.parametrize(
    ("constraint", "value"),
    [
        (constraints.real, [-1.0, 2.0]),
        (constraints.positive, [0.2, 5.0]),
        (constraints.unit_interval, [0.1, 0.9]),
        (constraints.interval(-2.0, 3.0), [-1.9, 2.9]),
        (constraints.simplex, [0.3, 0.7]),
        (constraints.ordered_vector, [-1.0, 2.0]),
    ],
)
def test_a_parameter_has_the_value_it_was_given(constraint, value):
    owned, value = Owned(lambda: None), torch.tensor(value)
    owned.adopt("p", value, constraint)
    assert torch.allclose(owned.value("p"), value, atol=1e-6)
    assert [p.requires_grad for p in owned.parameters()] == [True]


def test_it_gives_what_pyro_gives_and_leaves_the_store_empty():
    expected = [value.detach() for value in guide()]
    pyro.clear_param_store()
    owned = Owned(guide)
    for ours, theirs in zip(owned(n=2), expected, strict=True):
        assert torch.allclose(ours, theirs)
    assert owned.names == ["loc", "scale"]
    assert not list(pyro.get_param_store())


def test_it_reads_its_own_values_at_the_second_run():
    owned = Owned(guide)
    owned(n=2)
    with torch.no_grad():
        owned.unconstrained[0].fill_(7.0)
        owned.unconstrained[1].zero_()  # log 1
    loc, scale = owned(n=2)
    assert torch.equal(loc, torch.full((2,), 7.0))
    assert torch.equal(scale, torch.ones(2))


def test_two_of_one_function_share_nothing():
    one, two = Owned(guide), Owned(guide)
    one(n=2)
    two(n=2)
    with torch.no_grad():
        one.unconstrained[0].fill_(9.0)
    assert torch.equal(two.value("loc"), torch.full((2,), 1.5))


def test_a_parameter_that_is_read_before_it_is_made():
    def early():
        pyro.param("p")

    with pytest.raises(KeyError, match="read before it has an initial value"):
        Owned(early)()


def test_a_network_of_pyro_module_gets_values_of_the_module_for_the_run_only():
    network = nn.Linear(2, 1)
    before = copy.deepcopy(network.state_dict())

    def decode(x):
        return pyro.module("decoder", network)(x)

    owned, x = Owned(decode), torch.ones(1, 2)
    assert torch.allclose(owned(x=x), network(x))
    assert owned.names == ["decoder$$$weight", "decoder$$$bias"]
    with torch.no_grad():
        for parameter in owned.unconstrained:
            parameter.fill_(2.0)
    assert float(owned(x=x).detach()) == 6.0
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(isinstance(p, nn.Parameter) for p in network._parameters.values())
    assert pyro.module.__module__ == "pyro.primitives"


def test_the_network_is_put_back_when_the_run_fails():
    network = nn.Linear(2, 1)
    weight = network.weight

    def broken():
        pyro.module("net", network)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Owned(broken)()
    assert network.weight is weight
    assert pyro.module.__module__ == "pyro.primitives"


def test_a_network_that_is_frozen_stays_out():
    network = nn.Linear(2, 1)
    network.weight.requires_grad_(False)
    owned = Owned(lambda: pyro.module("net", network))
    owned()
    assert owned.names == ["net$$$bias"]


def test_a_copy_of_pyro_module_is_refused():
    network, module = nn.Linear(1, 1), pyro.module

    with pytest.raises(GuideError, match="from pyro import module"):
        Owned(lambda: module("net", network))()


def test_joined_computes_an_objective_of_both():
    joined = Joined(lambda y: 2 * y, nn.Linear(1, 1))
    assert isinstance(joined.model, Owned)
    assert isinstance(joined.guide, nn.Linear)
    assert joined(lambda model, guide, y: model(y=y), {"y": 3}) == 6


def story(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_copies_share_what_the_originals_share_and_nothing_with_them():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 1)

        def forward(self, y=None):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(self.net(z.reshape(1)).squeeze(), 1.0), obs=y)

    with local_parameters():
        model = Model()
        auto = AutoNormal(model)
        auto(torch.tensor(0.5))
        kept = auto.model
        twin, twin_auto = copied(model, auto)
        assert auto.model is kept  # Pyro's autoguides drop it when they are copied
        with torch.no_grad():
            twin.net.bias.fill_(1000.0)
        of_twin, of_model = (
            float(pyro.poutine.trace(guide.model).get_trace().nodes["y"]["fn"].loc.detach())
            for guide in (twin_auto, auto)
        )
    assert of_twin > 900 > of_model
    assert twin is not model
    assert {id(p) for p in twin_auto.parameters()}.isdisjoint({id(p) for p in auto.parameters()})
    assert torch.equal(twin.net.weight, model.net.weight)
    assert twin.net.weight is not model.net.weight


def test_a_module_made_in_pyros_default_mode_becomes_local():
    module = PyroModule()
    module.scale = PyroParam(torch.ones(1), constraint=constraints.positive)
    assert not hasattr(module._pyro_context, "param_state")
    make_local(module)
    assert module._pyro_context.param_state == {"params": {}, "constraints": {}}
    make_local(story)  # a function has none


def test_parameters_and_precision():
    single, double = nn.Linear(1, 1), nn.Linear(1, 1).double()
    assert parameters_of(story, None) == []
    assert len(parameters_of(single, double.forward)) == 4
    assert dtype_of(story, None) is torch.float64
    assert dtype_of(single, None) is torch.float32
    assert dtype_of(story, double) is torch.float64


def test_single_precision_is_tried_where_the_message_speaks_of_dtypes():
    def attempt(dtype):
        if dtype is torch.float64:
            raise ModelError("expected m1 and m2 to have the same dtype")
        return dtype

    assert working_precision(story, None, attempt) is torch.float32


def test_buffers_say_the_precision_where_there_are_no_parameters():
    buffers, both = nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2).double()
    both.running_mean = both.running_mean.float()
    assert dtype_of(buffers, None) is torch.float32
    assert dtype_of(buffers.double(), None) is torch.float64
    assert dtype_of(both, None) is torch.float64  # of its parameters


class Weighted(PyroModule):
    """A regression whose prior and covariates are float32 buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("W", torch.arange(12.0).reshape(4, 3) / 9)
        self.register_buffer("a", torch.tensor(2.0))

    def forward(self, y=None):
        b = pyro.sample("b", dist.Gamma(self.a, self.a).expand([3]).to_event(1))
        pyro.sample("y", dist.Normal(self.W @ b, 1.0).to_event(1), obs=y)


def test_a_module_of_float32_buffers_is_fitted_in_float32():
    y = torch.ones(4, dtype=torch.float64)
    fit = gb.svi(Weighted(), AutoNormal(Weighted()), {"y": y}, steps=3, progress=False)
    assert fit.potential.dtype is torch.float32
    assert {p.dtype for p in fit.guide.parameters()} == {torch.float32}
    double = gb.laplace(Weighted().double(), {"y": y})
    assert double.potential.dtype is torch.float64


def test_precisions_that_meet_are_named():
    mixed = Weighted()
    mixed.W = mixed.W.double()
    mixed.shift = nn.Parameter(torch.zeros(1))
    with pytest.raises(ModelError, match=r"float32: 'shift', float64: 'W'\): make them all of one"):
        gb.laplace(mixed, {"y": torch.ones(4)})


def test_another_error_is_raised_at_once():
    tried = []

    def attempt(dtype):
        tried.append(dtype)
        raise ModelError("no latent site")

    with pytest.raises(ModelError, match="no latent site"):
        working_precision(story, None, attempt)
    assert tried == [torch.float64]
