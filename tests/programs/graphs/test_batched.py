"""A loop whose steps do not wait for each other becomes a few operations, to the bit."""

from itertools import pairwise

import pytest
import torch
from torch.utils._pytree import tree_leaves

from guidebook.programs.graphs import batched as room
from guidebook.programs.graphs.recorded import record
from guidebook.programs.graphs.tape import taped
from guidebook.scope import precision

aten = torch.ops.aten
Y = torch.linspace(-1.0, 1.0, 200, dtype=torch.float64).sin()


def regression(x, count):
    """Independent terms: everything is one operation."""
    total = x.new_zeros(())
    for y in Y[:count]:
        total = total + (-(((y - x[0]) / x[1]) ** 2) - (x[1] + y.exp()).log())
    return total


def moving_average(x, count):
    """The mean waits for the step before it, the density does not."""
    error, total = x.new_zeros(()), x.new_zeros(())
    for y in Y[:count]:
        error = y - x[0] - x[1].tanh() * error
        total = total + -((error / x[2]) ** 2)
    return total


def walk(x, count):
    """Every state is read with the one before it; in pieces, and from its end."""
    states = [piece[0] for piece in x[:count].split(1)]
    total = x.new_zeros(())
    for before, now in pairwise(states):
        total = total + -(now - 0.5 * before).exp()
    for now, y in zip(reversed(states), Y[:count], strict=True):
        total = total + (y - now.exp()) ** 2 * -0.5
    return total


def writes_between(x, count):
    """The state is read before and after every write."""
    state, total = x[:2].clone(), x.new_zeros(())
    for y in Y[:count]:
        total = total + (state * y).exp().sum()
        state.add_(0.01 * x[2])
        total = total + (state * y).exp().sum()
    return total


def draws(x, count):
    total = x.new_zeros(())
    for y in Y[:count]:
        total = total + (x[0] + x[1].exp() * torch.randn(())) * y
    return total


LOOPS = (regression, moving_average, walk, writes_between, draws)


def found(graph, x):
    torch.manual_seed(1)
    with torch.no_grad():
        return tree_leaves(graph(x))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("dtype", "rows"), [(torch.float32, 3), (torch.float64, 0)])
def test_the_bits_stay(loop, dtype, rows):
    def gradient(x):
        return torch.func.grad_and_value(lambda v: loop(v, 12))(x)

    many = torch.func.vmap(gradient, randomness="different")
    with precision(dtype):
        x = torch.linspace(0.3, 1.2, 20, dtype=dtype)
        x = x + torch.arange(rows)[:, None] / 7 if rows else x
        graphs = [make(many if rows else gradient, x.clone()) for make in (taped, record)]
        for one, other in zip(*(found(graph, x + 0.25) for graph in graphs), strict=True):
            assert torch.equal(one, other)


def operations(loop, count):
    graph = record(lambda x: loop(x, count), torch.linspace(0.3, 1.2, count, dtype=torch.float64))
    return [n.target for n in graph.graph.nodes if n.op == "call_function"]


def work(loop, count):
    """Operations that are no views."""
    views = ("getitem", "select.int", "view.default", "slice.Tensor")
    return sum(
        not str(target).endswith(views) and "getitem" not in str(target)
        for target in operations(loop, count)
    )


def test_what_does_not_wait_does_not_grow_with_time():
    assert work(regression, 200) <= work(regression, 20) <= 16
    assert work(walk, 200) <= work(walk, 20) <= 24


def test_what_waits_grows_and_nothing_else():
    """y - m - tanh(t) * e: three operations a step, of which the first does not wait."""
    assert 198 <= work(moving_average, 200) - work(moving_average, 100) <= 200


def test_fewer_than_eight_stay_as_they_are():
    count = room.LEAST - 1
    graph = record(lambda x: regression(x, count), X := torch.ones(2, dtype=torch.float64))
    assert [n.target for n in graph.graph.nodes].count(aten.stack.default) == 0
    assert aten.cumsum.default not in operations(regression, count)
    assert aten.cumsum.default in operations(regression, room.LEAST + 1) and len(X) == 2


@pytest.mark.parametrize(
    "function", [torch.exp, torch.log, torch.log1p, torch.sqrt, torch.square, torch.reciprocal]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operations_taken_together_have_the_bits_of_one_number(function, dtype):
    x = torch.rand(1000, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 6 + 0.01
    whole = function(x)
    for size in (1, 3, 7, 16):
        assert torch.equal(torch.cat([function(v.clone()) for v in x.split(size)]), whole)
    assert torch.equal(torch.stack([function(v.clone()) for v in x]), whole)


def test_a_cumulative_sum_is_the_sum_one_by_one():
    x = torch.randn(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = x[0]
    for row in x[1:]:
        total = total + row
    assert torch.equal(x.cumsum(0)[-1], total)
