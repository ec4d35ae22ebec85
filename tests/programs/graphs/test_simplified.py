"""A simplified graph gives the bits, the draws and the writes of the graph as it was taken down."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from guidebook.programs.graphs.recorded import record
from guidebook.programs.graphs.tape import taped

aten = torch.ops.aten
X = torch.tensor([0.3, 1.2, 2.0], dtype=torch.float64)
DATA = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64)


def calls(graph: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def over_time(x):
    total = x.new_zeros(())
    for y in DATA:
        total = total - 0.5 * ((y - x[0]) / x[1]) ** 2 - x[1].log() - torch.tensor(2.0).log()
    return total


def reads_before_and_after_a_write(x):
    state = x.clone()
    before = state * 3
    view = state[:2]
    state.add_(1)
    return before, state * 3, view * 3, state[:2] * 3


def draws_twice(x):
    return x * torch.randn(3), x * torch.randn(3), torch.randn_like(x) + torch.randn_like(x)


def neutral(x):
    one, zero = torch.ones(3), torch.zeros(3)
    return (
        (x * 1 + 0.0) / 1,
        x * one,
        one * x,
        x + zero,
        x - zero,
        x.expand(3),
        x.view(3),
        x.sum().sum(),
    )


def not_neutral(x):
    """Another shape or dtype, or the other side: all of them change something."""
    one = torch.ones(2, 3)
    return x * one, x.float() + torch.zeros(3), 0 - x, 1 / x, x - 0.5, x * torch.tensor([1.0, 2, 1])


def of_numbers_alike(x):
    return x.pow(1), x.pow(1.0), x * 0.0, x * -0.0, x.clamp(min=0), x.clamp(max=0)


def written_literals(x):
    first, second = torch.zeros(3), torch.zeros(3)
    first.add_(1)
    return x + first, x + second, torch.zeros(3) + x.floor()


FUNCTIONS = (
    over_time, reads_before_and_after_a_write, draws_twice, neutral, not_neutral, of_numbers_alike,
    written_literals,
)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("way", ["as it is", "mapped", "gradient"])
def test_the_bits_stay(function, way):
    def summed(v):
        return sum(t.double().sum() for t in tree_leaves(function(v)))

    ways = {
        "as it is": function,
        "mapped": lambda x: torch.func.vmap(function, randomness="different")(x.expand(2, 3)),
        "gradient": lambda x: torch.func.grad_and_value(summed)(x),
    }
    graphs = record(ways[way], X.clone()), taped(ways[way], X.clone())
    found = []
    for graph in graphs:
        torch.manual_seed(1)
        x = X + 0.25
        with torch.no_grad():
            found.append([*tree_leaves(graph(x)), x])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert torch.equal(one, other) and torch.equal(one.signbit(), other.signbit())
    assert len(calls(graphs[0])) <= len(calls(graphs[1]))


def test_what_does_not_change_over_time_is_computed_once():
    graph = record(over_time, X)
    assert calls(graph).count(aten.log.default) == 1
    assert len(calls(graph)) < 0.75 * len(calls(taped(over_time, X)))


def test_literals_are_constants_and_data_are_not():
    data = torch.ones(3)
    graph = record(lambda x: x * (torch.tensor(2.0).exp() * 3) + (data + 1), X)
    assert calls(graph).count(aten.exp.default) == 0
    before = graph(X)
    data.fill_(5.0)
    torch.testing.assert_close(graph(X) - before, torch.full_like(X, 4.0))


def test_the_code_tells_one_constant_from_another():
    codes = {record(lambda x, c=c: x * torch.tensor(c), X).code for c in (0.5, 0.25, 0.5)}
    assert len(codes) == 2


def test_draws_are_as_many_and_results_share_no_memory():
    assert calls(record(draws_twice, X)).count(aten.randn.default) == 2
    x = X.clone()
    first, second = record(lambda x: (x * 2, x * 2), x)(x)
    (same,) = record(lambda x: (x * 1,), x)(x)
    assert len({t.data_ptr() for t in (x, first, second, same)}) == 4
