"""What pyro.param and pyro.module statements read: tensors of a module, not of Pyro's global store.

Pyro keeps the parameters of all programs in one store by name, where two fits share what has the same
name. Here a model and its guide share (`Shared`) what they name alike, as in Pyro, and nothing
with any other pair, so that a fit is a value and torch.func can substitute its parameters.

A network that a program registers (pyro.module), or a PyroModule that it calls, gets for the time of
the run the parameters and buffers that are kept here, and runs in the mode that `training` says;
the network that the user holds stays as it is.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine import runtime
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from guidebook.errors import GuideError
from guidebook.programs.learnt import as_now
from guidebook.scope import replaced

DIVIDER = "$$$"  # between the name of a network and of its parameter, as Pyro writes it


@dataclass
class Shared:
    """What the statements of a model and those of its guide read, by name.

    Attributes:
        parameters: the unconstrained parameter, and the constraint of the statement that made it.
        buffers: those of networks.
        twins: by the id of a network's own parameter, that parameter and the one that stands for it.
        origins: by a parameter's name, the network that registered it first, and its own parameter.
        networks: those that either program has registered, and whether its module is copied with it.
    """

    parameters: dict[str, tuple[nn.Parameter, constraints.Constraint]] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    twins: dict[int, tuple[Tensor, nn.Parameter]] = field(default_factory=dict)
    origins: dict[str, tuple[weakref.ref[nn.Module], Tensor]] = field(default_factory=dict)
    networks: dict[str, tuple[weakref.ref[nn.Module], bool]] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        parameters, buffers = copy.deepcopy((self.parameters, self.buffers), memo)
        twins = {i: (own, copy.deepcopy(twin, memo)) for i, (own, twin) in self.twins.items()}
        networks = {
            name: (weakref.ref(copy.deepcopy(network, memo) if within else network), within)
            for name, (ref, within) in self.networks.items()
            if (network := ref()) is not None
        }
        return Shared(parameters, buffers, twins, dict(self.origins), networks)

    def check_one_network(self, name: str, network: nn.Module, own: Tensor) -> None:
        """GuideError: another network that is still in use has a parameter of this name.

        One that a function makes anew in every run is gone by the next.
        """
        first, its = self.origins.setdefault(name, (weakref.ref(network), own))
        if first() is None:
            self.origins[name] = weakref.ref(network), own
            return
        _, twin = self.twins.get(id(its), (None, its))
        if not any(own is known for known in (its, twin, self.parameters[name][0])):
            raise GuideError(
                f"Two networks are registered under one name: '{name}' is a parameter of each, and Pyro "
                "trains the first alone. Name them apart: pyro.module(name, ...) or PyroModule(name)."
            )

    def of(self, original: Tensor, name: str) -> nn.Parameter:
        """The parameter that stands for a network's own: the same one under each of its names."""
        if name in self.parameters:
            return self.parameters[name][0]
        if id(original) not in self.twins:
            self.twins[id(original)] = original, nn.Parameter(original.detach().clone())
        return self.twins[id(original)][1]


