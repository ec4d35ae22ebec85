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

from guidebook.programs.graphs.batched import batched
from guidebook.programs.graphs.operations import called
from guidebook.programs.graphs.simplified import simplified

aten = torch.ops.aten

IDLE = frozenset((aten.detach.default, aten.alias.default))
"""What does nothing inside a graph that is run without gradients, and would cost a dispatch."""

READS_A_VALUE = (
    "the program reads the value of a tensor that changes from one evaluation to the next, a parameter, "
    "a draw or a mini-batch (data-dependent control flow, .item(), float(), int() or bool() of a tensor)"
)
DYNAMIC = (aten.index.Tensor, aten.masked_select.default)
"""Operations whose result has as many entries as a mask has true ones; the values do not matter."""

BLANK = (
    aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
    aten.new_empty_strided.default,
)  # fmt: skip
"""Operations that give memory with nothing in it yet."""

KEPT_UP_TO = 1024
"""Numbers of a literal of the program, or of what follows from literals, up to which its value is kept."""
SHAPED_ALIKE = frozenset(
    getattr(aten, name).default
    for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
)
"""Operations of whose tensors only the shape counts."""
DRAWN_ALIKE = frozenset((aten.rand_like.default, aten.randn_like.default))
"""Likewise; the result is random."""


@lru_cache(maxsize=4096)
def _composite(func: torch._ops.OpOverload) -> bool:
    """Whether torch defines the operation by others."""
    return func._can_decompose()


@lru_cache(maxsize=4096)
def _shares(func: torch._ops.OpOverload) -> bool:
    """Whether a result may have the memory of an argument."""
    schema = func._schema
    return schema.is_mutable or any(result.alias_info is not None for result in schema.returns)


