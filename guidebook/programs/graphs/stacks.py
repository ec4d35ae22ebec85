"""A graph in which many operations become one: stacked arguments, results taken apart when read."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from guidebook.programs.graphs.operations import called

aten = torch.ops.aten


@dataclass
class Sum:
    """A sum taken one term after the other: its additions, and its terms (one more)."""

    nodes: list[Node]
    terms: list[Node]


class Stacks:
    """A new graph, built from the nodes of an old one, which come after what they need."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._single: dict[Node, Node] = {}
        self._place: dict[Node, tuple[Node, int]] = {}  # the batch that holds it, and where
        self._parts: dict[Node, Node] = {}
        self._stacked: dict[tuple[Node, ...], Node] = {}

    def alone(self, node: Node) -> None:
        """The node as it is."""
        if node.op != "call_function":
            self._single[node] = self.graph.node_copy(node, self.single)
            return
        args, kwargs = map_arg(node.args, self.single), map_arg(node.kwargs, self.single)
        self._single[node] = called(self.graph, node.target, args, kwargs)
        self._single[node].meta.update(node.meta)

    def together(self, members: list[Node]) -> None:
        """One operation for all of them, in the order in which their arguments lie stacked."""
        places = [i for i, a in enumerate(members[0].args) if isinstance(a, Node)]
        moved = [i for i in places if any(m.args[i] is not members[0].args[i] for m in members)]
        for i in moved:
            at = [self._at(m.args[i]) for m in members]
            if all(x is not None for x in at) and len({x[0] for x in at if x is not None}) == 1:
                order = sorted(range(len(members)), key=lambda k: at[k][1])  # type: ignore[index]
                members = [members[k] for k in order]
                break
        given: list[Any] = list(members[0].args)
        for i in places:
            every: list[Any] = [m.args[i] for m in members]
            given[i] = self._stack(every) if i in moved else self.single(every[0])
        batch = self._call(members[0].target, tuple(given), members[0], len(members))
        for place, member in enumerate(members):
            self._place[member] = batch, place

    def summed(self, found: Sum) -> None:
        """The last row of the cumulative sum of the terms."""
        count = len(found.terms)
        rows = self._call(aten.cumsum.default, (self._stack(found.terms), 0), found.nodes[0], count)
        last = self._call(aten.select.int, (rows, 0, count - 1), found.nodes[0], 1)
        self._single[found.nodes[-1]] = last

    def single(self, node: Node) -> Node:
        """The node in the new graph, taken out of its batch where it is in one."""
        if node not in self._single:
            batch, place = self._place[node]
            if batch not in self._parts:
                parts = called(self.graph, aten.unbind.int, (batch, 0))
                parts.meta["parts"] = batch.meta["layout"][1][0]
                self._parts[batch] = parts
            piece = called(self.graph, operator.getitem, (self._parts[batch], place))
            piece.meta.update({k: v for k, v in node.meta.items() if k != "elements"})
            self._single[node] = piece
        return self._single[node]

    def _at(self, node: Any) -> tuple[Node, int] | None:
        """The tensor that holds it as a row, and which: of a batch, or of data."""
        if node in self._place:
            return self._place[node]
        if node.target is not aten.select.int or node.args[1] != 0 or not is_dense(node.args[0]):
            return None
        return self.single(node.args[0]), int(node.args[2])

    def _stack(self, nodes: list[Node]) -> Node:
        """The tensors of the nodes stacked in front: rows that lie side by side together."""
        key = tuple(nodes)
        if key not in self._stacked:
            runs = self._runs(nodes)
            if len(runs) == 1 and not isinstance(runs[0], Node):
                self._stacked[key] = self._rows(runs[0], nodes[0])
            elif 3 * len(runs) < len(nodes):
                pieces = [
                    self._call(aten.unsqueeze.default, (self.single(run), 0), run, 1)
                    if isinstance(run, Node) else self._rows(run, nodes[0])
                    for run in runs
                ]  # fmt: skip
                self._stacked[key] = self._call(aten.cat.default, (pieces,), nodes[0], len(nodes))
            else:
                every = [self.single(n) for n in nodes]
                self._stacked[key] = self._call(aten.stack.default, (every,), nodes[0], len(nodes))
        return self._stacked[key]

    def _runs(self, nodes: list[Node]) -> list[Any]:
        """The nodes as rows (tensor, from, to) one after the other, ahead or back; others by themselves."""
        runs: list[Any] = []
        for node in nodes:
            at = self._at(node)
            if at is None:
                runs.append(node)
                continue
            before = runs[-1] if runs and not isinstance(runs[-1], Node) else None
            if before is not None and before[0] is at[0]:
                turn = at[1] - before[2]
                if abs(turn) == 1 and (
                    before[1] == before[2] or (before[2] > before[1]) == (turn > 0)
                ):
                    runs[-1] = before[0], before[1], at[1]
                    continue
            runs.append((at[0], at[1], at[1]))
        return runs

    def _rows(self, run: tuple[Node, int, int], like: Node) -> Node:
        whole, start, end = run
        low, high = min(start, end), max(start, end) + 1
        rows = whole
        if high - low < whole.meta["layout"][1][0]:
            rows = self._call(aten.slice.Tensor, (whole, 0, low, high), like, high - low)
        return (
            rows if end >= start else self._call(aten.flip.default, (rows, [0]), like, high - low)
        )

    def _call(self, target: Any, args: tuple[Any, ...], like: Node, count: int) -> Node:
        node = called(self.graph, target, args)
        dtype, shape, stride, device = like.meta["layout"]
        size = math.prod(shape)
        node.meta.update(dtype=dtype, elements=count * size)
        node.meta["layout"] = dtype, (count, *shape), (size, *stride), device
        return node


def is_dense(node: Node) -> bool:
    """Whether its tensor lies in memory number by number."""
    if "layout" not in node.meta:
        return False
    _, shape, stride, _ = node.meta["layout"]
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
