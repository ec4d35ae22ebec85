"""A recorded graph compiled by Inductor: kernels fused, no Python between them; and when that pays."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from guidebook.programs.graphs.recorded import reason
from guidebook.scope import quiet

SECONDS_TO_COMPILE = 0.04  # an operation of a graph, one core
SECONDS_TO_LOOP = 0.005
"""The same for a loop in C (`guidebook.programs.native`): a third of what it takes, because it is kept, and
the next fit of the model finds it."""
SECONDS_SAVED = 2.5e-6, 1e-10
"""By compiling: at each call of an operation of small tensors, and for each element of the largest."""


MOST_ON_ONE_CORE = 100_000
"""Elements of the largest tensor up to which more cores are no faster."""
SCALAR_UP_TO = 8192
"""Elements of the largest tensor up to which kernels are compiled without vector headers: that takes
half the time, and the kernels are as fast."""


def compile_graph(graph: torch.fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
    """The graph compiled by Inductor; the graph itself, with one warning, where that fails.

    The arguments must keep the shapes of the example: nothing checks them at a call.
    """
    import torch._inductor as inductor
    import torch._inductor.config as inductor_config

    settings: dict[str, Any] = {
        "fallback_random": True,  # the random numbers of eager torch
        "size_asserts": False,  # a fifth of a small step
        "alignment_asserts": False,
        # Of a cold start three quarters went into trying the compiler on every vector instruction
        # set, and into precompiling headers that one or two kernels do not earn back.
        "cpp.vec_isa_ok": True,
        "cpp_cache_precompile_headers": False,
    }
    if largest(graph) <= SCALAR_UP_TO:
        settings["cpp.simdlen"] = 1
    try:
        with quiet(), inductor_config.patch(settings):
            return inductor.compile(graph, list(example))
    except Exception as error:  # no C++ compiler, no Python headers, an operation it cannot lower
        warnings.warn(
            "The recorded step could not be compiled and runs uncompiled, a few times slower "
            f"({reason(error)}). A C++ compiler (Debian: g++) makes it fast.",
            stacklevel=2,
        )
        return graph


def worth_compiling(graph: torch.fx.GraphModule, calls: int, device: torch.device) -> bool:
    """Whether compiling pays: decided by the size of the tensors, so the same on every machine.

    What it costs and what it saves grow alike with the number of operations: on small tensors it pays
    from 16,000 calls on, on tensors of 100,000 elements from 3,200 (`benchmarks.compiling`).
    """
    if device.type == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None:
        return False
    elements = largest(graph)
    if elements > 1_000_000:  # the time is in the matrix products
        return calls > 2000
    per_call, per_element = SECONDS_SAVED
    return calls * (per_call + per_element * elements) > SECONDS_TO_COMPILE


def worth_looping(graph: torch.fx.GraphModule, calls: int, device: torch.device) -> bool:
    """Whether many calls in a loop in C pay, which runs on one core: from 2,000 calls on small tensors on.

    Decided by the size of the tensors and the number of cores that torch may use.
    """
    elements, (per_call, per_element) = largest(graph), SECONDS_SAVED
    if device.type != "cpu" or (elements > MOST_ON_ONE_CORE and torch.get_num_threads() > 1):
        return False
    return calls * (per_call + per_element * elements) >= SECONDS_TO_LOOP


def largest(graph: torch.fx.GraphModule) -> int:
    """The number of elements of the largest tensor that the graph computes.

    Inputs and what is written in place do not count: a history is long, and one entry is touched. Nor do
    views, which repeat numbers without computing any.
    """
    made = [n for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    computed = [n for n in made if not any(r.alias_info for r in n.target._schema.returns)]
    return max(
        (n.meta.get("elements", 0) for n in computed if not n.target._schema.is_mutable), default=0
    )
