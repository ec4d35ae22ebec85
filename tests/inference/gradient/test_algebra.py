"""What `algebra.h` and `lines.h` compute is what torch computes, in every layout, to rounding.

All calls are made by the functions that make them for a plan, and compiled into one library.
"""

import ctypes
import math

import pytest
import torch

from guidebook.programs.native import source
from guidebook.programs.native.algebra import ALGEBRA, REAL, CannotLower, checked
from guidebook.programs.native.library import library

aten = torch.ops.aten
BATCHES = (), (1,), (3,), (2, 3)
RANDOM = torch.Generator().manual_seed(0)


def drawn(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=RANDOM, dtype=torch.float64).to(dtype)


def whole(number):
    return int(torch.randint(number, (), generator=RANDOM))


def laid(tensor):
    """The same numbers elsewhere: dimensions in any order, with gaps between and before them."""
    order = torch.randperm(tensor.dim(), generator=RANDOM).tolist()
    back = sorted(range(len(order)), key=order.__getitem__)
    room = tensor.new_zeros([tensor.shape[k] + whole(3) for k in order])
    for k, axis in enumerate(order):
        size = tensor.shape[axis]
        room = room.narrow(k, whole(room.shape[k] - size + 1), size)
    return room.permute(back).copy_(tensor)


def laid_matrices(tensor):
    """Likewise the last two dimensions; those of the batch as they are."""
    rows, columns = tensor.shape[-2:]
    memory = tensor.new_full((*tensor.shape[:-2], rows + whole(3), columns + whole(2)), math.nan)
    if whole(2):
        memory = memory.new_full(
            (*tensor.shape[:-2], columns + whole(2), rows + whole(2)), math.nan
        ).mT
    return memory[..., :rows, :columns].copy_(tensor)


def positive(batch, n, dtype):
    a = drawn(*batch, n, n)
    return laid_matrices((a @ a.mT + n * torch.eye(n)).to(dtype))


def triangle(batch, n, upper, dtype):
    """With numbers in the other half, which nobody may read."""
    return laid_matrices((drawn(*batch, n, n) / n**0.5 + 3 * torch.eye(n)).to(dtype))


def matrices(dtype):
    """Calls on matrices, of every kind."""
    for n, m in ((1, 1), (3, 1), (4, 3), (30, 2), (40, 40)):
        for batch in BATCHES if n < 30 else ((), (2,)):
            for side in (False, True):
                a, b = (
                    triangle(batch, n, side, dtype),
                    laid_matrices(drawn(*batch, n, m, dtype=dtype)),
                )
                for left in (False, True):
                    c = b if left else laid_matrices(b.mT)
                    yield (
                        aten.linalg_solve_triangular.default,
                        (a, c),
                        {"upper": side, "left": left},
                    )
                    yield aten._linalg_solve_ex.default, (a.flip(-1), c), {"left": left}
                one = aten.linalg_solve_triangular.default
                unit = a / 4 if n < 30 else a / 40
                yield one, (unit, b), {"upper": side, "unitriangular": True}
                p = positive(batch, n, dtype)
                yield aten.linalg_cholesky_ex.default, (p,), {"upper": side}
                factor = a.triu() if side else a.tril()
                yield aten.cholesky_solve.default, (b, factor, side), {}
                yield aten.cholesky_inverse.default, (factor, side), {}
            rows = torch.randperm(n, generator=RANDOM)
            general = laid_matrices(triangle(batch, n, False, dtype)[..., rows, :])
            yield aten.linalg_inv_ex.default, (general,), {}
            yield aten._linalg_slogdet.default, (general,), {}
            yield aten._linalg_slogdet.default, (general * (torch.arange(n) != 1),), {}
            yield aten._linalg_solve_ex.default, (general, drawn(*batch, n, dtype=dtype)), {}


def products(dtype):
    """Of small matrices, and of those that BLAS is given."""
    for m, n, k in ((1, 1, 1), (3, 4, 5), (1, 7, 2), (20, 30, 40)):
        for _ in range(4):
            a, b, c = (laid_matrices(drawn(*s, dtype=dtype)) for s in ((m, k), (k, n), (m, n)))
            yield aten.mm.default, (a, b), {}
            yield aten.addmm.default, (c, a, b), {}
            yield aten.addmm.default, (c[0], a, b), {}
            a, b, c = (laid_matrices(drawn(2, *s, dtype=dtype)) for s in ((m, k), (k, n), (m, n)))
            yield aten.bmm.default, (a, b), {}
            yield aten.bmm.default, (a[:1].expand(2, m, k), b), {}
            yield aten.baddbmm.out, (c, a, b), {"out": torch.empty_like(c)}
            yield aten.baddbmm.out, (c, a, b), {"beta": 0, "out": torch.empty_like(c)}