class Statements(nn.Module):
    """The parameters and buffers that the statements of one program have read so far.

    Attributes:
        shared: what the program has in common with the other one of its pair.
        names: of the parameters, in the order of `unconstrained`; constraints: of each.
        kept: names of the buffers.
        answered: whether a statement was answered, also one that names what a module trains itself.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__()
        self.shared = shared or Shared()
        self.names: list[str] = []
        self.kept: list[str] = []
        self.constraints: dict[str, constraints.Constraint] = {}
        self.unconstrained = nn.ParameterList()
        self.answered = False

    def value(self, name: str) -> Tensor:
        """The constrained value of a parameter; `.unconstrained` of it, as of Pyro's, is the free one."""
        free = self.unconstrained[self.names.index(name)]
        value = transform_to(self.constraints[name])(free)
        if isinstance(value, nn.Parameter):  # which would carry the reference into files and copies
            value = value.view_as(value)
        value.unconstrained = weakref.ref(free)
        return value

    def adopt(self, name: str, value: Tensor, constraint: constraints.Constraint) -> None:
        """Makes a parameter of this value, unless the pair has one of the name already."""
        if name not in self.shared.parameters:
            free = transform_to(constraint).inv(value.detach())
            self.shared.parameters[name] = nn.Parameter(free.clone()), constraint
        free, self.constraints[name] = self.shared.parameters[name]
        self.names.append(name)
        self.unconstrained.append(free)

    def keep(self, name: str, value: Tensor) -> None:
        """Makes a buffer of this value, unless the pair has one of the name already."""
        held = self.shared.buffers.setdefault(name, value.detach().clone())
        self.kept.append(name)
        self.register_buffer(f"kept_{len(self.kept) - 1}", held)

    def buffer(self, name: str) -> Tensor:
        """The buffer of this name."""
        return self.get_buffer(f"kept_{self.kept.index(name)}")

    def hidden(self, name: str) -> bool:
        """Whether a statement about this parameter is inside of a pyro.poutine.block that hides it: Pyro
        trains what it sees, here or elsewhere in the pair, and leaves the rest as it is.
        """
        frames = runtime._PYRO_STACK
        ours = [i for i, f in enumerate(frames) if getattr(f, "statements", None) is self]
        if not ours or name in self.shared.parameters:
            return False
        blocks = [f for f in frames[ours[-1] :] if isinstance(f, BlockMessenger)]
        said = {"type": "param", "name": name, "is_observed": False, "infer": {}, "fn": None}
        return any(block.hide_fn(said) for block in blocks)

    def held(self, name: str, value: Any) -> Tensor:
        """The value of a parameter that is not trained."""
        if name not in self.kept:
            self.keep(name, value)
        return self.buffer(name).detach()  # a tensor of its own: PyroParam writes a reference on it

    def meets(self, owner: Any = None) -> None:
        """Takes the tensors of all networks of the pair: what one program registers, the other reads, too."""
        with self.reading(owner=owner):
            pass

    def joins(self, shared: Shared) -> None:
        """Reads from now on what is shared there, and brings what is not there yet."""
        self.shared = shared
        for place, name in enumerate(self.names):
            own = self.unconstrained[place], self.constraints[name]
            found, self.constraints[name] = shared.parameters.setdefault(name, own)
            self.unconstrained[place] = found
        for place, name in enumerate(self.kept):
            self.register_buffer(
                f"kept_{place}", shared.buffers.setdefault(name, self.buffer(name))
            )

    def values(self) -> dict[str, Tensor]:
        """Constrained values and buffers by name; `restore` reads them."""
        found = {name: self.buffer(name) for name in self.kept}
        return found | {name: self.value(name).detach() for name in self.names}

    def restore(
        self, values: Mapping[str, Tensor], constrained: Mapping[str, constraints.Constraint]
    ) -> None:
        """Takes saved values: parameters where there is a constraint, buffers where there is none."""
        for name, value in values.items():
            if name in constrained:
                self.adopt(name, value, constrained[name])
            else:
                self.keep(name, value)

    @contextlib.contextmanager
    def reading(self, own: nn.Module | None = None, owner: Any = None) -> Iterator[None]:
        """Statements inside the block read what is here; `own` is a module that trains its parameters
        itself, whose statements about them are its own affair; `owner` that of which the program is a method.
        """
        inside = {id(m) for m in own.modules()} if own is not None else set[int]()
        copied = {id(m) for m in owner.modules()} if isinstance(owner, nn.Module) else set[int]()
        lent: dict[str, nn.Module] = {}
        usual = PyroModule.__call__
        with contextlib.ExitStack() as stack:

            def module(name: str, network: nn.Module, update_module_params: bool = False) -> Any:
                self.answered = True
                if id(network) not in inside:
                    self.shared.networks[name] = weakref.ref(network), id(network) in copied
                    lend(name, network)
                return network

            def lend(name: str, network: nn.Module, own: bool = True) -> None:
                if lent.get(name) is not network:
                    lent[name] = network
                    stack.enter_context(
                        self._lent(network, lambda key: f"{name}{DIVIDER}{key}", own)
                    )

            def call(network: PyroModule, *args: Any, **kwargs: Any) -> Any:
                if id(network) in inside or network._pyro_context.active:
                    return usual(network, *args, **kwargs)
                with self.lends(network):
                    return usual(network, *args, **kwargs)

            for name, (ref, _) in list(self.shared.networks.items()):
                if (network := ref()) is not None and id(network) not in inside:
                    lend(name, network, own=False)
            reads = stack.enter_context(_Reads(self, own))
            with replaced(
                (pyro, "module", module), (PyroModule, "__call__", call),
                (BlockMessenger, "_process_message", reads.behind(BlockMessenger._process_message)),
            ):  # fmt: skip
                yield

    @contextlib.contextmanager
    def lends(self, network: PyroModule) -> Iterator[None]:
        """Inside the block a PyroModule that does not belong to this one has the tensors kept here."""
        make_local(network)
        name = network._pyro_name or type(network).__name__
        with self._lent(network, lambda key: f"{name}.{key}"):
            yield

    @contextlib.contextmanager
    def _lent(
        self, network: nn.Module, named: Callable[[str], str], own: bool = True
    ) -> Iterator[None]:
        """The network with the tensors of this module and in its mode inside the block."""
        swapped: list[tuple[dict[str, Any], str, Any]] = []
        first: dict[int, str] = {}  # of a parameter at several places

        def put(kind: str, key: str, value: Tensor) -> None:
            path, _, leaf = key.rpartition(".")
            place = getattr(network.get_submodule(path), kind)
            swapped.append((place, leaf, place[leaf]))
            place[leaf] = value

        for key, parameter in list(network.named_parameters(remove_duplicate=False)):
            full = named(first.setdefault(id(parameter), key))
            if full not in self.names:
                if not parameter.requires_grad:
                    continue
                if self.hidden(full):
                    put("_parameters", key, self.held(full, parameter))
                    continue
                self.shared.parameters.setdefault(
                    full, (self.shared.of(parameter, full), constraints.real)
                )
                self.adopt(full, parameter, constraints.real)
            if own:
                self.shared.check_one_network(full, network, parameter)
            put("_parameters", key, self.unconstrained[self.names.index(full)])
        lent = [(key, named(key)) for key, _ in network.named_buffers()]
        for key, full in lent:
            if full not in self.kept:
                self.keep(full, network.get_buffer(key))
            put("_buffers", key, self.buffer(full))
        try:
            with evaluated(network) if not self.training else contextlib.nullcontext():
                yield
            for key, full in lent:
                self._take_back(full, network.get_buffer(key))
        finally:
            for place, leaf, value in reversed(swapped):
                place[leaf] = value

    def _take_back(self, name: str, value: Tensor) -> None:
        """A buffer that the run put in the place of the one it was lent."""
        ours = self.buffer(name)
        if value is ours:
            return
        if torch._C._get_tracing_state():
            raise RuntimeError(f"the run replaces the buffer '{name}' of a network")
        with torch.no_grad():
            ours.copy_(value)


