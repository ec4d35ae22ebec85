"""The tape writes down what torch's own tracer, make_fx, does: the same operations, the same results."""

import gc
import operator
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import guidebook as gb
from guidebook.programs.graphs.tape import IDLE, DependsOnValues, taped
from guidebook.scope import precision

OUTSIDE = torch.tensor([0.5, -1.0, 2.0])
WEIGHT = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
X = torch.tensor([0.3, -1.2, 2.0])


def arithmetic(x):
    return (x * 2.0 + OUTSIDE).exp().sum(), {"kept": x.sin() * WEIGHT}


def draws(x):
    return x + torch.randn(3) * torch.rand_like(x)


def writes(x):
    x.mul_(0.5)
    x[0].add_(1.0)
    return x.clone(), x


def writes_into_a_constant(x):
    constant = torch.tensor([1.0, 2.0, 3.0])
    constant.add_(x)
    return constant * 2


def several_results(x):
    values, places = x.sort()
    first, rest = x.split([1, 2])
    return values, places, rest / first


def factors(x):
    return torch.linalg.cholesky(x.outer(x) + 4 * torch.eye(3)).logdet()


def of_lists(x):
    return torch.cat([x, OUTSIDE]).reshape(2, 3)[torch.tensor([1, 0])]


def branches_on_a_constant(x):
    limit = torch.tensor(3.0) * 2
    return x * 2 if limit > 5 and OUTSIDE.sum() is not None and limit.item() == 6 else x


def parts_composites(x):
    return torch.nn.functional.softmax(x, -1) @ torch.nn.functional.linear(x, torch.eye(3))


def gradient(function, x):
    return torch.func.grad_and_value(lambda v: function(v).square().sum())(x)


def mapped(function, x):
    return torch.func.vmap(function, randomness="different")(torch.stack([x, x + 1, x - 2]))


def by_autograd(x):
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad((x.exp() * x).sum(), x)


FUNCTIONS = {
    f.__name__: f
    for f in (
        arithmetic, draws, writes, writes_into_a_constant, several_results, factors, of_lists,
        branches_on_a_constant, parts_composites, by_autograd,
    )
}  # fmt: skip
FUNCTIONS |= {
    "gradient of a composite": partial(gradient, parts_composites),
    "gradient of a factor": partial(gradient, factors),
    "mapped draws": partial(mapped, draws),
    "mapped gradient": partial(mapped, partial(gradient, draws)),
}


def operations(graph):
    """What the graph does, in order."""
    calls = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    return [target for target in calls if target not in IDLE and target is not operator.getitem]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_writes_down_what_torchs_tracer_does(name):
    function = FUNCTIONS[name]
    torch.manual_seed(0)
    ours = taped(function, X.clone())
    after_ours = torch.get_rng_state()
    torch.manual_seed(0)
    theirs = make_fx(function)(X.clone())
    assert torch.equal(after_ours, torch.get_rng_state())
    theirs.graph.eliminate_dead_code()
    assert operations(ours) == operations(theirs)
    found = []
    for call in (function, ours, theirs):
        torch.manual_seed(1)
        x = X + 0.25
        with torch.no_grad():
            found.append((torch.utils._pytree.tree_leaves(call(x)), x))
    for results, x in found[1:]:
        assert len(results) == len(found[0][0])
        assert torch.equal(x, found[0][1])
        for one, other in zip(results, found[0][0], strict=True):
            assert torch.equal(one, other)


def test_a_graph_run_twice_starts_from_the_same_constants():
    graph = taped(writes_into_a_constant, X)
    assert torch.equal(graph(X), graph(X))


def test_what_a_program_takes_from_outside_is_read_at_every_call():
    outside = torch.ones(3)
    graph = taped(lambda x: x + outside, X)
    with torch.no_grad():
        outside.fill_(10.0)
    assert torch.equal(graph(X), X + 10)


def test_what_nothing_reads_is_left_out_but_what_writes_or_checks_is_kept():
    """Draws too are left out, as TorchScript does: the two ways to run a graph draw the same numbers."""

    def function(x, state):
        x.exp()
        state.add_(1)
        torch.randn(2)
        torch.linalg.cholesky(x.outer(x) + 4 * torch.eye(3))
        return x * 2

    graph = taped(function, X, torch.zeros(1))
    aten = torch.ops.aten
    assert aten.randn.default not in operations(graph)
    assert aten.add_.Tensor in operations(graph)
    assert aten._linalg_check_errors.default in operations(graph)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * float(x[0]),
        lambda x: x * torch.randn(()).item(),
        lambda x: x if torch.equal(x, OUTSIDE) else -x,
        lambda x: x * (x.add_(1).sum() * torch.tensor(2.0)).item(),
    ],
)
def test_a_value_that_depends_on_an_input_or_on_chance_cannot_be_read(reads):
    with pytest.raises(ValueError, match="data-dependent control flow"):
        taped(reads, X.clone())


def test_an_input_itself_cannot_be_read():
    with pytest.raises(ValueError, match="data-dependent control flow"):
        taped(lambda x: x * 2 if x else x, torch.tensor(1.0))


