"""A recorded graph that computes what is the same in every row once.

Plates expand distributions: log sigma of one sigma is then taken in each of N rows, and so are the weights
of a mixture. Here each result that an `expand` repeats along some dimensions has a twin of size 1 there, of
which follow the twins of all that is computed from it number by number. Where something else is made of it
the twin is expanded.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from guidebook.programs.native.constants import writes

aten = torch.ops.aten
Shape = tuple[int, ...]
Twin = tuple[Node, Shape]

RESHAPED = frozenset(
    (aten.view.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim)
)
MOVED = frozenset((aten.permute.default, aten.transpose.int))
REDUCED = frozenset((aten.max.dim, aten.amax.default, aten.sum.dim_IntList))


def without_repeats(graph: GraphModule) -> GraphModule:
    """The graph that computes repeated numbers once; itself where none are repeated."""
    if not any(n.target is aten.expand.default for n in graph.graph.nodes):
        return graph
    copied = _Copy(graph).graph
    copied.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    return GraphModule(graph, copied)


class _Copy:
    """The copied graph, with the whole results and the twins of the nodes of the given one."""

    def __init__(self, given: GraphModule) -> None:
        self.graph = Graph()
        self.whole: dict[Node, Node] = {}
        self.twins: dict[Node, Twin] = {}
        self.written = {n.args[0].meta.get("memory") for n in given.graph.nodes if writes(n.target)}
        for node in given.graph.nodes:
            twin = self._twin(node)
            if twin is not None:
                self.twins[node] = twin
            if twin is None or not _of_its_own(node):
                quotient = node.target is aten.div.Tensor and self._quotient(node)
                self.whole[node] = quotient or self.graph.node_copy(node, self._whole)

    def _whole(self, node: Node) -> Node:
        """The whole result; of new memory its twin, expanded where it is first asked for."""
        if node not in self.whole:
            wide = self._call(aten.expand.default, self.twins[node][0], list(_shape(node)))
            self.whole[node] = self._call(aten.clone.default, wide)
            self.whole[node].meta.update(node.meta)
        return self.whole[node]

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(target, args, kwargs)

    def _thin(self, node: Node) -> Twin:
        return self.twins[node] if node in self.twins else (self._whole(node), _shape(node))

    def _twin(self, node: Node) -> Twin | None:
        """The twin of a result of which some dimension is repeated."""
        if node.op != "call_function" or node.meta.get("memory") in self.written:
            return None
        if any("layout" not in n.meta and n not in self.twins for n in node.all_input_nodes):
            return None
        if node.target is operator.getitem:
            return self._piece(node)
        if not isinstance(node.target, torch._ops.OpOverload) or "layout" not in node.meta:
            return self._reduced(node) if node.target is aten.max.dim else None
        if node.target is aten.expand.default:
            return self._expanded(node)
        if _by_number(node.target):
            return self._by_number(node)
        source = node.args[0] if node.args else None
        if source not in self.twins:
            return None
        if node.target in RESHAPED:
            return self._reshaped(node)
        if node.target in MOVED:
            return self._moved(node)
        return self._reduced(node) if node.target in REDUCED else None

    def _quotient(self, node: Node) -> Node | None:
        """The product with the reciprocal of a divisor that is repeated; None of any other."""
        given: Any = node.args
        dividend, divisor = given
        if node.kwargs or not all(isinstance(n, Node) and _real(n) for n in (dividend, divisor)):
            return None
        twin, thin = self._thin(divisor)
        if math.prod(thin) * 2 > math.prod(_shape(node)):
            return None
        reciprocal = self._call(aten.reciprocal.default, twin)
        product = self._call(aten.mul.Tensor, self._whole(dividend), reciprocal)
        product.meta.update(node.meta)
        return product

    def _expanded(self, node: Node) -> Twin | None:
        twin, thin = self._thin(_source(node))
        shape = _shape(node)
        for _ in range(len(shape) - len(thin)):
            twin, thin = self._call(aten.unsqueeze.default, twin, 0), (1, *thin)
        return (twin, thin) if thin != shape else None

    def _by_number(self, node: Node) -> Twin | None:
        shape = _shape(node)
        thin = torch.broadcast_shapes(*(self._thin(n)[1] for n in node.all_input_nodes))
        if tuple(thin) == shape or not node.all_input_nodes:
            return None
        given: Any = (node.args, node.kwargs)
        args, kwargs = (map_arg(g, lambda n: self._thin(n)[0]) for g in given)
        return self._call(node.target, *args, **kwargs), (1,) * (len(shape) - len(thin)) + thin

    def _reshaped(self, node: Node) -> Twin | None:
        """Of what adds or takes away dimensions of size 1; None of any other."""
        twin, thin = self.twins[_source(node)]
        before, after = _shape(_source(node)), _shape(node)
        if [n for n in before if n != 1] != [n for n in after if n != 1]:
            return None
        sizes = iter(t for t, n in zip(thin, before, strict=True) if n != 1)
        wanted = tuple(1 if n == 1 else next(sizes) for n in after)
        return self._call(aten.view.default, twin, list(wanted)), wanted

    def _moved(self, node: Node) -> Twin:
        twin, thin = self.twins[_source(node)]
        places, axes = list(range(len(thin))), _rest(node)
        if node.target is aten.permute.default:
            order = [places[d] for d in axes[0]]
        else:
            a, b = (places[d] for d in axes)
            order = [{a: b, b: a}.get(d, d) for d in places]
        return self._call(aten.permute.default, twin, order), tuple(thin[d] for d in order)

    def _reduced(self, node: Node) -> Twin | None:
        """Of a reduction of dimensions that are not repeated, which gives the same numbers."""
        twin, thin = self.twins.get(_source(node), (None, ()))
        axes, *rest = *_rest(node), None
        if twin is None or axes is None or axes == [] or node.kwargs:
            return None
        full, places = _shape(_source(node)), list(range(len(thin)))
        gone = {places[d] for d in ([axes] if isinstance(axes, int) else axes)}
        if any(thin[d] != full[d] for d in gone):
            return None
        keep = bool(rest[0]) if rest else False
        left = tuple(1 if d in gone else n for d, n in enumerate(thin) if keep or d not in gone)
        return self._call(node.target, twin, *node.args[1:]), left

    def _piece(self, node: Node) -> Twin | None:
        source = _source(node)
        if source not in self.twins or "layout" not in node.meta:
            return None
        twin, thin = self.twins[source]
        return self._call(operator.getitem, twin, node.args[1]), thin


def _source(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _rest(node: Node) -> tuple[Any, ...]:
    return tuple(node.args[1:])


def _shape(node: Node) -> Shape:
    shape: Shape = node.meta["layout"][1]
    return shape


def _real(node: Node) -> bool:
    return "layout" in node.meta and node.meta["layout"][0].is_floating_point


def _by_number(target: torch._ops.OpOverload) -> bool:
    """Whether each number of the result is of the numbers there of the arguments alone."""
    drawn = target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags
    return not drawn and (torch.Tag.pointwise in target.tags or target is aten._to_copy.default)


def _of_its_own(node: Node) -> bool:
    """Whether the whole result lies in new memory, without gaps, so that an expanded twin may be it."""
    if "layout" not in node.meta or node.target is aten.expand.default:
        return False
    if node.target in RESHAPED or node.target in MOVED:
        return False
    _, shape, stride, _ = node.meta["layout"]
    return stride == torch.empty(shape, device="meta").stride()
