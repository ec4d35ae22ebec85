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


def interpreted(graph: torch.fx.GraphModule, *example: torch.Tensor) -> Callable[..., Any]:
    """The graph for arguments shaped like the example; the graph itself where TorchScript has no
    name for an operation, or would drop one. It is run without gradients, and takes no random numbers
    before it is called.

    The interpreter's own optimisations are off: they may change the order of sums.
    """
    if any(map(_only_raises, graph.graph.nodes)):
        return torch.no_grad()(graph)
    try:
        with quiet(), random_state(0), torch.no_grad():
            script = torch.jit.trace(
                graph, tuple(t.clone() for t in example), check_trace=False, strict=False
            )
    except Exception:
        return torch.no_grad()(graph)

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
