"""The recordings of a potential: what is computed at many positions at once, each kept for its batch size.

A few batch sizes serve all numbers of positions: the next power of two, filled up. What cannot be
vectorised is evaluated position by position.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.errors import ModelError, line_of_user
from guidebook.programs.graphs.interpreted import interpreted
from guidebook.programs.graphs.marked import marked
from guidebook.programs.graphs.recorded import (
    CannotRecord,
    eager,
    joined,
    mapped,
    reason,
    record,
    spared,
)
from guidebook.scope import local_parameters, precision

LONG, ROWS_OF_LONG = 2000, 256
"""Operations from which on a recording is long, as that of a loop over time: to record it again for another
number of positions takes longer than hundreds of evaluations, so it is evaluated at so many at a time."""


class Density(Protocol):
    """What a potential is to its recordings."""

    changing: tuple[str, ...]
    vectorised: bool
    chunk: int

    @property
    def dtype(self) -> torch.dtype: ...

    def at(self, data: Mapping[str, Any]) -> Self: ...

    def inputs(self) -> list[Tensor]: ...

    def single(self) -> Callable[..., tuple[Tensor, Tensor]]: ...

    def log_density_at(self, u: Tensor) -> Tensor: ...

    def value_and_grad_at(self, u: Tensor) -> tuple[Tensor, Tensor]: ...

    def everything_at(self, u: Tensor) -> tuple[Tensor, ...]: ...

    def _evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]: ...


Function = Callable[[Any, Tensor], Any]
"""Of a potential and one position (D,)."""


class Recordings:
    """What has been recorded of one potential; those at other data of the same shapes share it.

    Attributes:
        graphs: by key and, of batches, the number of positions.
        long: whether any of them is.
    """

    def __init__(self) -> None:
        self.graphs: dict[Any, Callable[..., Any]] = {}
        self.long = False

    def once(self, key: str, make: Callable[[], Callable[..., Any]]) -> Any:
        """What was made under this key, or is made now."""
        if key not in self.graphs:
            self.graphs[key] = make()
        return self.graphs[key]

    def record(self, potential: Density, function: Function, u: Tensor) -> torch.fx.GraphModule:
        """The graph of function(potential, u), of u and the data that change.

        Raises:
            CannotRecord: the model reads values.
        """

        def run(position: Tensor, *given: Tensor) -> Any:
            names = potential.changing
            here = potential.at(dict(zip(names, given, strict=True))) if given else potential
            return function(here, position)

        with local_parameters(), precision(potential.dtype):
            graph = record(run, u, *potential.inputs())
        self.long = self.long or graph.meta["recorded"] > LONG
        return graph

    def batched(self, potential: Density, key: str, function: Function, u: Tensor) -> Any:
        """function at every position of u (S, D), its results stacked in front."""
        u = u.detach()
        size = potential.chunk if len(u) > potential.chunk else rounded(len(u))
        if self.long and (key, size) not in self.graphs:
            size = min(potential.chunk, ROWS_OF_LONG)
        pieces = []
        for piece in u.split(size):
            short = size - len(piece)
            padded = torch.cat([piece, piece[:1].expand(short, -1)]) if short else piece
            graph = self._graph(potential, key, function, padded)
            result = spared(with_inputs(graph, potential), padded)
            pieces.append(mapped(result, partial(_first, len(piece))))
        return joined(pieces)

    def _graph(
        self, potential: Density, key: str, function: Function, u: Tensor
    ) -> Callable[..., Any]:
        name = key, len(u)
        if name not in self.graphs:

            def vectorised(here: Density, v: Tensor) -> Any:
                return torch.func.vmap(partial(function, here), randomness="different")(v)

            if key == "gradient" and self.long and "single" in self.graphs:
                with contextlib.suppress(CannotRecord):
                    rows = self.record(potential, rows_of_graph, u)
                    self.graphs[name] = interpreted(marked(rows))
                    return self.graphs[name]
            try:
                self.graphs[name] = interpreted(marked(self.record(potential, vectorised, u)))
            except CannotRecord:
                if potential.changing:
                    raise
                potential.vectorised = False
                self.graphs[name] = _one_by_one(potential, function)
        return self.graphs[name]


def with_inputs(graph: Callable[..., Any], potential: Density) -> Callable[[Tensor], Any]:
    """The graph as a function of the position: at the data of this potential, where they change."""
    given = potential.inputs()
    return partial(_at, graph, given) if given else graph


def _at(graph: Callable[..., Any], given: list[Tensor], u: Tensor) -> Any:
    return graph(u, *given)


def rows_of_graph(potential: Density, u: Tensor) -> Any:
    """log p(x, u) and gradient at u (S, D) by the graph of one position, without running the model."""
    return torch.func.vmap(with_inputs(potential.single(), potential))(u)


def _one_by_one(potential: Density, function: Function) -> Callable[..., Any]:
    """A model that cannot be vectorised is evaluated position by position, its gradient by autograd:
    what torch.func cannot transform may be the reason.
    """
    if function is type(potential).value_and_grad_at:
        function = _value_and_grad_by_autograd
    elif function is type(potential).everything_at:
        function = _everything_by_autograd

    def loop(u: Tensor) -> Any:
        with local_parameters(), precision(potential.dtype), eager(), _in_words():
            results = [mapped(function(potential, row), lambda t: t[None]) for row in u]
        return mapped(joined(results), lambda t: t.detach())

    return loop


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What autograd cannot do in the model, as .numpy() of a latent, is said with the line that asks."""
    try:
        yield
    except LinAlgError:  # of a position, and not of the model
        raise
    except RuntimeError as error:
        line = line_of_user(error)
        raise ModelError(
            f"log p(x, z) has no gradient: {reason(error)}{f': {line}' if line else ''}. Write the model in "
            "operations of torch."
        ) from error


