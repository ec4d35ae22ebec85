"""A recorded graph whose constant masks are the places that they hold.

What x[mask] has for entries depends on the values of the mask, for which no kernel is made. A constant mask of
the program or of the data has one list of places: x[mask] is x[i, j, ...], (i, j, ...) where the mask is true.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def without_masks(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph with whole numbers in the place of masks as indices; itself where there are none."""
    held: dict[str, Tensor] = {}
    copied = torch.fx.Graph()
    values: dict[torch.fx.Node, Any] = {}

    def places(index: Any) -> list[Any]:
        """The node of an index, or those of the places of a mask."""
        mask = getattr(graph, str(index.target)) if index is not None and index.op == "get_attr" else None
        if mask is None or mask.dtype != torch.bool:
            return [None if index is None else values[index]]
        found = []
        for k, axis in enumerate(mask.nonzero(as_tuple=True)):
            name = f"{index.target}_{k}_places"
            held[name] = axis
            found.append(copied.get_attr(name))
        return found

    for node in graph.graph.nodes:
        indices = [p for index in node.args[1] for p in places(index)] if node.target in INDEXED else []
        values[node] = copied.node_copy(node, values.__getitem__)
        if indices:
            first, _, *rest = values[node].args
            values[node].args = (first, indices, *rest)
    if not held:
        return graph
    copied.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    names = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    return torch.fx.GraphModule({**{n: getattr(graph, n) for n in names}, **held}, copied)