class _Reads(Messenger):
    """Answers pyro.param statements with the values of `Statements`."""

    def __init__(self, statements: Statements, own: nn.Module | None) -> None:
        super().__init__()
        self.statements, self.own = statements, own

    def _is_of_a_module(self, msg: Any, initial: Any) -> bool:
        """Whether a module that trains its parameters itself only tells Pyro of them."""
        store = pyro.get_param_store()
        if msg["fn"] != store.get_param:  # said to handlers; the answer is not asked for
            return True
        told = initial if isinstance(initial, nn.Parameter) else store._params.get(msg["name"])
        parts = [part for part in (self.statements, self.own) if part is not None]
        return told is not None and any(told is p for part in parts for p in part.parameters())

    def _names_its_own(self, initial: Any) -> bool:
        """Whether a plain module gives one of its own parameters: pyro.param("w", self.w)."""
        if self.own is None or isinstance(self.own, PyroModule) or not isinstance(initial, Tensor):
            return False
        return any(initial is p for p in self.own.parameters())

    def behind(self, usual: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """A pyro.poutine.block as it is, whose hidden statements read what the pair has of the name, or else
        a value that is not trained.
        """

        def process(block: Any, msg: Any) -> None:
            usual(block, msg)
            initial = _initial(msg) if msg["type"] == "param" else None
            hides = msg["type"] == "param" and msg["stop"] and not msg["done"]
            if not hides or self._is_of_a_module(msg, initial):
                return
            name, statements = msg["name"], self.statements
            if name in statements.names or name in statements.shared.parameters:
                self._pyro_param(msg)
            elif name in statements.kept or initial is not None:
                made = initial() if callable(initial) and name not in statements.kept else initial
                msg["value"], msg["done"] = statements.held(name, made), True

        return process

    def _pyro_sample(self, msg: Any) -> None:
        msg["fn"] = as_now(msg["fn"])

    def _pyro_param(self, msg: Any) -> None:
        name, statements = msg["name"], self.statements
        initial = _initial(msg)
        if self._names_its_own(initial):
            statements.answered = True
            if msg["kwargs"].get("constraint", constraints.real) is constraints.real:
                msg["value"] = initial  # the module's own, or what a step puts in its place
                msg["done"] = True
                msg["stop"] = True
                return
        elif self._is_of_a_module(msg, initial):
            return
        if name not in statements.names and DIVIDER in name:
            raise GuideError(
                f"The network of '{name}' is registered by a copy of pyro.module: write pyro.module(...) "
                "and not `from pyro import module`, so that its parameters can be fitted."
            )
        if name not in statements.names:
            if initial is None and name not in statements.shared.parameters:
                raise KeyError(
                    f"pyro.param('{name}') is read before it has an initial value: give one as the "
                    "second argument."
                )
            if name not in statements.shared.parameters:
                initial = initial() if callable(initial) else initial
            statements.adopt(name, initial, msg["kwargs"].get("constraint", constraints.real))
        msg["value"] = statements.value(name)
        msg["done"] = True
        msg["stop"] = True


def _initial(msg: Any) -> Any:
    """The initial value of a pyro.param statement, or None."""
    return msg["args"][1] if len(msg["args"]) > 1 else msg["kwargs"].get("init_tensor")


@contextlib.contextmanager
def evaluated(*parts: Any) -> Iterator[None]:
    """Modules in evaluation mode inside the block: no dropout, no running averages moved."""
    modules = [m for part in parts if isinstance(part, nn.Module) for m in part.modules()]
    before = [m.training for m in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def make_local(part: Any) -> None:
    """Gives a PyroModule made in Pyro's default mode what `module_local_params` needs of it."""
    owner = part if isinstance(part, nn.Module) else getattr(part, "__self__", None)
    if not isinstance(owner, nn.Module):
        return
    for module in owner.modules():
        context = getattr(module, "_pyro_context", None)
        if context is not None and not hasattr(context, "param_state"):
            context.param_state = {"params": {}, "constraints": {}}