class DependsOnValues(ValueError):
    """The program does other things where the values of its tensors are others."""


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
        self.from_outside: set[int | None] = set()  # the memory of what came from outside
        self.blank: dict[int | None, Tensor] = {}  # memory that nothing on the tape has filled
        self.written: dict[int | None, Tensor] = {}  # by memory; held for the same reason
        self.count = 0
        self.numbers: dict[int | None, int] = {}  # of memory, as an address may come again
        self.notes: list[list[Any]] = []  # of tensors: the tape, their node, whether constant
        self.writes: dict[int, int] = {}  # how often, constants too, by number of memory

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and the guard against it takes a tenth of the time

    def take(self, name: str, value: Tensor) -> None:
        self.known[id(value)] = value, self.graph.placeholder(name)
        self._describe(self.known[id(value)][1], value)

    def node(self, value: Any) -> Any:
        """The node of a tensor; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        note = getattr(value, "_on_tape", None)
        if note and note[0] is self:
            return note[1]
        if id(value) not in self.known:
            name = f"_outside_{len(self.outside)}"
            self.outside[name] = value
            self.from_outside.add(_memory(value))
            self.known[id(value)] = value, self.graph.get_attr(name)
            self._describe(self.known[id(value)][1], value)
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
        args = self._whole_gradient(func, args)
        tensors = _tensors((args, kwargs))
        self._check_filled(func, tensors)
        constant = all(map(self._is_constant, tensors))
        if torch.Tag.data_dependent_output in func.tags:
            if not constant:
                raise DependsOnValues(READS_A_VALUE)
            return func(*args, **kwargs)
        if torch.Tag.dynamic_output_shape in func.tags and not constant:
            self._check_shape(func, args, tensors)
        if func in IDLE:
            result = func(*args, **kwargs)
            self._note(result, self.node(args[0]), constant)
            return result
        constant = constant and torch.Tag.nondeterministic_seeded not in func.tags
        made = constant and all(map(self._is_made, tensors))
        if func is aten.lift_fresh.default:
            # a copy, so that the graph does not write into its own constant
            func, made = aten.lift_fresh_copy.default, True
        given = map_aggregate(args, self.node), map_aggregate(kwargs, self.node)
        node = called(self.graph, func, *given)
        numbers = [self._number(t) for t in tensors] if self.writes else []
        node.meta["reads"] = tuple(self.writes.get(n, 0) for n in numbers)
        node.meta["made"] = made or func in SHAPED_ALIKE
        if func._schema.is_mutable and not self._stays_constant(func, args, kwargs, constant):
            constant = False
        result = self._result(func, args, kwargs, constant)
        if not _shares(func):  # in new memory, perhaps at the address of what is gone
            for part in _tensors(result):
                self.numbers.pop(_memory(part), None)
        return self._noted(result, node, constant)

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: Any, constant: bool) -> Any:
        """What the operation gives; what only raises is left to where the graph is run."""
        if func is aten._linalg_check_errors.default and not constant:
            return None
        result = func(*args, **kwargs)
        if func in BLANK:
            self.blank[_memory(result)] = result
        return result

    def _whole_gradient(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, the gradient that logsigmoid is given in the shape of its input: torch makes the
        result in that of the gradient, and warns as it resizes it.
        """
        if func is not aten.log_sigmoid_backward.default or args[0].shape == args[1].shape:
            return args
        with self:
            return args[0].expand(args[1].shape), *args[1:]

    def _noted(self, result: Any, node: torch.fx.Node, constant: bool) -> Any:
        """The result of an operation, with its node; whether it is the same at every evaluation."""
        if isinstance(result, Tensor):
            self._mark(result, node, constant)
        elif isinstance(result, (tuple, list)):
            node.meta["parts"] = len(result)
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    piece = called(self.graph, operator.getitem, (node, i))
                    piece.meta["reads"], piece.meta["made"] = (), node.meta["made"]
                    self._mark(part, piece, constant)
        return result

    def _mark(self, result: Tensor, node: torch.fx.Node, constant: bool) -> None:
        node.meta["elements"] = result.numel()
        self._describe(node, result)
        if node.meta["made"] and result.numel() <= KEPT_UP_TO:
            node.meta["value"] = result
        if id(result) in self.known:  # an input written in place: it is this node from now on
            self.known[id(result)] = result, node
        else:
            self._note(result, node, constant)

    def _note(self, result: Tensor, node: torch.fx.Node, constant: bool) -> None:
        note = [self, node, constant]
        self.notes.append(note)
        result._on_tape = note  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Takes the nodes from the tensors: torch and Pyro keep some of them, and would keep the graph."""
        for note in self.notes:
            note.clear()

    # what is the same at every evaluation, so that its values may be read -------------------------

    def _is_constant(self, value: Tensor) -> bool:
        """Whether no input, no random number and nothing that is written in place has a part in it."""
        memory = _memory(value)
        if memory is None or memory in self.written:
            return False
        note = getattr(value, "_on_tape", None)
        if note and note[0] is self:
            return bool(note[2])
        if id(value) in self.known:
            return self.known[id(value)][1].op == "get_attr"
        return True  # from outside

    def _is_made(self, value: Tensor) -> bool:
        """Whether it is a literal of the program, or computed from literals alone."""
        note = getattr(value, "_on_tape", None)
        return bool(note and note[0] is self and note[1].meta.get("made"))

    def _number(self, value: Tensor) -> int:
        """The number of the tensor's memory, which views share."""
        memory = _memory(value)
        if memory not in self.numbers:
            self.count += 1
            self.numbers[memory] = self.count
        return self.numbers[memory]

    def _describe(self, node: torch.fx.Node, value: Tensor) -> None:
        node.meta["dtype"], node.meta["memory"] = value.dtype, self._number(value)
        if value.layout is torch.strided:
            device = value.device.type
            node.meta["layout"] = value.dtype, tuple(value.shape), value.stride(), device

    def _stays_constant(self, func: Any, args: Any, kwargs: Any, constant: bool) -> bool:
        """Whether what the operation writes into is a constant afterwards; what is not is noted.

        A tensor from outside is not: the next evaluation finds it as this one leaves it.
        """
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            given = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in _tensors(given):
                memory, note = _memory(tensor), getattr(tensor, "_on_tape", None)
                number = self._number(tensor)
                self.writes[number] = self.writes.get(number, 0) + 1
                own = note and note[0] is self and memory not in self.from_outside
                if not (constant and own):
                    constant = False
                    self.written[memory] = tensor
        return constant

    def _check_filled(self, func: Any, tensors: list[Tensor]) -> None:
        """DependsOnValues where an operation reads memory that torch has filled past the tape."""
        shape_alone = func in BLANK or func in SHAPED_ALIKE or func in DRAWN_ALIKE
        if not self.blank or func.is_view or shape_alone:
            return
        for memory in map(_memory, tensors):
            if memory in self.blank:
                if not func._schema.is_mutable:
                    raise DependsOnValues(
                        "a function of torch fills memory in a way that no graph sees (pad_packed_sequence, "
                        "for one)"
                    )
                del self.blank[memory]

    def _check_shape(self, func: Any, args: Any, tensors: list[Tensor]) -> None:
        """DependsOnValues where the shape of a result depends on values that are not constant."""
        if func in DYNAMIC:
            tensors = [t for t in _tensors(args[1]) if t.dtype in (torch.bool, torch.uint8)]
        if not all(map(self._is_constant, tensors)):
            raise DependsOnValues(
                "the size of a tensor depends on values that change from one evaluation to the next (a mask "
                "as an index, nonzero, unique)"
            )


