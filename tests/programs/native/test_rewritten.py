"""A graph whose repeated and constant numbers are computed once gives the numbers that it gave."""

import pytest
import torch
from torch.fx import GraphModule, Interpreter
from torch.utils._pytree import tree_leaves

from guidebook.programs.graphs.recorded import record
from guidebook.programs.native.constants import with_constants
from guidebook.programs.native.repeats import without_repeats

aten = torch.ops.aten
ROWS = 7
SIZES = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
COUNTS = torch.arange(ROWS, dtype=torch.float64)


class Numbers(Interpreter):
    """Runs a graph and notes how many numbers each operation gave."""

    def run_node(self, n):
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.counted.setdefault(n.target, []).append(result.numel())
        return result


def counted(graph: GraphModule, *args) -> dict:
    run = Numbers(graph)
    run.counted = {}
    run.run(*args)
    return run.counted


def moved(s):
    """Through every view, to a product of matrices, which needs the whole."""
    wide = s.expand(ROWS, 3).exp().unsqueeze(0).permute(0, 2, 1).squeeze(0)
    return wide.view(1, 3, ROWS).transpose(1, 2) @ torch.ones(1, 3, 2).to(s)


def shares(s):
    """The weights of a mixture, in every row: the largest of three, and the sum of three."""
    logits = s.expand(ROWS, 3)
    top = logits.max(-1, keepdim=True)
    weights = (logits - top.values).exp()
    return weights / weights.sum(-1, keepdim=True), top.indices


def summed_over_rows(s):
    return s.expand(ROWS, 3).log().sum(0), s.expand(ROWS, 3).log().amax(0)


def written(s):
    """What is written into afterwards is no longer what was repeated."""
    wide = s.expand(ROWS, 3).exp()
    wide[0] += 1
    return wide.log()


def mixed(s):
    """Of other ranks and kinds, under a condition."""
    wide = s.expand(2, ROWS, 3)
    return torch.where(wide > 1, wide.float().sqrt(), 0.5 * COUNTS[:, None].to(s))


def columns(s):
    return (s[:, None].expand(3, ROWS).log() + COUNTS).sum(1)


@pytest.mark.parametrize("what", [moved, shares, summed_over_rows, written, mixed, columns])
def test_repeated_numbers_give_the_same(what) -> None:
    graph = record(what, SIZES)
    thin = without_repeats(graph)
    assert thin is not graph
    for one, other in zip(tree_leaves(thin(SIZES)), tree_leaves(graph(SIZES)), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("what", "operation", "numbers"),
    [(moved, aten.exp.default, [3]), (shares, aten.exp.default, [3]),
     (summed_over_rows, aten.log.default, [3, 3]), (columns, aten.log.default, [3]),
     (written, aten.exp.default, [3 * ROWS])],
)  # fmt: skip
def test_they_are_computed_once(what, operation, numbers) -> None:
    thin = without_repeats(record(what, SIZES))
    found = counted(thin, SIZES)[operation]
    assert found == numbers[: len(found)]


def test_a_quotient_by_a_repeated_number_is_one_to_an_ulp() -> None:
    """Zeros, infinities and not-a-numbers are where they were."""
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.0, 0.7]).double()

    def quotients(s):
        return odd[:, None] / s.expand(len(odd), len(s))

    graph = record(quotients, odd)
    thin = without_repeats(graph)
    assert aten.div.Tensor not in counted(thin, odd)
    for s in (odd, torch.rand(7, generator=torch.Generator().manual_seed(0)).double()):
        torch.testing.assert_close(thin(s), graph(s), rtol=3e-16, atol=0, equal_nan=True)


def test_whole_numbers_are_divided_as_they_were() -> None:
    def halves(s):
        return torch.arange(ROWS)[:, None] / s.long().add(1).expand(ROWS, 3)

    graph = record(halves, SIZES)
    assert torch.equal(without_repeats(graph)(SIZES), graph(SIZES))


def test_what_follows_from_the_data_is_computed_before() -> None:
    def poisson(s):
        return (COUNTS * s[0].log() - s[0] - (COUNTS + 1).lgamma()).sum()

    graph = record(poisson, SIZES)
    known = with_constants(graph)
    assert aten.lgamma.default in counted(graph, SIZES)
    assert aten.lgamma.default not in counted(known, SIZES)
    assert torch.equal(known(SIZES), graph(SIZES))


def test_what_is_drawn_or_written_is_not_constant() -> None:
    place = torch.zeros(3).double()

    def step(s):
        place.add_(1)
        return s * place.square() + torch.randn_like(SIZES), COUNTS.exp()

    graph = record(step, SIZES)
    known = with_constants(graph)
    assert {aten.square.default, aten.pow.Tensor_Scalar} & set(counted(known, SIZES))
    seen = []
    for run in (known, graph):
        torch.manual_seed(0)
        place.zero_()
        seen.append([run(SIZES)[0] for _ in range(3)])
    assert all(map(torch.equal, *seen))
    assert not torch.equal(seen[0][0], seen[0][1])


def test_a_constant_mask_is_the_places_that_it_holds() -> None:
    seen = COUNTS > 2

    def kept(s):
        both = (s.sum() * COUNTS)[seen]
        return (
            both,
            (s[:, None] * COUNTS)[:, seen],
            torch.zeros(ROWS).to(s).index_put((seen,), both),
        )

    graph = record(kept, SIZES)
    known = with_constants(graph)
    indices = [n.args[1] for n in known.graph.nodes if n.target is aten.index.Tensor]
    assert indices
    assert all(
        getattr(known, str(i.target)).dtype == torch.int64 for given in indices for i in given if i
    )
    assert all(map(torch.equal, known(SIZES), graph(SIZES)))


def test_a_graph_with_neither_is_itself() -> None:
    graph = record(lambda s: s.exp(), SIZES)
    assert with_constants(without_repeats(graph)) is graph