def along_dimensions(dtype):
    for shape in ((), (1,), (7,), (3, 5), (2, 1, 4), (2, 3, 4, 3)):
        for dim in range(-1, max(0, len(shape) - 1)):
            a = laid(drawn(*shape, dtype=dtype))
            b = laid((3 * a).long())
            for x in (a, b, b > 0, b.int()):
                yield aten.cumsum.default, (x, dim), {}
                yield aten.cumprod.default, (x, dim), {}
                yield aten.cumsum.default, (x, dim), {"dtype": dtype}
            yield aten.logcumsumexp.default, (100 * a, dim), {}
            yield aten.logcumsumexp.default, (a.log(), dim), {}  # not a number
            yield aten.logcumsumexp.default, ((b > 0).to(dtype).log(), dim), {}  # -inf
            for descending in (False, True):
                how = {"stable": True, "dim": dim, "descending": descending}
                for x in (a, a.log(), b):
                    yield aten.sort.stable, (x,), how
        if not shape:
            continue
        a = drawn(*shape[:-1], 9, dtype=dtype).round(decimals=1).sort().values
        for right in (False, True):
            yield aten.searchsorted.Tensor, (a, a[..., 2:5].contiguous() + 0), {"right": right}
            x = drawn(*shape, dtype=dtype).round(decimals=1)
            yield aten.searchsorted.Tensor, (a, x), {"right": right, "out_int32": True}
            first = a.reshape(-1, 9)[0]
            yield aten.searchsorted.Tensor, (first, x), {"side": "right" if right else "left"}
            yield aten.bucketize.Tensor, (x, first), {"right": right}


KINDS = products, matrices, along_dimensions


def of(results):
    return list(results) if isinstance(results, (tuple, list)) else [results]


def blank(tensor):
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return made.fill_(-7 if not tensor.is_floating_point() else math.nan)


def entry(name, pointers, numbers):
    """A function of the addresses and of the numbers of a call."""
    kind = name.partition("<")[2].rstrip(">")
    words = [f"reinterpret_cast<{kind}*>(g[{k}])" for k in range(pointers)]
    words += [f"s[{k}]" for k in range(numbers)]
    return f'extern "C" void {label(name)}(char** g, const int64_t* s) {{ {name}({", ".join(words)}); }}'


def label(name):
    return name.replace("<", "_").rstrip(">")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Every function of the two headers, of each type that plans call them with."""
    kinds = [(f, one) for one in REAL for f in KINDS]
    cases = {(f, dtype): [called(*case) for case in f(dtype)] for f, dtype in kinds}
    told = {}
    for _, _, _, calls in (case for some in cases.values() for case in some):
        for name, given in calls:
            count = sum(isinstance(one, torch.Tensor) for one in given)
            told[name] = entry(name, count, len(given) - count)
    headers = [p.read_text() for p in (source.ALGEBRA, source.LINES)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        loaded = library([("\n".join([source.PRELUDE, *headers, *told.values()]), False)])
    return loaded, cases


def called(operation, args, kwargs):
    """What torch gives, memory for what we give, and the calls that fill it."""
    expected = operation(*args, **kwargs)
    ours = [blank(t) for t in of(expected)]
    calls = ALGEBRA[operation](ours if len(ours) > 1 else ours[0], *args, **kwargs)
    return operation, of(expected), ours, calls


def run(loaded, name, given):
    tensors = [one.data_ptr() for one in given if isinstance(one, torch.Tensor)]
    numbers = [int(one) for one in given[len(tensors) :]]
    getattr(loaded, label(name))(
        (ctypes.c_void_p * len(tensors))(*tensors), (ctypes.c_int64 * len(numbers))(*numbers)
    )


UNUSED = {  # factors and pivots, which gradients take from elsewhere
    aten._linalg_solve_ex.default: (0, 3),
    aten._linalg_slogdet.default: (0, 1),
}


@pytest.mark.parametrize("dtype", list(REAL))
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_does_what_torch_does(compiled, kind, dtype) -> None:
    """In double precision to 1e-11, in single to 1e-4: batches, halves, sides and layouts of all kinds."""
    loaded, cases = compiled
    near = 1e-11 if dtype == torch.float64 else 1e-4
    for operation, expected, ours, calls in cases[kind, dtype]:
        for name, given in calls:
            run(loaded, name, given)
        for k in UNUSED.get(operation, range(len(ours))):
            torch.testing.assert_close(
                ours[k], expected[k], rtol=near, atol=near, equal_nan=True,
                msg=lambda m, o=operation: f"{o}: {m}",
            )  # fmt: skip
    assert len(cases[kind, dtype]) >= 100


def test_what_a_call_is_refused_for() -> None:
    """Factors of a product, types without a function, an order of another tensor, the check of a sum."""
    a, info = drawn(3, 3), torch.zeros((), dtype=torch.int32)
    refused = {
        "with factors 2 and 1": lambda: ALGEBRA[aten.addmm.default](a, a, a, a, alpha=2),
        "product of torch.complex128": lambda: ALGEBRA[aten.mm.default](
            *[a.to(torch.complex128)] * 3
        ),
        "running sum of torch.float16": lambda: ALGEBRA[aten.cumsum.default](a, a.half(), 0),
        "an order of another tensor": lambda: ALGEBRA[aten.searchsorted.Tensor](
            a.long(), a, a, sorter=a.long()
        ),
        "several factorisations at once": lambda: checked([(0, (info,))], info),
        "not positive definite": lambda: checked([], info + 2),
    }
    for words, call in refused.items():
        with pytest.raises(CannotLower, match=words):
            call()
    checked([], info)  # a constant that was factored


def test_a_failed_factorisation_is_marked_in_every_piece_of_its_batch() -> None:
    """Systems for vectors lie side by side, one batch within the other; what is in one piece is one call."""
    a, b = drawn(2, 3, 4, 4), drawn(2, 3, 4)
    assert len(called(aten.linalg_inv_ex.default, (a,), {})[-1]) == 1
    _, _, ours, calls = called(aten._linalg_solve_ex.default, (a, b), {})
    assert len(calls) == 2 and all(given[-1] == 0 for _, given in calls)
    noted = [("another", (a, 0)), *calls]
    checked(noted, ours[-1])
    assert [given[-1] for _, given in noted] == [0, 1, 1]
