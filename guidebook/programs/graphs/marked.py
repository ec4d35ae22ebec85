"""A recorded graph in which a factor that does not exist is not a number, where the operation raises.

Of many positions one with a matrix that is not positive definite would end the evaluation of all. Marked, the
others are as they are, and the graph can be taken into the interpreter, which drops what only raises.
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
CHECK = aten._linalg_check_errors.default
FACTORS = aten.linalg_cholesky_ex.default, aten.linalg_inv_ex.default
"""Their results are a matrix, and the number that says whether it exists, 0 where it does."""


def marked(graph: GraphModule) -> GraphModule:
    """The graph without checks, its matrices that fail NaN; as it is where another operation is checked."""
    if not any(node.target is CHECK for node in graph.graph.nodes):
        return graph
    found = GraphModule(graph, copy.deepcopy(graph.graph))
    checks = [node for node in found.graph.nodes if node.target is CHECK]
    factors = [_checked(node.args[0]) for node in checks]
    if None in factors:
        return graph
    for factor in dict.fromkeys(factors):
        for matrix in list(factor.users):  # type: ignore[union-attr]
            if matrix.target is operator.getitem and matrix.args[1] == 0:
                _mark(found.graph, matrix)
    for node in checks:
        found.graph.erase_node(node)
    # a factor that nothing but its check read, and all that led to it
    found.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    found.recompile()
    return found


def _checked(info: Any) -> Node | None:
    """The factorisation that says by `info` whether it succeeded; None of another operation."""
    if not isinstance(info, Node) or info.target is not operator.getitem or info.args[1] != 1:
        return None
    factor = info.args[0]
    assert isinstance(factor, Node)
    return factor if factor.target in FACTORS else None


def _mark(graph: torch.fx.Graph, matrix: Node) -> None:
    """matrix times 1 where it exists, times 0 / 0 where it does not, in place of the matrix."""
    users = list(matrix.users)
    with graph.inserting_after(matrix):
        info = graph.call_function(operator.getitem, (matrix.args[0], 1))
    before = info
    for target, given in (
        (aten.eq.Scalar, (0,)),
        (aten.unsqueeze.default, (-1,)),
        (aten.unsqueeze.default, (-1,)),
    ):
        with graph.inserting_after(before):
            before = graph.call_function(target, (before, *given))
    with graph.inserting_after(before):
        one = graph.call_function(aten.div.Tensor, (before, before))
    with graph.inserting_after(one):
        product = graph.call_function(aten.mul.Tensor, (matrix, one))
    for user in users:
        user.replace_input_with(matrix, product)
