"""A recorded graph run by TorchScript's interpreter: the same kernels in the same order.

On small tensors a kernel takes a microsecond, and calling it from Python several. The interpreter
calls it from C++: a step of a few hundred operations takes a third to a quarter of the time, ready at
once, where compiling (`guidebook.programs.graphs.compiled`) takes many seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

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
            script = _script(graph, [t.clone() for t in arguments])
        return plain(*arguments) if script is None else script(*arguments)

    return run


def _script(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Callable[..., Any] | None:
    """The graph as a script; None where TorchScript cannot take it."""
    try:
        with quiet(), random_state(0), torch.no_grad():
            script = torch.jit.trace(graph, tuple(example), check_trace=False, strict=False)
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