def _value_and_grad_by_autograd(potential: Density, u: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        value = potential.log_density_at(at)
        (grad,) = torch.autograd.grad(value, at)
    return value.detach(), grad


def _everything_by_autograd(potential: Density, u: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        log_joint, log_det, values = potential._evaluate(at)
        (grad,) = torch.autograd.grad(log_joint + log_det, at)
    return grad, *(v.detach() for v in (log_joint, log_det, *values.values()))


def hessian_graph(potential: Density, recordings: Recordings, u: Tensor) -> Callable[..., Tensor]:
    """d^2 log p(x, u) / du du' (D, D) as a function of u (D,): recorded where it can be."""
    with contextlib.suppress(CannotRecord):
        if recordings.long:
            return interpreted(recordings.record(potential, _derivative_of_graph, u))
    try:
        return interpreted(recordings.record(potential, second_derivative, u))
    except CannotRecord:  # no second derivative, or values are read
        if potential.changing:
            raise
        return partial(eager_hessian, potential)


def _derivative_of_graph(potential: Density, u: Tensor) -> Tensor:
    """The Hessian as the derivative of the recorded gradient."""
    one = with_inputs(potential.single(), potential)
    hessian: Tensor = torch.func.jacrev(lambda v: one(v)[1])(u)
    return hessian


def second_derivative(potential: Density, u: Tensor) -> Tensor:
    """The Hessian as the derivative of the gradient, by Pyro."""
    hessian: Tensor = torch.func.jacrev(torch.func.grad(potential.log_density_at))(u)
    return hessian


def eager_hessian(potential: Density, u: Tensor) -> Tensor:
    """The Hessian of a model that cannot be recorded."""
    with local_parameters(), precision(potential.dtype), eager():
        return second_derivative(potential, u)


def _first(n: int, value: Tensor) -> Tensor:
    return value[:n]


def rounded(n: int) -> int:
    """A few batch sizes serve all: the next power of two."""
    return 1 << max(0, n - 1).bit_length()
