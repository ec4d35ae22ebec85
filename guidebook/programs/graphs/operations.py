"""Operations of a recorded graph: how one is added, and which have to come before which."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch.fx import Graph, Node


def called(graph: Graph, target: Any, args: Any, kwargs: Any = None) -> Node:
    """A new operation; `Graph.call_function` first walks through its arguments in search of symbols."""
    node = graph.create_node("call_function", target, name="t")
    node.args = args
    if kwargs:
        node.kwargs = kwargs
    return node


def dependencies(nodes: list[Node], written: set[int | None]) -> np.ndarray:
    """Pairs (before, after) of places in `nodes`, (E, 2).

    An operation comes after its arguments. What reads memory in `written` comes after the last write
    before it and before the next. Draws, checks, inputs and the output keep their order.
    """
    place = {node: i for i, node in enumerate(nodes)}
    pairs: list[tuple[int, int]] = []
    readers: dict[Any, list[int]] = defaultdict(list)
    writer: dict[Any, int] = {}
    last = -1
    for here, node in enumerate(nodes):
        pairs += [(place[a], here) for a in node.all_input_nodes]
        if _keeps_order(node):
            if last >= 0:
                pairs.append((last, here))
            last = here
        for argument in node.all_input_nodes:
            memory = argument.meta.get("memory")
            if memory not in written:
                continue
            if memory in writer:
                pairs.append((writer[memory], here))
            if memory in _changes(node):
                pairs += [(reader, here) for reader in readers.pop(memory, ())]
                writer[memory] = here
            else:
                readers[memory].append(here)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _keeps_order(node: Node) -> bool:
    if node.op == "get_attr":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op != "call_function"
    schema, tags = node.target._schema, node.target.tags
    drawn = torch.Tag.nondeterministic_seeded in tags
    return drawn or schema.is_mutable or not schema.returns


def _changes(node: Node) -> set[Any]:
    """The memory that the operation writes into."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return set()
    changed: set[Any] = set()
    for i, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        for value in given if isinstance(given, (tuple, list)) else [given]:
            if isinstance(value, Node):
                changed.add(value.meta.get("memory"))
    return changed
