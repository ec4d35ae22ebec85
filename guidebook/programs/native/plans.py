"""The plans of graphs, kept on disk beside the libraries: lowering takes longer than compiling.

A plan depends on the operations of its graph and on the shapes of what they read, not on the numbers: a
second fit of a model, with other data of the same shape, another seed or another prior's constants in
tensors, lowers nothing. That a graph cannot be lowered is kept as well.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidebook.programs.native import algebra, copies, kept, lowered
from guidebook.programs.native.algebra import CannotLower
from guidebook.programs.native.copies import without_copies
from guidebook.programs.native.lowered import Place, Plan, Result


def planned(graph: torch.fx.GraphModule, example: Sequence[Tensor]) -> Plan:
    """The plan of a graph (`lowered.lowered`), made or found.

    Raises:
        CannotLower: as `lowered`.
    """
    if any(n.op == "call_module" for n in graph.graph.nodes):
        raise CannotLower("it has graphs inside")
    name = kept.name_of(_told(graph, example))
    known = kept.found(name, ".json")
    if known is not None:
        told = json.loads(known.read_text(encoding="utf-8"))
        if "refused" in told:
            raise CannotLower(told["refused"])
        return _read(told)
    try:
        plan = without_copies(lowered.lowered(graph, example))
    except CannotLower as refused:
        _keep({"refused": str(refused)}, name)
        raise
    _keep(_written(plan), name)
    return plan


def _told(graph: torch.fx.GraphModule, example: Sequence[Tensor]) -> list[str]:
    """All that a plan depends on."""
    given = [*example, *lowered.held_by(graph)]
    return [
        graph.graph.python_code("self").src,
        *(f"{t.dtype} {tuple(t.shape)} {t.stride()} {t.device}" for t in given),
        repr(lowered.SETTINGS),
        torch.__version__,
        _lowering(),
    ]


@functools.cache
def _lowering() -> str:
    texts = (inspect.getsource(module).encode() for module in (algebra, copies, lowered))
    return hashlib.sha256(b"".join(texts)).hexdigest()


def _keep(told: dict[str, Any], name: str) -> None:
    with tempfile.TemporaryDirectory(dir=kept.folder()) as work:
        made = Path(work) / "plan.json"
        made.write_text(json.dumps(told), encoding="utf-8")
        kept.keep(made, name, ".json")


def _written(plan: Plan) -> dict[str, Any]:
    def of(place: Place | int) -> Any:
        return [place.argument, place.offset, place.size] if isinstance(place, Place) else place

    return {
        "sources": plan.sources,
        "calls": [[function, [of(a) for a in given]] for function, given in plan.calls],
        "normals": [[of(place), count] for place, count in plan.normals],
        "dtype": _name(plan.dtype),
        "scratch": plan.scratch,
        "results": [[of(r.place), r.shape, r.stride, _name(r.dtype)] for r in plan.results],
    }


def _read(told: dict[str, Any]) -> Plan:
    def of(place: Any) -> Any:
        return Place(*place) if isinstance(place, list) else place

    return Plan(
        tuple((tuple(kinds), code) for kinds, code in told["sources"]),
        tuple((function, tuple(of(a) for a in given)) for function, given in told["calls"]),
        tuple((of(place), count) for place, count in told["normals"]),
        getattr(torch, told["dtype"]),
        told["scratch"],
        tuple(
            Result(of(place), tuple(shape), tuple(stride), getattr(torch, dtype))
            for place, shape, stride, dtype in told["results"]
        ),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
