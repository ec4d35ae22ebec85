"""A recorded loop over time without the loop, where its steps do not wait for each other.

The densities of 200 observations are 200 times the same dozen operations on one number. Operations of the
same role are found by their neighbourhoods (the refinement of Weisfeiler and Leman); where no member of a
role waits for another one, they become one operation on the stacked arguments:

    f(a_1, s), ..., f(a_n, s)   ->   f(stack(a_1, ..., a_n), s).unbind()

Sums a_1 + a_2 + ... + a_n, taken one after the other, are the last row of a cumulative sum. Only operations
that give the same bits in a large tensor as in a small one take part, so the results stay to the bit.

Sources: Neubig, Goldberg and Dyer 2017, "On-the-fly operation batching in dynamic computation graphs";
Shervashidze et al. 2011, "Weisfeiler-Lehman graph kernels".
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.fx import Graph, Node

from guidebook.programs.graphs.operations import dependencies
from guidebook.programs.graphs.simplified import frozen
from guidebook.programs.graphs.stacks import Stacks, Sum, is_dense

aten = torch.ops.aten

LEAST = 8
"""Members of a role, or terms of a sum, from which on they become one operation."""
LARGEST = 4096
"""Numbers in one tensor up to which calling the operation takes longer than its work."""
ROUNDS = 4
"""Of refining the roles at most; the one that leaves the fewest operations is taken."""
SAME_BITS = frozenset(
    (
        aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar,
        aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default,
        aten.reciprocal.default, aten.sqrt.default, aten.abs.default, aten.exp.default,
        aten.log.default, aten.log1p.default, aten.lt.Scalar, aten.le.Scalar, aten.gt.Scalar,
        aten.ge.Scalar, aten.where.self, aten.masked_fill.Scalar, aten.clamp.default,
    )
)  # fmt: skip
"""Operations, number by number, whose bits do not depend on the size of the tensor; and x^2."""


def batched(graph: Graph, written: set[int | None]) -> Graph:
    """The graph with one operation for those of the same role; the graph itself where there are none.

    `written`: the memory of tensors that the graph writes into.
    """
    nodes = list(graph.nodes)
    if len(nodes) < 3 * LEAST:
        return graph
    edges, sums = dependencies(nodes, written), _sums(nodes, written)
    summed = {node for terms in sums for node in terms.nodes}
    free = {n for n in nodes if n not in summed and _may(n, written)}
    labels, best, spared = _labels(nodes, free), list[list[Node]](), 0
    for _ in range(ROUNDS):
        labels = _refined(nodes, labels)
        groups = _independent(nodes, _groups(nodes, free, labels), sums, edges)
        if sum(len(g) - 1 for g in groups) > spared:
            best, spared = groups, sum(len(g) - 1 for g in groups)
    if not best and not sums:
        return graph
    return _rebuilt(nodes, best, sums, edges)


def _may(node: Node, written: set[int | None]) -> bool:
    """Whether the operation may be one of several in a batch."""
    square = node.target is aten.pow.Tensor_Scalar and node.args[1] == 2
    if not (square or node.target in SAME_BITS) or node.kwargs or not _small(node):
        return False
    if node.meta["memory"] in written:
        return False
    given = [a.meta.get("layout") for a in node.args if isinstance(a, Node)]
    kinds = {layout[0] for layout in given if layout is not None} - {torch.bool}
    return None not in given and len(kinds) == 1


def _small(node: Node) -> bool:
    return is_dense(node) and node.meta.get("elements", LARGEST + 1) <= LARGEST


def _sums(nodes: list[Node], written: set[int | None]) -> list[Sum]:
    """Sums of many terms, added one after the other, of which nothing but the last is read."""
    ending: dict[Node, Sum] = {}
    for node in nodes:
        if node.target is not aten.add.Tensor or node.kwargs or not _small(node):
            continue
        layout, terms = node.meta["layout"], [a for a in node.args if isinstance(a, Node)]
        if layout[0] is not torch.float64 or layout[3] != "cpu" or node.meta["memory"] in written:
            continue  # elsewhere a cumulative sum rounds in another way
        if len(terms) != 2 or any(t.meta.get("layout") != layout for t in terms):
            continue
        so_far = [ending[t] for t in terms if t in ending and len(t.users) == 1]
        if so_far and terms[0] is not terms[1]:
            longest = max(so_far, key=lambda s: len(s.nodes))
            last = longest.nodes[-1]
            del ending[last]
            longest.nodes.append(node)
            longest.terms.append(terms[1] if terms[0] is last else terms[0])
            ending[node] = longest
        else:
            ending[node] = Sum([node], terms)
    return [found for found in ending.values() if len(found.terms) >= LEAST]


def _labels(nodes: list[Node], free: set[Node]) -> dict[Node, int]:
    """A number for every operation with what is fixed of it; other nodes have one of their own."""
    keys: list[Any] = []
    for place, node in enumerate(nodes):
        key: Any = place if node.op != "call_function" else (node.target, node.meta.get("layout"))
        if node in free:
            fixed = (a.meta["layout"] if isinstance(a, Node) else frozen(a) for a in node.args)
            key = node.target, tuple(fixed), node.meta["layout"]
        keys.append(key)
    numbers: dict[Any, int] = {}
    return {n: numbers.setdefault(k, len(numbers)) for n, k in zip(nodes, keys, strict=True)}


def _refined(nodes: list[Node], labels: dict[Node, int]) -> dict[Node, int]:
    """The labels with those of the arguments and of the readers, numbered anew."""
    numbers: dict[Any, int] = {}
    found = {}
    for node in nodes:
        few = len(node.users) <= LEAST  # what everything reads looks the same from everywhere
        readers = tuple(sorted(labels[n] for n in node.users)) if few else ()
        given = tuple(labels[a] for a in node.args if isinstance(a, Node))
        found[node] = numbers.setdefault((labels[node], given, readers), len(numbers))
    return found


def _groups(nodes: list[Node], free: set[Node], labels: dict[Node, int]) -> list[list[Node]]:
    """Of the same label, where every argument is one for all or of the shape of the result."""
    members: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        if node in free:
            members[labels[node]].append(node)
    return [g for g in members.values() if len(g) >= LEAST and _fit(g)]


def _fit(group: list[Node]) -> bool:
    shape = group[0].meta["layout"][1]
    return all(
        not isinstance(argument, Node)
        or argument.meta["layout"][1] == shape
        or all(node.args[place] is argument for node in group)
        for place, argument in enumerate(group[0].args)
    )


def _independent(
    nodes: list[Node], groups: list[list[Node]], sums: list[Sum], edges: np.ndarray
) -> list[list[Node]]:
    """The groups of which no member waits for another: on no circle once each group is one operation."""
    unit = _units(nodes, [*groups, *(s.nodes for s in sums)])
    tail, head = unit[edges[:, 0]], unit[edges[:, 1]]
    size = int(unit.max()) + 1
    links = coo_array((np.ones(len(edges), dtype=bool), (tail, head)), shape=(size, size))
    _, part = connected_components(links, directed=True, connection="strong")
    crowded = np.bincount(part)[part] > 1
    crowded[tail[tail == head]] = True
    return [g for i, g in enumerate(groups) if not crowded[i]]


def _units(nodes: list[Node], groups: list[list[Node]]) -> np.ndarray:
    """For every node the number of its group, or a number of its own."""
    of = {node: i for i, group in enumerate(groups) for node in group}
    return np.array([of.get(node, len(groups) + place) for place, node in enumerate(nodes)])


def _rebuilt(
    nodes: list[Node], groups: list[list[Node]], sums: list[Sum], edges: np.ndarray
) -> Graph:
    """The new graph: everything as early as in the old one, and after what it needs."""
    unit = _units(nodes, [*groups, *(s.nodes for s in sums)])
    members: dict[int, list[Node]] = defaultdict(list)
    for number, node in zip(unit.tolist(), nodes, strict=True):
        members[number].append(node)
    place = {node: i for i, node in enumerate(nodes)}
    first = {number: place[them[0]] for number, them in members.items()}
    pairs = {(a, b) for a, b in zip(*unit[edges].T.tolist(), strict=True) if a != b}
    after: dict[int, list[int]] = defaultdict(list)
    waits: dict[int, int] = defaultdict(int)
    for a, b in pairs:
        after[a].append(b)
        waits[b] += 1
    ready = [(first[number], number) for number in members if not waits[number]]
    heapq.heapify(ready)
    stacks = Stacks()
    while ready:
        _, number = heapq.heappop(ready)
        if number < len(groups):
            stacks.together(members[number])
        elif number < len(groups) + len(sums):
            stacks.summed(sums[number - len(groups)])
        else:
            stacks.alone(members[number][0])
        for b in after[number]:
            waits[b] -= 1
            if not waits[b]:
                heapq.heappush(ready, (first[b], b))
    return stacks.graph
