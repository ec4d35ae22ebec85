"""A recorded graph run by TorchScript's interpreter: the same kernels in the same order.

On small tensors a kernel takes a microsecond, and calling it from Python several. The interpreter
calls it from C++: a step of a few hundred operations takes a third to a quarter of the time, ready at
once, where compiling (`guidebook.programs.graphs.compiled`) takes many seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.utils._pytree import tree_leaves

from guidebook.programs.graphs.script import scripted
from guidebook.scope import quiet, random_state

AFTER_CALLS = 10
"""Calls after which a graph is taken into the interpreter: that costs as much as it saves in twenty."""


def interpreted(graph: torch.fx.GraphModule) -> Callable[..., Any]:
    """The graph for arguments of the shapes it was recorded with, in Python at first, from the tenth call
    on in the interpreter; always in Python where TorchScript has no name for an operation, or would drop
    one. It is run without gradients, and takes no random numbers before it is called.

    The interpreter's own optimisations are off: they may change the order of sums.
    """
    plain = torch.no_grad()(graph)
    if any(map(_only_raises, graph.graph.nodes)):
        return plain
    calls, script = 0, None

    def run(*arguments: torch.Tensor) -> Any:
        nonlocal calls, script
        calls += 1
        if calls == AFTER_CALLS:
            script = _script(graph, arguments)
        return plain(*arguments) if script is None else script(*arguments)

    return run


def _script(graph: torch.fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any] | None:
    """The graph as a script; None where TorchScript cannot take it.

    At the example it must give the bits of the graph in Python.
    """
    given = [[t.clone() for t in example] for _ in range(2)]
    try:
        script, found = scripted(graph), []
        calls: tuple[Callable[..., Any], ...] = graph, script
        for call, arguments in zip(calls, given, strict=True):
            with quiet(), random_state(0), torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                found.append(_tensors((call(*arguments), arguments)))
        if not all(map(same_bits, *found)):
            return None
    except Exception:
        return None

    def run(*arguments: torch.Tensor) -> Any:
        try:
            with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return script(*arguments)
        except RuntimeError as error:  # it knows no other kind, and quotes the one it caught
            said = re.search(r"RuntimeError: ((?:torch\.)?linalg\..*)", str(error))
            if said is None:
                raise
            raise LinAlgError(said[1]) from error

    return run


def _only_raises(node: torch.fx.Node) -> bool:
    """An operation without a result, as the check of a Cholesky factor: TorchScript drops it as dead."""
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns


def _tensors(results: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits, not-a-number in the same places."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