def _tensors(arguments: Any) -> list[Tensor]:
    """The tensors among the arguments, nested ones too."""
    found: list[Tensor] = []

    def look(value: Any) -> Any:
        if isinstance(value, Tensor):
            found.append(value)
        return value

    map_aggregate(arguments, look)
    return found


def _memory(value: Tensor) -> int | None:
    """What tells the memory of a tensor, which views share; None of a kind that has none."""
    try:
        return value.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None


def taped(
    function: Callable[..., Any], *example: Tensor, simplify: bool = False
) -> torch.fx.GraphModule:
    """The graph of one run of the function at the example; what nothing reads is left out.

    Its meta has `recorded`, how many operations were written down. `simplify`: what is computed twice is
    computed once (`guidebook.programs.graphs.simplified`), and loops are undone (`batched`).

    Raises:
        DependsOnValues: the function reads a value that depends on its arguments, or is random.
    """
    tape = _Tape()
    for i, value in enumerate(example):
        tape.take(f"x_{i}", value)
    try:
        with tape:
            result = function(*example)
        tape.graph.output(map_aggregate(result, tape.node))
    finally:
        tape.forget()
    for node in tape.graph.nodes:
        _keep_dtype(node)
    outside, recorded = tape.outside, len(tape.graph.nodes)
    if simplify:
        outside = outside | simplified(tape.graph, set(tape.writes))
    # random numbers that nothing reads are not drawn: Pyro guesses the depth of plates by a first run
    tape.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    # parameters that are held have no gradient: nothing but the inputs moves in a run of the graph
    held = {name: value.detach() for name, value in outside.items()}
    graph = tape.graph
    if simplify and (graph := batched(graph, set(tape.writes))) is not tape.graph:
        graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    found = torch.fx.GraphModule(held, graph)
    found.meta["recorded"] = recorded
    return found


def constants(graph: torch.fx.GraphModule) -> list[Tensor]:
    """The tensors from outside that a graph reads, in the order of its operations."""
    names = dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "get_attr")
    return [getattr(graph, name) for name in names]


def _keep_dtype(node: torch.fx.Node) -> None:
    """Constants are made in the dtype they were recorded in, not in torch's default of the moment."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.all_input_nodes:
        return
    takes = any(argument.name == "dtype" for argument in node.target._schema.arguments)
    if takes and node.kwargs.get("dtype") is None and "dtype" in node.meta:
        node.kwargs = {**node.kwargs, "dtype": node.meta["dtype"]}
