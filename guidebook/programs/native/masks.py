"""A recorded graph whose constant masks are the places that they hold.

What x[mask] has for entries depends on the values of the mask, for which no kernel is made. A mask that
follows from the program and the data alone has one list of places: x[mask] is x[i, j, ...], (i, j, ...) where
it is true.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def without_masks(graph: GraphModule) -> GraphModule:
    """The graph with whole numbers in the place of masks as indices; itself where there are none."""
    held: dict[str, Tensor] = {}
    copied = Graph()
    values: dict[Node, Any] = {}

    def places(index: Node | None) -> list[Node | None]:
        """The node of an index, or those of the places of a mask."""
        if index is None:
            return [None]
        mask = _constant(graph, index) if index.meta.get("dtype") == torch.bool else None
        if mask is None:
            return [values[index]]
        found: list[Node | None] = []
        for k, axis in enumerate(mask.nonzero(as_tuple=True)):
            held[f"_places_{index.name}_{k}"] = axis
            found.append(copied.get_attr(f"_places_{index.name}_{k}"))
        return found

    for node in graph.graph.nodes:
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


def _constant(graph: GraphModule, node: Node) -> Any:
    """The value of a node that follows from constants of the graph; None where it does not."""
    if node.op == "get_attr":
        return getattr(graph, str(node.target))
    if node.op != "call_function" or (
        isinstance(node.target, torch._ops.OpOverload) and _acts(node)
    ):
        return None
    before = {n: _constant(graph, n) for n in node.all_input_nodes}
    if any(value is None for value in before.values()):
        return None
    assert callable(node.target)
    return node.target(*map_arg(node.args, before.get), **map_arg(node.kwargs, before.get))


def _acts(node: Node) -> bool:
    """Whether it draws or writes."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags
