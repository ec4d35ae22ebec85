"""A recorded graph as a graph of TorchScript, built node by node.

torch.jit.trace runs a graph once more and looks up the Python line of every operation, half a
millisecond each; of a loop over time there are tens of thousands. What is recorded has every name and every
constant that TorchScript asks for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

SCALAR_TYPES = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32,
    torch.float64, None, None, None, torch.bool, None, None, None, torch.bfloat16,
)  # fmt: skip
"""TorchScript's numbers for them are their places."""
MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format)
TENSOR = torch._C.TensorType.get()


class NoScript(Exception):
    """TorchScript has no name for something in the graph."""


def scripted(graph: GraphModule) -> Callable[..., Any]:
    """The graph as a function of the same arguments, without gradients.

    Raises:
        NoScript: an argument or a result that is none of TorchScript's.
    """
    built, held, rebuild = _Built(), [], None
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            built.values[node] = built.graph.addInput()
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            built.values[node] = built.graph.addInput()
            held.append(getattr(graph, str(node.target)))
        elif node.op == "call_function":
            built.add(node)
        elif node.op == "output":
            rebuild = built.returned(node.args[0])
    function = torch._C._create_function_from_graph("forward", built.graph)
    assert rebuild is not None

    def run(*arguments: torch.Tensor) -> Any:
        return rebuild(function(*arguments, *held))

    return run


class _Built:
    """The graph so far, with the values of nodes and of constants."""

    def __init__(self) -> None:
        self.graph: Any = torch._C.Graph()
        self.values: dict[Any, Any] = {}
        self.parts: dict[Any, list[Any]] = {}
        self.constants: dict[Any, Any] = {}

    def add(self, node: Node) -> None:
        """One operation of the recorded graph."""
        if node.target is operator.getitem:
            parent, place = node.args
            self.values[node] = self.parts[parent][place]  # type: ignore[index]
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            raise NoScript(str(node.target))
        schema, given = node.target._schema, []
        for i, argument in enumerate(schema.arguments):
            default = node.kwargs.get(argument.name, argument.default_value)
            given.append(self.value(node.args[i] if i < len(node.args) else default, argument))
        kinds = [result.type for result in schema.returns]
        results = self.made(schema.name, given, kinds)
        if len(kinds) != 1:
            self.parts[node] = results
        elif isinstance(kinds[0], torch._C.ListType):
            self.parts[node] = self.made("prim::ListUnpack", results, [TENSOR] * node.meta["parts"])
        else:
            self.values[node] = results[0]

    def made(self, name: str, given: list[Any], kinds: list[Any]) -> list[Any]:
        """The results of a new operation."""
        operation = self.graph.create(name, given, len(kinds))
        self.graph.insertNode(operation)
        outputs = list(operation.outputs())
        for output, kind in zip(outputs, kinds, strict=True):
            output.setType(kind)
        return outputs

    def value(self, given: Any, argument: Any) -> Any:
        """What an argument is in the graph."""
        kind = argument.type
        while isinstance(kind, torch._C.OptionalType):
            kind = kind.getElementType()
        if isinstance(given, (list, tuple)):
            if not any(isinstance(v, Node) for v in given):
                key = str(kind), repr(given)
                if key not in self.constants:
                    self.constants[key] = self._list(given, kind)
                return self.constants[key]
            return self._list(given, kind)
        return self._single(given, isinstance(kind, torch._C.FloatType))

    def _list(self, given: Any, kind: Any) -> Any:
        if not isinstance(kind, torch._C.ListType):
            raise NoScript(f"a list for {kind}")
        floats = isinstance(kind.getElementType(), torch._C.FloatType)
        return self.made("prim::ListConstruct", [self._single(v, floats) for v in given], [kind])[0]

    def _single(self, given: Any, as_float: bool) -> Any:
        if isinstance(given, Node):
            return self.values[given]
        if as_float and isinstance(given, int):
            given = float(given)
        key = type(given), repr(given)
        if key not in self.constants:
            if isinstance(given, torch.memory_format):
                given = MEMORY_FORMATS.index(given)
            elif isinstance(given, torch.dtype):
                given = SCALAR_TYPES.index(given)
            elif isinstance(given, torch.layout):
                given = (torch.strided,).index(given)
            self.constants[key] = self.graph.insertConstant(given)
        return self.constants[key]

    def returned(self, result: Any) -> Callable[[Any], Any]:
        """Makes the tensors of the result those of the graph; returns how it is put together of them."""
        leaves: list[Any] = []

        def noted(value: Any) -> Any:
            if not isinstance(value, Node):
                raise NoScript(f"a result that is a {type(value).__name__}")
            leaves.append(self.values[value])
            return value

        map_aggregate(result, noted)
        kind = torch._C.TupleType([TENSOR] * len(leaves))
        self.graph.registerOutput(self.made("prim::TupleConstruct", leaves, [kind])[0])

        def rebuild(found: Any) -> Any:
            pieces = iter(found)
            return _plain(result, pieces)

        return rebuild


def _plain(result: Any, pieces: Any) -> Any:
    """The result with the next tensors in place of its nodes."""
    if isinstance(result, dict):
        return {name: _plain(value, pieces) for name, value in result.items()}
    if isinstance(result, (tuple, list)):
        return tuple(_plain(value, pieces) for value in result)
    return next(pieces)
