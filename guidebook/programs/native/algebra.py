"""What Inductor leaves to libraries, as calls of the functions of `algebra.h`.

Each function here takes the result of an operation, a tensor or several, and the arguments that it had, and
returns the calls in C that compute the same: places, sizes and strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
REAL = {torch.float64: "double", torch.float32: "float"}
KINDS = (torch.float64, torch.float32, torch.int64, torch.int32, torch.bool)
"""Types of which running sums are taken, in the order of `algebra.h`."""
MOST_DIMENSIONS = 3
"""Dimensions beside that of a sum or of an order, after those in one piece are taken together."""
MOST_PIECES = 64
"""Calls for one operation on a batch of matrices."""
Call = tuple[str, tuple[Any, ...]]


class CannotLower(Exception):
    """The graph needs more than kernels and standard normals; the message says what."""


# matrices -------------------------------------------------------------------------------------------------


def _product(result: Tensor, a: Tensor, b: Tensor, out: Tensor | None = None) -> list[Call]:
    """result (m, n) = a (m, k) b (k, n), or of a batch in front."""
    return _product_and_sum(result, result, a, b, beta=0)


def _product_and_sum(
    result: Tensor, added: Tensor, a: Tensor, b: Tensor, *, alpha: int = 1, beta: int = 1,
    out: Tensor | None = None,
) -> list[Call]:  # fmt: skip
    """result (m, n) = alpha a (m, k) b (k, n) + beta added, or of a batch in front."""
    if alpha != 1 or beta not in (0, 1):
        raise CannotLower(f"it has a product with factors {alpha} and {beta}")

    def call(c: Tensor, a: Tensor, b: Tensor, d: Tensor) -> Call:
        sizes = c.shape[:-2].numel(), *c.shape[-2:], a.shape[-1]
        return f"product<{_real(c)}>", (c, a, b, d, *sizes, *_strides(c, a, b, d), beta)

    return _in_pieces(call, 4, result, a, b, added.expand(result.shape))


def _solution(
    result: Tensor, a: Tensor, b: Tensor, *, upper: bool, left: bool = True,
    unitriangular: bool = False, out: Tensor | None = None,
) -> list[Call]:  # fmt: skip
    """result (n, m) of a (n, n) result = b (n, m), or of a batch in front; of result a = b where a is not
    on the left.
    """
    how = int(upper if left else not upper), int(unitriangular)

    def call(x: Tensor, a: Tensor, b: Tensor) -> Call:
        return f"solution<{_real(x)}>", (x, a, b, *how, *_sizes(x), *_strides(x, a, b))

    return _in_pieces(call, 3, *_system(result, a, b, left))


def _system(result: Tensor, a: Tensor, b: Tensor, left: bool = True) -> tuple[Tensor, ...]:
    """result, a, b of one batch; of the transposed system where a is on the right."""
    whole = result, a.expand(*result.shape[:-2], *a.shape[-2:]), b.expand(result.shape)
    return whole if left else tuple(t.mT for t in whole)


def _sizes(result: Tensor) -> tuple[int, ...]:
    return result.shape[:-2].numel(), *result.shape[-2:]


def _cholesky(
    results: Sequence[Tensor], a: Tensor, *, upper: bool = False, check_errors: bool = False
) -> list[Call]:
    """The factor l of a = l l', or u of a = u' u, and where it failed."""

    def call(factor: Tensor, a: Tensor, info: Tensor) -> Call:
        sizes = int(upper), *_sizes(a)[:-1]
        given = factor, a, info, *sizes, *_strides(factor, a), int(check_errors)
        return f"cholesky<{_real(factor)}>", given

    return _in_pieces(call, 2, results[0], a, results[1])


def _of_cholesky(
    result: Tensor, b: Tensor, a: Tensor, upper: bool = False, *, inverse: bool = False
) -> list[Call]:
    """result of a a' result = b, of a triangular, or of a' a result = b where it is upper."""
    how = int(inverse), int(upper)

    def call(x: Tensor, a: Tensor, b: Tensor) -> Call:
        return f"of_cholesky<{_real(x)}>", (x, a, b, *how, *_sizes(x), *_strides(x, a, b))

    return _in_pieces(call, 3, *_system(result, a, b))


def _inverse_of_cholesky(result: Tensor, a: Tensor, upper: bool = False) -> list[Call]:
    """The inverse of a a', of a triangular, or of a' a where it is upper."""
    return _of_cholesky(result, result, a, upper, inverse=True)


def _general_solution(
    results: Sequence[Tensor], a: Tensor, b: Tensor, *, left: bool = True,
    check_errors: bool = False, inverse: bool = False,
) -> list[Call]:  # fmt: skip
    """result of a result = b, or of result a = b; of b (n,) as of one column."""
    result, info = results[0], results[-1]
    if b.dim() == 1 or (b.dim() == a.dim() - 1 and b.shape == a.shape[:-1]):
        result, b = result.unsqueeze(-1), b.unsqueeze(-1)

    def call(x: Tensor, a: Tensor, b: Tensor, info: Tensor) -> Call:
        sizes = int(inverse), *_sizes(x)
        given = x, a, b, info, *sizes, *_strides(x, a, b), int(check_errors)
        return f"general_solution<{_real(x)}>", given

    return _in_pieces(call, 3, *_system(result, a, b, left), info)


def _inverse(results: Sequence[Tensor], a: Tensor, *, check_errors: bool = False) -> list[Call]:
    return _general_solution(results, a, results[0], check_errors=check_errors, inverse=True)


def _determinant(results: Sequence[Tensor], a: Tensor) -> list[Call]:
    """The sign of the determinant, and the logarithm of its size."""

    def call(a: Tensor, sign: Tensor, size: Tensor) -> Call:
        return f"determinant<{_real(a)}>", (sign, size, a, *_sizes(a)[:-1], *_strides(a))

    return _in_pieces(call, 1, a, *results[:2])


def checked(calls: list[tuple[int | str, tuple[Any, ...]]], info: Tensor) -> None:
    """Marks the factorisation that wrote `info`: where it fails, its result is not a number.

    torch ends the evaluation there by an error, which is taken for a density that is not a number. What no
    call has written is a constant.
    """
    writers = [k for k, (_, given) in enumerate(calls) if any(_same_memory(t, info) for t in given)]
    for k in writers:
        name, given = calls[k]
        if not isinstance(name, str):
            raise CannotLower("it checks for the failure of several factorisations at once")
        calls[k] = name, (*given[:-1], 1)
    if not writers and bool(info.any()):
        raise CannotLower("a matrix among its constants is not positive definite")


def _same_memory(a: Any, b: Tensor) -> bool:
    if not isinstance(a, Tensor):
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _in_pieces(make: Callable[..., Call], count: int, *tensors: Tensor) -> list[Call]:
    """One call for a batch of matrices, the first `count` of the tensors, and of one number each, the others;
    where the batch lies in several strides one for each of its parts.
    """
    matrices, numbers = tensors[:count], tensors[count:]
    depth = matrices[0].dim() - 2
    one = all(_stride(t, depth) is not None for t in matrices)
    if one and all(t.is_contiguous() for t in numbers):
        return [make(*tensors)]
    parts = zip(*(t.unbind() for t in tensors), strict=True)
    pieces = [call for part in parts for call in _in_pieces(make, count, *part)]
    if len(pieces) > MOST_PIECES:
        raise CannotLower(f"it has a batch of matrices in {len(pieces)} pieces of memory")
    return pieces


def _stride(tensor: Tensor, depth: int) -> int | None:
    """From one to the next of a batch of `depth` dimensions, 0 where there is one; None without one."""
    by: int | None = None
    reach = 1
    for size, stride in zip(tensor.shape[:depth][::-1], tensor.stride()[:depth][::-1], strict=True):
        if size == 1:
            continue
        if by is None:
            by = stride
        elif stride != by * reach:
            return None
        reach *= size
    return by or 0


def _strides(*matrices: Tensor) -> list[int]:
    """Of each from one of the batch to the next, of its rows and of its columns."""
    return [s for t in matrices for s in (_stride(t, t.dim() - 2) or 0, *t.stride()[-2:])]


def _real(tensor: Tensor) -> str:
    if tensor.dtype not in REAL:
        raise CannotLower(f"it has a product of {tensor.dtype}")
    return REAL[tensor.dtype]


# along a dimension ----------------------------------------------------------------------------------------


def _running(what: int) -> Callable[..., list[Call]]:
    """The sums (0), products (1) or log sums of exp (2) of a up to each place of a dimension."""

    def call(result: Tensor, a: Tensor, dim: int, **_: Any) -> list[Call]:
        if a.dtype not in KINDS:
            raise CannotLower(f"it has a running sum of {a.dtype}")
        kind = KINDS.index(a.dtype)
        return [(f"running<{_number(result)}>", (result, a, what, kind, *_lines(dim, result, a)))]

    return call


def _sorted(
    results: Sequence[Tensor], a: Tensor, *, stable: bool | None = None, dim: int = -1,
    descending: bool = False, **_: Any,
) -> list[Call]:  # fmt: skip
    """a in order along a dimension, numbers before what is none, and the places where they were."""
    values, places = results
    lines = _lines(dim, values, places, a)
    return [(f"sorted<{_number(values)}>", (values, places, a, int(descending), *lines))]


def _searched(
    result: Tensor, sequence: Tensor, values: Tensor, *, out_int32: bool = False,
    right: bool = False, side: str | None = None, sorter: Tensor | None = None, **_: Any,
) -> list[Call]:  # fmt: skip
    """How many of a sequence, in order along its last dimension, are below each of the values."""
    if sorter is not None or sequence.dtype != values.dtype:
        raise CannotLower("it searches in an order of another tensor, or for another type")
    if values.dim() == 0:
        result, values = result.reshape(1), values.reshape(1)
    rows = sequence if sequence.dim() > 1 else sequence.expand(*values.shape[:-1], -1)
    lines = _lines(-1, result, values, rows[..., :1].expand(values.shape))
    kind = int(right or side == "right"), int(out_int32), sequence.shape[-1], sequence.stride(-1)
    return [(f"searched<{_number(values)}>", (result, values, sequence, *kind, *lines))]


def _searched_in(result: Tensor, values: Tensor, sequence: Tensor, **how: Any) -> list[Call]:
    flat = values.reshape(-1)
    if flat.data_ptr() != values.data_ptr() or not result.is_contiguous():
        raise CannotLower("it searches for values in several strides")
    return _searched(result.reshape(-1), sequence, flat, **how)


def _lines(dim: int, *tensors: Tensor) -> tuple[int, ...]:
    """The size of a dimension and three others, and of every tensor the strides along these."""
    first = tensors[0]
    if first.dim() == 0:
        return (1,) * 4 + (0,) * 4 * len(tensors)
    dim %= first.dim()
    others: list[tuple[int, ...]] = []
    for k in (k for k, size in enumerate(first.shape) if k != dim and size != 1):
        size, strides = first.shape[k], tuple(t.stride(k) for t in tensors)
        if others and others[-1][1:] == tuple(s * size for s in strides):
            size *= others.pop()[0]
        others.append((size, *strides))
    if len(others) > MOST_DIMENSIONS:
        raise CannotLower("it has sums or orders along one of five dimensions in several strides")
    others += [(1,) + (0,) * len(tensors)] * (MOST_DIMENSIONS - len(others))
    along = (first.shape[dim], *(t.stride(dim) for t in tensors))
    return tuple(number for column in zip(along, *others, strict=True) for number in column)


def _number(tensor: Tensor) -> str:
    return "int64_t" if tensor.dtype == torch.int64 else _real(tensor)


CHECK = aten._linalg_check_errors.default
ALGEBRA: dict[Any, Callable[..., list[Call]]] = {
    aten.addmm.out: _product_and_sum,
    aten.addmm.default: _product_and_sum,
    aten.baddbmm.out: _product_and_sum,
    aten.mm.out: _product,
    aten.bmm.out: _product,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.linalg_solve_triangular.default: _solution,
    aten.linalg_solve_triangular.out: _solution,
    aten.linalg_cholesky_ex.default: _cholesky,
    aten.cholesky_solve.default: _of_cholesky,
    aten.cholesky_inverse.default: _inverse_of_cholesky,
    aten._linalg_solve_ex.default: _general_solution,
    aten.linalg_inv_ex.default: _inverse,
    aten._linalg_slogdet.default: _determinant,
    aten.cumsum.default: _running(0),
    aten.cumsum.out: _running(0),
    aten.cumprod.default: _running(1),
    aten.cumprod.out: _running(1),
    aten.logcumsumexp.default: _running(2),
    aten.sort.default: _sorted,
    aten.sort.stable: _sorted,
    aten.searchsorted.Tensor: _searched,
    aten.bucketize.Tensor: _searched_in,
}