def test_data_from_outside_can_be_read_until_it_is_written():
    count = torch.tensor(2)
    assert torch.equal(taped(lambda x: x * count.item(), X)(X), 2 * X)
    with pytest.raises(ValueError, match="data-dependent"):
        taped(lambda x: x * count.add_(x.sum().long()).item(), X)


def test_constants_have_the_dtype_of_the_recording():
    with precision(torch.float64):
        graph = taped(lambda x: x + torch.full((3,), 1 / 3) + torch.ones(3) / 7, X)
    assert graph(X).dtype is torch.float64
    torch.testing.assert_close(graph(X), X.double() + 1 / 3 + 1 / 7, rtol=1e-7, atol=0)


def test_the_graph_says_how_large_its_results_are():
    graph = taped(lambda x: x.outer(x).sum(), X)
    sizes = [n.meta["elements"] for n in graph.graph.nodes if n.target is torch.ops.aten.mul.Tensor]
    assert sizes == [9]


def test_without_autograd_composite_operations_are_taken_apart_all_the_same():
    with torch.inference_mode():
        ours, theirs = taped(parts_composites, X.clone()), make_fx(parts_composites)(X.clone())
        assert operations(ours) == operations(theirs)
        assert torch.equal(ours(X), parts_composites(X))


CONSTANT = {
    "a size": lambda x: x[: int((OUTSIDE > 0).sum())],
    "a large one": lambda x: x * torch.full((10_000,), 0.5).cumsum(0).max().item(),
    "a mask": lambda x: x[OUTSIDE > 0].sum() + OUTSIDE[OUTSIDE > 0].sum(),
    "distinct values": lambda x: x[: len(OUTSIDE.unique())],
    "filled in place": lambda x: x * torch.zeros(3).add_(2.0).fill_(3.0)[0].item(),
    "a list": lambda x: x * OUTSIDE.cumsum(0).tolist()[1],
    "unbatched under vmap": lambda x: mapped(lambda v: v[: int((OUTSIDE > 0).sum())], x),
}


@pytest.mark.parametrize("reads", CONSTANT.values(), ids=CONSTANT)
def test_what_follows_from_data_and_constants_alone_can_be_read(reads):
    graph, x = taped(reads, X.clone()), X + 0.25
    assert torch.equal(graph(x), reads(x))


def test_what_is_written_at_every_evaluation_cannot_be_read():
    """A view shares the memory of what is written, and is no constant either."""

    def of_view(x):
        constant = torch.zeros(3)
        view = constant[:2]
        constant.add_(x)
        return x * view[0].item()

    def of_base(x):
        constant = torch.zeros(3)
        constant[:2].normal_()
        return x * constant[0].item()

    count = torch.tensor(0.0)

    def of_state(x):
        count.add_(1.0)
        return x * count.view(1)[0].item()

    for reads in (of_view, of_base, of_state):
        with pytest.raises(DependsOnValues, match="data-dependent"):
            taped(reads, X.clone())


@pytest.mark.parametrize(
    "sized",
    [lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x.unique(), lambda x: OUTSIDE[x > 0]],
)
def test_a_size_that_depends_on_an_input_is_refused(sized):
    with pytest.raises(DependsOnValues, match="size of a tensor depends on values"):
        taped(sized, X.clone())


def test_nothing_is_resized_where_one_gradient_stands_for_all_rows(capfd):
    """torch says so on stderr, past Python's warnings, and will resize no more some day."""
    rows = torch.stack([X, X + 1, X - 1])
    backward = torch.ops.aten.log_sigmoid_backward  # its last argument is e^-|x|
    graph = taped(torch.func.vmap(lambda x: backward(torch.ones(3), x, (-x.abs()).exp())), rows)
    torch.testing.assert_close(graph(rows), torch.sigmoid(-rows))
    assert capfd.readouterr().err == ""


def test_a_constant_times_data_from_outside_is_known():
    graph = taped(lambda x: x * (torch.tensor(2.0) * OUTSIDE).sum().item(), X)
    assert torch.equal(graph(X), 3.0 * X)


def test_an_operation_without_a_dtype_is_given_none():
    library = torch.library.Library("guidebook_tests", "DEF")
    library.define("scalar(float x) -> Tensor")
    library.impl("scalar", lambda x: torch.full((), x), "CompositeExplicitAutograd")
    graph = taped(lambda x: x + torch.ops.guidebook_tests.scalar(3.0), X)
    assert torch.equal(graph(X), X + 3)


def test_nothing_that_torch_keeps_holds_a_graph() -> None:
    """Pyro keeps tensors of a run, and a constant of the program is known to its node: two hundred fits in
    one process would keep two hundred graphs.
    """
    data = {"x": torch.linspace(-1, 1, 5).double()}

    def model(x):
        scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
        with pyro.plate("row", 5):
            pyro.sample("x", dist.Normal(torch.tensor(0.5).to(x).expand(5), scale), obs=x)

    def graphs() -> int:
        gc.collect()
        return sum(type(kept) is torch.fx.Graph for kept in gc.get_objects())

    before, kept = graphs(), []
    for _ in range(3):
        gb.svi(model, gb.guides.mean_field(model), data, steps=2, progress=False)
        taped(lambda x: kept.append(x * 2) or x.log() + torch.ones(3).log(), torch.ones(3))
    assert len(kept) == 3
    assert graphs() == before
