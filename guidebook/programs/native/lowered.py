"""A recorded graph lowered to kernels: what each computes, and on which memory they are called.

Inductor fuses the operations of a graph into C++ kernels and calls them from a Python function. Here that
function runs once, on the example, with kernels that only note what they are given: from then on the calls
are known, and nobody needs the function. What Inductor leaves to libraries (`algebra`) is noted as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from guidebook.programs.graphs.recorded import reason
from guidebook.programs.native.algebra import ALGEBRA, CHECK, CannotLower, checked
from guidebook.programs.native.constants import writes
from guidebook.scope import quiet, random_state

# What decides how operations are fused stays as torch has it: with a lower realize_opcount_threshold, which
# makes mixtures twice as fast, Inductor 2.13 gives wrong gradients of `pyro.markov` in a plate.
SETTINGS: dict[str, Any] = {
    "fallback_random": True,  # any other random numbers are drawn by calls that are seen
    "size_asserts": False,
    "alignment_asserts": False,
    "cpp.vec_isa_ok": True,
    "cpp_cache_precompile_headers": False,
    "cpp.threads": 1,
    "force_disable_caches": True,  # what is found there has its kernels already
    "cpp.simdlen": 1,  # the compiler makes vectors of plain loops, without torch's headers
}
aten = torch.ops.aten
NORMALS = aten.randn.default


@dataclass(frozen=True)
class Place:
    """Memory from byte `offset` on of an argument of the graph, or of the scratch memory; `size` bytes of it
    are what a tensor there spans.
    """

    argument: int | None
    offset: int
    size: int = field(compare=False, default=0)


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

    kept = read_often(graph)
    open_graph = _with_arguments_alone(graph, kept)
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
    leaves = list(results) if isinstance(results, (list, tuple)) else [results]
    return noted.plan(arguments[: -len(noted.normals) or None], leaves[: len(leaves) - len(kept)])


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


def _with_arguments_alone(
    graph: torch.fx.GraphModule, kept: Sequence[torch.fx.Node]
) -> torch.fx.GraphModule:
    """The graph that takes its constants, and then its normals, as its last arguments: the code is the same
    for all of their values. Its last results are those that are kept.
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
    if kept:
        output = next(iter(reversed(copied.nodes)))
        given = output.args[0]
        leaves = given if isinstance(given, (list, tuple)) else [given]
        output.args = ((*leaves, *(values[node] for node in kept)),)
    return torch.fx.GraphModule(graph, copied)


COSTLY = frozenset((aten.div.Tensor, aten.log.default, aten.log1p.default, aten.tanh.default,
                    aten.sqrt.default))  # fmt: skip
VIEWS = frozenset((aten.view.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
                   aten.permute.default, aten.transpose.int, aten.expand.default))  # fmt: skip
SHORT = 64
"""Numbers of a result that may as well be computed wherever it is read."""


def read_often(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """Results that Inductor would compute anew at each of several places where each number is read: they are
    kept in memory if they are results of the graph.
    """
    nodes = graph.graph.nodes
    written = {n.args[0].meta.get("memory") for n in nodes if writes(n.target)}

    def reach(node: torch.fx.Node) -> int:
        """The most numbers that what reads it computes."""
        found = [0]
        for user in node.users:
            found.append(reach(user) if user.target in VIEWS else _count(user))
        return max(found)

    return [
        n
        for n in nodes
        if n.target in COSTLY
        and n.meta.get("memory") not in written
        and SHORT <= 2 * _count(n) <= reach(n)
    ]


def _count(node: torch.fx.Node) -> int:
    layout = node.meta.get("layout")
    return 0 if layout is None else math.prod(layout[1])


ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relatively, what kernels and operations may differ by: a fused sum has another order."""


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
        if operation is CHECK:  # nothing has been computed that could be checked
            checked(self.calls, args[0])
            return None
        if operation not in ALGEBRA:
            raise CannotLower(f"it calls {operation}")
        result = operation(*args, **kwargs)
        self.calls += ALGEBRA[operation](result, *args, **kwargs)
        return result

    def plan(self, arguments: Sequence[Tensor], results: Sequence[Tensor]) -> Plan:
        own = {t.untyped_storage().data_ptr(): i for i, t in enumerate(arguments)}
        starts: dict[int, int] = {}
        end = 0

        def place(tensor: Tensor) -> Place:
            nonlocal end
            storage = tensor.untyped_storage()
            base, each = storage.data_ptr(), tensor.element_size()
            offset, size = int(tensor.storage_offset()) * each, _span(tensor) * each
            if base in own:
                return Place(own[base], offset, size)
            if base not in starts:
                starts[base], end = end, end + -(-storage.nbytes() // 64) * 64
            return Place(None, starts[base] + offset, size)

        calls = tuple(
            (k, tuple(place(a) if isinstance(a, Tensor) else int(a) for a in given))
            for k, given in self.calls
        )
        kinds = {t.dtype for t in self.normals} or {torch.float64}
        if len(kinds) > 1:
            raise CannotLower("its random numbers are of several precisions")
        return Plan(
            tuple(self.sources),
            calls,
            tuple((place(t), t.numel()) for t in self.normals),
            kinds.pop(),
            max(end, 64),
            tuple(Result(place(t), tuple(t.shape), t.stride(), t.dtype) for t in results),
        )


def _span(tensor: Tensor) -> int:
    """Elements from the first to the last."""
    if not tensor.numel():
        return 0
    return 1 + sum((n - 1) * by for n, by in zip(tensor.shape, tensor.stride(), strict=True))
