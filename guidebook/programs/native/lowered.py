"""A recorded graph lowered to kernels: what each computes, and on which memory they are called.

Inductor fuses the operations of a graph into C++ kernels and calls them from a Python function. Here that
function runs once, on the example, with kernels that only note what they are given: from then on the calls
are known, and nobody needs the function. Products of small matrices and triangular systems, which Inductor
leaves to libraries, are noted as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guidebook.programs.graphs.recorded import reason
from guidebook.scope import quiet, random_state

SETTINGS: dict[str, Any] = {
    "fallback_random": True,  # any other random numbers are drawn by calls that are seen
    "size_asserts": False,
    "alignment_asserts": False,
    "cpp.vec_isa_ok": True,
    "cpp_cache_precompile_headers": False,
    "cpp.threads": 1,
    "force_disable_caches": True,  # what is found there has its kernels already
    "cpp.simdlen": 1,  # the compiler makes vectors of plain loops, without torch's headers
    "realize_opcount_threshold": 8,  # what is broadcast is computed once, not for every row
}
aten = torch.ops.aten
NORMALS = aten.randn.default
MOST_SOLVED = 100_000
"""Multiplications of triangular systems up to which a plain loop is no slower than calling a library."""


class CannotLower(Exception):
    """The graph needs more than kernels and standard normals; the message says what."""


@dataclass(frozen=True)
class Place:
    """Bytes from `offset` on of an argument of the graph, or of the scratch memory."""

    argument: int | None
    offset: int


@dataclass(frozen=True)
class Result:
    """Where a result of the graph lies, and what it is."""

    place: Place
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Plan:
    """The kernels of a graph and their calls.

    Attributes:
        sources: of each kernel the types of its arguments, and its C++ code, a function `kernel`.
        calls: the number of a kernel or the name of a function of `algebra.h`, and for each argument a
            place, or a whole number.
        normals: where standard normals are written before the calls, how many, in the graph's order.
        dtype: of the normals. scratch: bytes of memory. results: those of the graph.
    """

    sources: tuple[tuple[tuple[str, ...], str], ...]
    calls: tuple[tuple[int | str, tuple[Place | int, ...]], ...]
    normals: tuple[tuple[Place, int], ...]
    dtype: torch.dtype
    scratch: int
    results: tuple[Result, ...]


def lowered(graph: torch.fx.GraphModule, example: Sequence[Tensor]) -> Plan:
    """The plan of a graph, at arguments of the shapes of the example, and of its constants.

    The constants (`held_by`) come after the arguments of the graph.

    Raises:
        CannotLower: it has an operation that no kernel does, on a device without these kernels, ....
    """
    import torch._inductor as inductor
    import torch._inductor.config as inductor_config
    from torch._inductor.async_compile import AsyncCompile

    given = [t.clone() for t in example]
    if any(t.device.type != "cpu" for t in given):
        raise CannotLower("its tensors are not on the CPU")
    noted = _Noted(_normals_of(graph))

    def bound(_: Any, types: Sequence[str], source: str) -> Callable[..., None]:
        noted.sources.append((tuple(types), source))
        return noted.kernel(len(noted.sources) - 1)

    open_graph = _with_arguments_alone(graph)
    arguments: list[Any] = [*given, *held_by(graph), *noted.normals]
    try:
        with (
            quiet(),
            inductor_config.patch(SETTINGS),
            mock.patch.object(AsyncCompile, "cpp_pybinding", bound),
        ):
            function = inductor.compile(open_graph, arguments)
            with random_state(0), torch.no_grad(), noted:
                results = function(*arguments)
    except CannotLower:
        raise
    except Exception as error:
        raise CannotLower(reason(error)) from error
    if not noted.sources:
        raise CannotLower("it has no kernels")
    return noted.plan(arguments[: -len(noted.normals) or None], results)


def held_by(graph: torch.fx.GraphModule) -> list[Tensor]:
    """The constants of a graph, in the order in which a plan takes them, each in a memory of its own."""
    held = (getattr(graph, name) for name in _held_names(graph))
    return [t.detach().clone(memory_format=torch.contiguous_format) for t in held]


def _held_names(graph: torch.fx.GraphModule) -> list[str]:
    names = (str(n.target) for n in graph.graph.nodes if n.op == "get_attr")
    return list(dict.fromkeys(names))


def _draws(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [n for n in graph.graph.nodes if n.target is NORMALS]


def _normals_of(graph: torch.fx.GraphModule) -> list[Tensor]:
    """Room for the standard normals that the graph draws, in its order."""
    made: list[Any] = [(n.args[0], n.kwargs.get("dtype")) for n in _draws(graph)]
    return [torch.zeros(shape, dtype=dtype) for shape, dtype in made]


def _with_arguments_alone(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph that takes its constants, and then its normals, as its last arguments: the code is the same
    for all of their values.
    """
    copied = torch.fx.Graph()
    values: dict[torch.fx.Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = copied.node_copy(node, values.__getitem__)
    constants = {name: copied.placeholder(f"held_{i}") for i, name in enumerate(_held_names(graph))}
    for i, node in enumerate(_draws(graph)):
        values[node] = copied.placeholder(f"normals_{i}")
    for node in graph.graph.nodes:
        if node in values:
            continue
        if node.op == "get_attr":
            values[node] = constants[str(node.target)]
        else:
            values[node] = copied.node_copy(node, values.__getitem__)
    return torch.fx.GraphModule(graph, copied)


Call = tuple[str, tuple[Any, ...]]


def _product(result: Tensor, a: Tensor, b: Tensor, out: Tensor | None = None) -> Call:
    """result (m, n) = a (m, k) b (k, n), or of a batch in front."""
    return _product_and_sum(result, result, a, b, beta=0)


def _product_and_sum(
    result: Tensor, added: Tensor, a: Tensor, b: Tensor, *, alpha: int = 1, beta: int = 1,
    out: Tensor | None = None,
) -> Call:  # fmt: skip
    """result (m, n) = alpha a (m, k) b (k, n) + beta added, or of a batch in front."""
    if alpha != 1 or beta not in (0, 1):
        raise CannotLower(f"it has a product with factors {alpha} and {beta}")
    (m, n), k = result.shape[-2:], a.shape[-1]
    whole = result, a, b, added.expand(result.shape)
    strides = [s for t in whole for s in (_stride_of_batch(t), *t.stride()[-2:])]
    sizes = result.shape[:-2].numel(), m, n, k
    return f"product<{_real(result)}>", (result, a, b, added, *sizes, *strides, beta)


def _solution(
    result: Tensor, a: Tensor, b: Tensor, *, upper: bool, left: bool = True,
    unitriangular: bool = False, out: Tensor | None = None,
) -> Call:  # fmt: skip
    """result (n, m) of a (n, n) result = b (n, m), or of a batch in front; of result a = b where a is not
    on the left.
    """
    n, batch = a.shape[-1], result.shape[:-2].numel()
    m = result.shape[-1] if left else result.shape[-2]
    work = batch * n * n * m
    if unitriangular or work > MOST_SOLVED:
        raise CannotLower(f"it solves triangular systems of {work:,} multiplications")
    whole = b.expand(result.shape), a
    strides = []
    for t in (result, *reversed(whole)):
        ends = t.stride()[-2:] if left else reversed(t.stride()[-2:])  # else the transposed system
        strides += [_stride_of_batch(t), *ends]
    upper = upper if left else not upper
    return f"solution<{_real(result)}>", (result, a, b, int(upper), batch, n, m, *strides)


def _running(product: bool) -> Callable[..., Call]:
    """The sums, or the products, of a up to each place of a dimension."""

    def call(
        result: Tensor, a: Tensor, dim: int, *, dtype: Any = None, out: Tensor | None = None
    ) -> Call:
        if a.dtype != result.dtype or not a.is_contiguous() or not result.is_contiguous():
            raise CannotLower("it has a running sum of another type, or not in one piece")
        n, inner = a.shape[dim], a.shape[dim % a.dim() + 1 :].numel()
        outer = a.numel() // (n * inner)
        return f"running<{_real(result)}>", (result, a, int(product), outer, n, inner)

    return call


def _stride_of_batch(tensor: Tensor) -> int:
    """From one matrix of a batch to the next; 0 where there is one for all."""
    if tensor.shape[:-2].numel() == 1:
        return 0
    flat = tensor.flatten(0, -3)
    if flat.data_ptr() != tensor.data_ptr():
        raise CannotLower("it has a batch of matrices in several strides")
    return flat.stride(0)


def _real(tensor: Tensor) -> str:
    if tensor.dtype not in REAL:
        raise CannotLower(f"it has a product of {tensor.dtype}")
    return REAL[tensor.dtype]


REAL = {torch.float64: "double", torch.float32: "float"}
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relatively, what kernels and operations may differ by: a fused sum has another order."""
ALGEBRA: dict[Any, Callable[..., Call]] = {
    aten.addmm.out: _product_and_sum,
    aten.addmm.default: _product_and_sum,
    aten.baddbmm.out: _product_and_sum,
    aten.cumsum.default: _running(product=False),
    aten.cumsum.out: _running(product=False),
    aten.cumprod.default: _running(product=True),
    aten.cumprod.out: _running(product=True),
    aten.mm.out: _product,
    aten.bmm.out: _product,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.linalg_solve_triangular.default: _solution,
    aten.linalg_solve_triangular.out: _solution,
}


class _Noted(TorchDispatchMode):
    """What happens while the function runs: calls of kernels and of algebra; anything else is refused."""

    def __init__(self, normals: list[Tensor]) -> None:
        super().__init__()
        self.normals = normals
        self.sources: list[tuple[tuple[str, ...], str]] = []
        self.calls: list[tuple[int | str, tuple[Any, ...]]] = []

    def kernel(self, number: int) -> Callable[..., None]:
        def note(*arguments: Any) -> None:
            self.calls.append((number, arguments))  # which keeps their memory from being used again

        return note

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        if operation in ALGEBRA:
            self.calls.append(ALGEBRA[operation](result, *args, **kwargs))
        else:
            raise CannotLower(f"it calls {operation}")
        return result

    def plan(self, arguments: Sequence[Tensor], results: Any) -> Plan:
        own = {t.untyped_storage().data_ptr(): i for i, t in enumerate(arguments)}
        starts: dict[int, int] = {}
        end = 0

        def place(tensor: Tensor) -> Place:
            nonlocal end
            storage = tensor.untyped_storage()
            base, offset = storage.data_ptr(), int(tensor.storage_offset()) * tensor.element_size()
            if base in own:
                return Place(own[base], offset)
            if base not in starts:
                starts[base], end = end, end + -(-storage.nbytes() // 64) * 64
            return Place(None, starts[base] + offset)

        calls = tuple(
            (k, tuple(place(a) if isinstance(a, Tensor) else int(a) for a in given))
            for k, given in self.calls
        )
        kinds = {t.dtype for t in self.normals} or {torch.float64}
        if len(kinds) > 1:
            raise CannotLower("its random numbers are of several precisions")
        leaves = results if isinstance(results, (list, tuple)) else [results]
        return Plan(
            tuple(self.sources),
            calls,
            tuple((place(t), t.numel()) for t in self.normals),
            kinds.pop(),
            max(end, 64),
            tuple(Result(place(t), tuple(t.shape), t.stride(), t.dtype) for t in leaves),
        )
