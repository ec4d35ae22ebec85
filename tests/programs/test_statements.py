"""Tensors that pyro.param and pyro.module statements read: shared by a pair, lent to networks, given back."""

import copy

import pyro
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from torch import nn

from guidebook.errors import GuideError
from guidebook.programs.owned import (
    STATEMENTS,
    Owned,
    own_parameters,
    owning,
    settled,
    statements_of,
)
from guidebook.programs.statements import Shared, Statements, evaluated
from guidebook.scope import local_parameters


def test_two_programs_read_one_tensor_and_the_constraint_of_the_first():
    shared = Shared()
    one, two = Statements(shared), Statements(shared)
    one.adopt("s", torch.tensor(2.0), constraints.positive)
    two.adopt("s", torch.tensor(9.0), constraints.real)
    assert one.unconstrained[0] is two.unconstrained[0]
    assert float(two.value("s").detach()) == pytest.approx(2.0)
    assert one.value("s").unconstrained() is one.unconstrained[0]
    first, second = copy.deepcopy((one, two))
    assert first.unconstrained[0] is second.unconstrained[0] is first.shared.parameters["s"][0]
    assert first.unconstrained[0] is not one.unconstrained[0]


def test_programs_that_were_apart_share_from_now_on():
    one, two, shared = Statements(), Statements(), Shared()
    for statements, value in ((one, 1.0), (two, 2.0)):
        statements.adopt("a", torch.tensor(value), constraints.real)
        statements.keep("mean", torch.tensor(10 * value))
        statements.joins(shared)
    assert one.unconstrained[0] is two.unconstrained[0] and float(two.value("a").detach()) == 1.0
    assert one.buffer("mean") is two.buffer("mean") and float(two.buffer("mean")) == 10.0


def test_saved_values_come_back():
    statements, again = Statements(), Statements()
    statements.adopt("s", torch.tensor(0.25), constraints.unit_interval)
    statements.keep("mean", torch.tensor([3.0]))
    again.restore(statements.values(), statements.constraints)
    assert float(again.value("s").detach()) == pytest.approx(0.25)
    assert again.buffer("mean").tolist() == [3.0] and again.names == ["s"]


class Tied(nn.Module):
    """One matrix at two places, and a buffer that every run replaces."""

    def __init__(self):
        super().__init__()
        self.there, self.back = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.back.weight = self.there.weight
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x):
        self.runs = self.runs + 1
        return self.back(self.there(x))


def test_a_network_with_one_parameter_at_two_places_and_a_buffer_that_is_replaced():
    network, x = Tied(), torch.ones(1, 2)
    owned = Owned(lambda x: pyro.module("net", network)(x))
    owned(x=x)
    assert owned.names == ["net$$$there.weight"] and owned.kept == ["net$$$runs"]
    with torch.no_grad():
        owned.unconstrained[0].copy_(2 * torch.eye(2))
    assert owned(x=x).tolist() == [[4.0, 4.0]]
    assert float(owned.buffer("net$$$runs")) == 2.0
    assert float(network.runs) == 0.0 and network.back.weight is network.there.weight


def test_a_network_runs_in_the_mode_of_its_owner():
    network, seen = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1)), []
    network[1].eval()  # its user's choice

    def program():
        pyro.module("net", network)
        seen.append([m.training for m in network])

    owned = Owned(program)
    owned()
    owned.eval()()
    with evaluated(owned.train()):
        owned()
    owned()
    assert seen == [[True, False], [False, False], [False, False], [True, False]]
    assert [m.training for m in network] == [True, False]


def test_a_module_reads_its_own_statements_only_where_it_has_some():
    class Plain(nn.Module):
        def forward(self, y=None):
            return 1

    class Telling(PyroModule):
        def forward(self, y=None):
            return pyro.param("s", torch.tensor(3.0), constraint=constraints.positive)

    with local_parameters():
        model, guide = owning(Plain(), Telling())
        assert (model(y=1), float(guide(y=1).detach())) == (1, pytest.approx(3.0))
        model, guide = settled(model, guide)
        assert statements_of(model) is None and "forward" not in vars(model)
        assert own_parameters(guide) == ["s"]
        assert [n for n, _ in guide.named_parameters()] == [f"{STATEMENTS}.unconstrained.0"]
        twin = copy.deepcopy(guide)
        with torch.no_grad():
            statements_of(twin).unconstrained[0].zero_()
        assert (float(twin(y=1).detach()), float(guide(y=1).detach())) == (1, pytest.approx(3.0))


def test_what_a_function_says_of_itself_is_said_by_its_owner():
    from guidebook.programs.data import takes

    assert takes(Owned(lambda y, size=None: y), "size")
    assert not takes(Owned(lambda y: y), "size")


class _Both:
    """Runs with two networks, by pyro.module under these names; None: they are PyroModules without any."""

    def __init__(self, networks, names):
        self.networks, self.names = networks, names

    def __call__(self, x):
        for network, name in zip(self.networks, self.names, strict=True):
            if name is not None:
                pyro.module(name, network)
            x = network(x)
        return x


@pytest.mark.parametrize("name", ["net", None])
def test_two_networks_under_one_name_are_refused(name):
    """Pyro trains the first, and evaluates the second with its values or as it was made."""
    kind = nn.Linear if name else PyroModule[nn.Linear]
    program = Owned(_Both((kind(1, 1), kind(1, 1)), (name, name)))
    with (
        local_parameters(),
        pytest.raises(GuideError, match="Two networks are registered under one name"),
    ):
        program(torch.ones(2, 1))


def test_one_network_twice_and_two_under_two_names_are_not():
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    x = torch.ones(2, 1)
    program = Owned(_Both((one, one), ("net", "net")))
    assert torch.equal(program(x), one(one(x))) and len(program.names) == 2
    program = Owned(_Both((one, other), ("one", "other")))
    assert torch.equal(program(x), other(one(x))) and len(program.names) == 4


def test_a_network_made_anew_in_every_run_reads_what_the_first_one_began():
    def program(x):
        return pyro.module("net", nn.Linear(1, 1))(x)

    owner, x = Owned(program), torch.ones(2, 1)
    assert torch.equal(owner(x), owner(x))
