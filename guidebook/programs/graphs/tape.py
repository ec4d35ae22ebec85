"""One run of a function written down, operation by operation, as a graph of torch.fx.

It is `torch.fx.experimental.proxy_tensor.make_fx` for what is recorded here, tensors of fixed shapes
on a real device, and quicker: it makes no fake tensor for every result and flattens no arguments. Below
vmap, grad and autograd torch hands every operation to the innermost dispatch mode, with plain tensors;
the tape runs it and writes it down.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode, autograd_would_have_decomposed

aten = torch.ops.aten

IDLE = frozenset((aten.detach.default, aten.alias.default))
"""What does nothing inside a graph that is run without gradients, and would cost a dispatch."""

SMALL = 250
"""Elements up to which the value of a constant (`torch.tensor(3.0)`) is known while recording."""


@lru_cache(maxsize=4096)
def _composite(func: torch._ops.OpOverload) -> bool:
    """Whether torch defines the operation by others."""
    return func._can_decompose()


class _Tape(TorchDispatchMode):
    """Runs every operation and adds it to the graph.

    A tensor made on the way carries its node, in an attribute: it stays with the tensor wherever
    torch keeps it, and goes with it. Inputs, and tensors from outside (data, parameters), which
    become attributes of the graph, are known by their identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = torch.fx.Graph()
        self.outside: dict[str, Tensor] = {}
        self.known: dict[int, tuple[Tensor, torch.fx.Node]] = {}  # held, so that no id comes again

    def take(self, name: str, value: Tensor) -> None:
        self.known[id(value)] = value, self.graph.placeholder(name)

    def node(self, value: Any) -> Any:
        """The node of a tensor; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        note = getattr(value, "_on_tape", None)
        if note is not None and note[0] is self:
            return note[1]
        if id(value) not in self.known:
            name = f"_outside_{len(self.outside)}"
            self.outside[name] = value
            self.known[id(value)] = value, self.graph.get_attr(name)
        return self.known[id(value)][1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if _composite(func) and autograd_would_have_decomposed(func, args):
            with self:
                taken_apart = func.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        if torch.Tag.data_dependent_output in func.tags:
            return func(*map_aggregate(args, self._constant), **kwargs)
        if func in IDLE:
            result = func(*args, **kwargs)
            result._on_tape = self, self.node(args[0]), self._known_value(args[0])
            return result
        if func is aten.lift_fresh.default:
            # a copy, so that the graph does not write into its own constant
            value = args[0].clone() if args[0].numel() <= SMALL else None
            return self._add(aten.lift_fresh_copy.default, args, kwargs, value)
        return self._add(func, args, kwargs, self._folded(func, args, kwargs))

    def _add(self, func: Any, args: Any, kwargs: Any, value: Tensor | None) -> Any:
        """The result of the operation, with its node; `value` where the result is a known constant."""
        node = self.graph.create_node(
            "call_function",
            func,
            map_aggregate(args, self.node),
            map_aggregate(kwargs, self.node),
        )
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._mark(result, node, value)
        elif isinstance(result, (tuple, list)):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    piece = self.graph.create_node("call_function", operator.getitem, (node, i))
                    self._mark(part, piece, None)
        return result

    def _mark(self, result: Tensor, node: torch.fx.Node, value: Tensor | None) -> None:
        node.meta["dtype"], node.meta["elements"] = result.dtype, result.numel()
        if id(result) in self.known:  # an input written in place: it is this node from now on
            self.known[id(result)] = result, node
        else:
            result._on_tape = self, node, value  # type: ignore[attr-defined]

    # values known while recording ---------------------------------------------------------------

    def _known_value(self, value: Tensor) -> Tensor | None:
        note = getattr(value, "_on_tape", None)
        return note[2] if note is not None and note[0] is self else None

    def _constant(self, value: Any) -> Any:
        """The value of a tensor that no input has a part in.

        Raises:
            ValueError: an input has.
        """
        if not isinstance(value, Tensor):
            return value
        known = self._known_value(value)
        if known is not None:
            return known
        outside = id(value) in self.known and self.known[id(value)][1].op == "get_attr"
        tracked = getattr(value, "_on_tape", (None,))[0] is self
        if outside or not (tracked or id(value) in self.known):
            return value
        raise ValueError(
            "the program reads the value of a tensor that depends on its inputs (data-dependent "
            "control flow, .item(), float() or bool() of a tensor)"
        )

    def _folded(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        """The value of an operation on known constants alone; None for any other."""
        tensors: list[Tensor] = []

        def look(value: Any) -> Any:
            if isinstance(value, Tensor):
                tensors.append(value)
            return value

        map_aggregate((args, kwargs), look)
        values = [self._known_value(t) for t in tensors]
        if not any(v is not None for v in values):
            return None
        if torch.Tag.nondeterministic_seeded in func.tags:
            return None
        try:
            result = func(
                *map_aggregate(args, self._constant), **map_aggregate(kwargs, self._constant)
            )
        except ValueError:
            return None
        return result if isinstance(result, Tensor) and result.numel() <= SMALL else None


def taped(function: Callable[..., Any], *example: Tensor) -> torch.fx.GraphModule:
    """The graph of one run of the function at the example; what nothing reads is left out.

    Raises:
        ValueError: the function reads a value that depends on its arguments.
    """
    tape = _Tape()
    for i, value in enumerate(example):
        tape.take(f"x_{i}", value)
    with tape:
        result = function(*example)
    tape.graph.output(map_aggregate(result, tape.node))
    for node in tape.graph.nodes:
        _keep_dtype(node)
    # random numbers that nothing reads are not drawn: Pyro guesses the depth of plates by a first run
    tape.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    # parameters that are held have no gradient: nothing but the inputs moves in a run of the graph
    outside = {name: value.detach() for name, value in tape.outside.items()}
    return torch.fx.GraphModule(outside, tape.graph)


def _keep_dtype(node: torch.fx.Node) -> None:
    """Constants are made in the dtype they were recorded in, not in torch's default of the moment."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.all_input_nodes:
        return
    takes = any(argument.name == "dtype" for argument in node.target._schema.arguments)
    if takes and node.kwargs.get("dtype") is None and "dtype" in node.meta:
        node.kwargs = {**node.kwargs, "dtype": node.meta["dtype"]}
