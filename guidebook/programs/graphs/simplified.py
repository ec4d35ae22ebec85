"""A recorded graph that computes what it computed, once: the same bits, by fewer operations.

A program with a loop over time writes the same down at every step: log sigma and sigma^2 of one sigma,
literals, a product with the gradient 1 that autograd begins with. Here, in one pass over the graph,

- an operation with the same arguments as an earlier one is that one;
- what follows from literals of the program alone is a constant (data and parameters are none: they are
  read at every call);
- x * 1, x + 0, x / 1 and views that change nothing are x.

Draws and what is written in place stay as they are, and so does what is read before and after a write.

Source: Muchnick 1997, "Advanced compiler design and implementation", chapter 12 (value numbering).
"""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

aten = torch.ops.aten

SAME_IN_SAME_LAYOUT = frozenset(
    (aten.expand.default, aten.view.default, aten.slice.Tensor, aten.sum.default)
)
"""That are their argument where the result has its shape, strides and dtype."""
NEUTRAL: dict[Any, tuple[float, tuple[int, ...]]] = {
    aten.mul.Tensor: (1.0, (0, 1)),
    aten.mul.Scalar: (1.0, (0,)),
    aten.div.Tensor: (1.0, (0,)),
    aten.div.Scalar: (1.0, (0,)),
    aten.add.Tensor: (0.0, (0, 1)),
    aten.add.Scalar: (0.0, (0,)),
    aten.sub.Tensor: (0.0, (0,)),
    aten.sub.Scalar: (0.0, (0,)),
    aten.pow.Tensor_Scalar: (1.0, (0,)),  # which the gradient of x^2 begins with
}
"""The number that changes nothing, and the places of the argument that is then the result."""


def simplified(graph: Graph, written: set[int | None]) -> dict[str, Tensor]:
    """Simplifies the graph of a tape; returns constants of it by name, attributes that it now reads.

    `written`: the memory of tensors that the graph writes into at any time.
    """
    return _Simplified(graph, written).run()


class _Simplified:
    def __init__(self, graph: Graph, written: set[int | None]) -> None:
        self.graph, self.written = graph, written
        self.found: dict[Any, Node] = {}
        self.constants: dict[str, Tensor] = {}

    def run(self) -> dict[str, Tensor]:
        output = next(iter(reversed(self.graph.nodes)))
        returned = _leaves(output.args)
        for node in list(self.graph.nodes):
            if node.op != "call_function" or _acts(node):
                continue
            same = self._constant(node) or self._unchanged(node) or self._earlier(node)
            if same is not None:
                node.replace_all_uses_with(same)
                self.graph.erase_node(node)
        self._keep_apart(output, returned)
        return self.constants

    def _fresh(self, node: Node) -> bool:
        """Whether nothing is ever written into the memory of the result: it may be shared."""
        memory = node.meta.get("memory")
        return memory is not None and memory not in self.written

    def _constant(self, node: Node) -> Node | None:
        """The attribute that holds the value, where it follows from literals alone.

        Its name is that of its content, so that the code of a graph tells one constant from another.
        """
        value = node.meta.get("value")
        if value is None or not self._fresh(node) or "layout" not in node.meta:
            return None
        content = repr((value.tolist(), str(value.device), node.meta["layout"]))
        name = f"_made_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        if name not in self.constants:
            self.constants[name] = value
            with self.graph.inserting_before(node):
                self.found[name] = self.graph.get_attr(name)
            kept = ("dtype", "layout", "memory", "value")
            self.found[name].meta.update({key: node.meta[key] for key in kept})
        return self.found[name]

    def _unchanged(self, node: Node) -> Node | None:
        """The argument that the operation leaves as it is."""
        places: tuple[int, ...] = (0,) if node.target in SAME_IN_SAME_LAYOUT else ()
        if node.target in NEUTRAL:
            number, places = NEUTRAL[node.target]
            places = tuple(i for i in places if _is(node.args[1 - i], number))
        for i in places:
            given = node.args[i]
            if not isinstance(given, Node) or "layout" not in node.meta:
                continue
            if node.meta["layout"] != given.meta.get("layout"):
                continue
            if _is_view(node) or (self._fresh(node) and self._fresh(given)):
                return given
        return None

    def _earlier(self, node: Node) -> Node | None:
        """An earlier operation that is the same; this one is noted where there is none."""
        if not (self._fresh(node) or _is_view(node)):
            return None
        key = node.target, frozen(node.args), frozen(node.kwargs), node.meta["reads"]
        return None if (first := self.found.setdefault(key, node)) is node else first

    def _keep_apart(self, output: Node, returned: list[Any]) -> None:
        """Results that were tensors of their own stay so: none is an input, and none is there twice."""
        seen: set[Node] = set()
        now = _leaves(output.args)
        with self.graph.inserting_before(output):
            for place, (before, node) in enumerate(zip(returned, now, strict=True)):
                if not isinstance(node, Node):
                    continue
                if node is not before and (node in seen or node.op != "call_function"):
                    now[place] = self.graph.call_function(aten.clone.default, (node,))
                    now[place].meta.update(node.meta)
                seen.add(node)
        pieces = iter(now)
        output.args = map_aggregate(output.args, lambda _: next(pieces))


def _acts(node: Node) -> bool:
    """Whether it draws, writes, or only checks."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.target is not operator.getitem
    schema, tags = node.target._schema, node.target.tags
    return schema.is_mutable or not schema.returns or torch.Tag.nondeterministic_seeded in tags


def _is_view(node: Node) -> bool:
    """Whether the result has the memory of an argument, or is one of the results of another operation."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _is(value: Any, number: float) -> bool:
    """Whether an argument is that number, or a constant that holds nothing else."""
    if isinstance(value, Node):
        held = value.meta.get("value") if value.op == "get_attr" else None
        return held is not None and held.numel() > 0 and bool((held == number).all())
    return isinstance(value, (int, float)) and value == number


def frozen(value: Any) -> Any:
    """Arguments as a key: 1, 1.0 and True are three, and so are 0.0 and -0.0."""
    if isinstance(value, (tuple, list)):
        return tuple(map(frozen, value))
    if isinstance(value, dict):
        return tuple((name, frozen(v)) for name, v in value.items())
    return (type(value), repr(value)) if isinstance(value, (int, float)) else value


def _leaves(arguments: Any) -> list[Any]:
    found: list[Any] = []
    map_aggregate(arguments, lambda value: found.append(value) or value)  # type: ignore[func-returns-value]
    return found
