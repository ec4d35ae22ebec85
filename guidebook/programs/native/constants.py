"""A recorded graph in which what follows from its constants is one: the data of a fit are constants, too.

The logarithm of a standard error, the factorial of a count and the square of a covariate are the same at
every step; and so are the places that a constant mask holds, for which no kernel could be made: x[mask] is
x[i, j, ...], (i, j, ...) where it is true.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
LARGEST = 1_000_000
"""Numbers of a constant that is kept; larger ones are computed where they are needed."""


def with_constants(graph: GraphModule) -> GraphModule:
    """The graph with what follows from constants as constants, and whole numbers in the place of constant
    masks as indices; itself where there are neither.
    """
    known, held = _known(graph), {}
    copied = Graph()
    values: dict[Node, Any] = {}

    def constant(name: str, value: Tensor) -> Node:
        held[name] = value
        return copied.get_attr(name)

    def places(index: Node | None) -> list[Node | None]:
        """The node of an index, or those of the places of a mask."""
        if index is None:
            return [None]
        mask = known.get(index)
        if mask is None or mask.dtype != torch.bool:
            return [values[index]]
        found = enumerate(mask.nonzero(as_tuple=True))
        return [constant(f"_places_{index.name}_{k}", axis) for k, axis in found]

    for node in graph.graph.nodes:
        if node in known and node.op == "call_function" and _computes(node.target):
            value = known[node]
            if isinstance(value, Tensor) and value.dtype != torch.bool and value.numel() <= LARGEST:
                values[node] = constant(f"_constant_{node.name}", value)
                values[node].meta.update(node.meta)
                continue
        given: Any = node.args[1] if node.target in INDEXED else ()
        indices = [place for index in given for place in places(index)]
        values[node] = copied.node_copy(node, values.__getitem__)
        if indices:
            first, _, *rest = values[node].args
            values[node].args = (first, indices, *rest)
    if not held:
        return graph
    copied.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    names = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    return GraphModule({**{n: getattr(graph, n) for n in names}, **held}, copied)


def _known(graph: GraphModule) -> dict[Node, Any]:
    """The values of the nodes that follow from constants of the graph which it never writes."""
    known: dict[Node, Any] = {}
    written = {n.args[0].meta.get("memory") for n in graph.graph.nodes if writes(n.target)}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            if node.meta.get("memory") not in written - {None}:
                known[node] = getattr(graph, str(node.target))
        elif node.op == "call_function" and not _acts(node.target) and _of(node, known):
            assert callable(node.target)
            args, kwargs = (map_arg(given, known.get) for given in (node.args, node.kwargs))
            known[node] = node.target(*args, **kwargs)
    return known


def _of(node: Node, known: dict[Node, Any]) -> bool:
    """Whether it has arguments, all of them known."""
    return bool(node.all_input_nodes) and all(n in known for n in node.all_input_nodes)


def writes(target: Any) -> bool:
    """Whether an operation writes into its first argument."""
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _acts(target: Any) -> bool:
    """Whether it draws, writes, or checks."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    drawn = torch.Tag.nondeterministic_seeded in target.tags
    return drawn or target._schema.is_mutable or not target._schema.returns


def _computes(target: Any) -> bool:
    """Whether the result is new memory, not a view or one of several results."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return not any(result.alias_info is not None for result in target._schema.returns)
