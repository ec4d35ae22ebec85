"""Kernels without branches compute what torch computes, to the last places of libmvec."""

import ctypes
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from guidebook.programs.graphs.recorded import record
from guidebook.programs.native.library import library
from guidebook.programs.native.lowered import held_by, read_often
from guidebook.programs.native.plans import planned
from guidebook.programs.native.source import source_of
from guidebook.programs.native.straight import INDEPENDENT, straight

EDGES = torch.tensor([-torch.inf, -800.0, -1.0, -0.0, 0.0, 1e-310, 0.5, 30.0, torch.inf, torch.nan])


def in_c(what, *args):
    """The results of the kernels, and what they return."""
    graph = record(what, *args)
    plan = planned(graph, args)
    made = library([(source_of(plan, light=True), False)])
    results = [torch.empty_strided(r.shape, r.stride, dtype=r.dtype) for r in plan.results]
    held = held_by(graph)
    given, out = (
        (ctypes.c_void_p * len(ts))(*(t.data_ptr() for t in ts)) for ts in ([*args, *held], results)
    )
    return results, made.run(given, ctypes.c_void_p(0), out)


def chosen(x):
    """Both sides of a choice, one of which is not a number."""
    return torch.where(x > 0, x.sqrt(), x.exp()), torch.nn.functional.softplus(x)


def largest(x):
    other = x.flip(0)
    return torch.maximum(x, other), torch.minimum(x, other), x.clamp(-0.5, 2.0), x.isnan()


def padded(x):
    """What lies before the first and after the last number is never one of theirs."""
    wide = torch.nn.functional.pad(x, (2, 3), value=1.0)
    sticks = torch.nn.functional.pad(x, (1, 0)) * torch.nn.functional.pad(x, (0, 1), value=2.0)
    return wide.cumsum(0), sticks, torch.cat([x[3:], x.exp(), x[:1]])


def conditions(x):
    """Of conditions that lie in memory, and made into numbers."""
    told = (x > 0) | x.isnan()
    return torch.where(told, x, -x), told.to(x.dtype) * 2, told.logical_not() & (x < -1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("what", [chosen, largest, padded, conditions])
def test_kernels_compute_what_torch_does(what, dtype) -> None:
    x = EDGES.repeat(5).to(dtype)
    near = 1e-14 if dtype == torch.float64 else 1e-5
    found, status = in_c(what, x)
    assert status == 0
    for one, other in zip(found, tree_leaves(what(x)), strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=1e-300, equal_nan=True)


def test_a_mask_in_memory_chooses() -> None:
    seen, x = EDGES > 0, EDGES.double()
    (found,), status = in_c(lambda m, v: torch.where(m, v, 0.0).exp(), seen, x)
    assert status == 0
    torch.testing.assert_close(found, torch.where(seen, x, 0.0).exp(), rtol=1e-14, atol=0)


def test_numbers_written_to_one_place_are_all_there() -> None:
    """Turns of such a loop are not independent, whatever vectors they would make."""
    places = torch.arange(64) % 3
    x = torch.arange(64).double()
    (found,), status = in_c(lambda i, v: torch.zeros(3).double().index_add(0, i, v), places, x)
    assert status == 0
    assert found.tolist() == [x[places == k].sum() for k in range(3)]


def test_an_index_out_of_bounds_is_told() -> None:
    x = torch.arange(5).double()
    places = torch.tensor([0, 4, -1])
    (found,), status = in_c(lambda v, i: v[i] * 2, x, places)
    assert (found.tolist(), status) == ([0, 8, 8], 0)
    graph = record(lambda v, i: v[i] * 2, x, places)
    made = library([(source_of(planned(graph, [x, places]), light=True), False)])
    wrong, result = torch.tensor([0, 5, 1]), torch.empty(3).double()
    given = (ctypes.c_void_p * 2)(x.data_ptr(), wrong.data_ptr())
    out = (ctypes.c_void_p * 1)(result.data_ptr())
    assert made.run(given, ctypes.c_void_p(0), out) == 1


def test_only_loops_that_scatter_keep_their_order() -> None:
    """Those around the scattered number; a loop beside it has the word."""
    code = """    {
        #pragma GCC ivdep
        for(int64_t x0=0L; x0<3L; x0+=1L)
        {
            for(int64_t x1=0L; x1<3L; x1+=1L)
            {
                out_ptr0[x1 + 3L*x0] = in_ptr0[x1];
            }
            out_ptr1[tmp3] += tmp4;
        }
    }"""
    lines = straight(code, readable=True).split("\n")
    told = [lines[i - 1].strip() == INDEPENDENT for i, line in enumerate(lines) if "for(" in line]
    assert told == [False, True]


def test_what_may_not_be_read_stays_under_its_condition() -> None:
    code = """auto tmp4 = [&]
    {
        auto tmp5 = in_ptr0[static_cast<int64_t>(x0)];
        return tmp5;
    }
    ;
    auto tmp6 = tmp3 ? tmp4() : static_cast<decltype(tmp4())>(1.0);"""
    assert straight(code, readable=False) == code
    assert "in_ptr0[tmp3 ? (static_cast<int64_t>(x0)) : 0L]" in straight(code, readable=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_long_sums_are_right_to_the_last_places(dtype) -> None:
    """200,000 numbers of one sign, which one after the other are wrong by 1e-3 in single precision."""
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    (found,), status = in_c(lambda v: (v * 1.25).sum(), x)
    assert status == 0
    right = math.fsum((x * 1.25).tolist())
    assert float(found) == pytest.approx(right, rel=4 * torch.finfo(dtype).eps)


def test_what_is_costly_and_read_often_is_computed_once() -> None:
    """100 quotients of which each is read in three rows: one loop divides, a hundred times."""
    x, y = torch.rand(2, 100, generator=torch.Generator().manual_seed(1)).double() + 0.5
    graph = record(lambda x, y: (torch.ones(3, 1).to(x) * (x / y)).sin(), x, y)
    assert len(read_often(graph)) == 1
    plan = planned(graph, (x, y))
    assert len(plan.results) == 1
    loops = [loop for _, code in plan.sources for loop in code.split("for(int64_t x0")[1:]]
    assert [loop.count(" / ") for loop in loops if "/" in loop] == [1]
    assert not any("300L" in loop and " / " in loop for loop in loops)
    (found,), _ = in_c(lambda x, y: (torch.ones(3, 1).to(x) * (x / y)).sin(), x, y)
    torch.testing.assert_close(found, (x / y).sin().expand(3, 100), rtol=1e-14, atol=0)
