"""The captured step: model, guide, ELBO, backward pass and optimiser as one graph.

    g_t   = grad of the objective at phi_t, averaged over particles
    phi  -= move of the optimiser's rule (`guidebook.inference.optimisers`)

All parameters are one flat vector; restarts are its rows, (R, P). Rows may also be fits to data sets of
their own (`Own`). Everything a step needs (its
number, the rates, the history) lies in tensors that the graph updates in place, so a step is one
call without arguments of its own. Averages of the last fifth are kept outside the graph, which would
read and write them at every step. After the first value that is not finite nothing moves any more:
the parameters that produced it are still there to be looked at.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.inference.gradient.course import Course
from guidebook.inference.gradient.problem import LOOK_EVERY, Problem
from guidebook.inference.objectives.given import differentiable
from guidebook.inference.objectives.schedules import schedule_table
from guidebook.inference.optimisers.optimiser import Optimiser
from guidebook.inference.protocols.mode import defaults_of
from guidebook.programs.graphs.compiled import compile_graph, worth_compiling, worth_looping
from guidebook.programs.graphs.interpreted import interpreted
from guidebook.programs.graphs.recorded import CannotRecord, check_repeats, record
from guidebook.programs.native.algebra import CannotLower
from guidebook.programs.native.library import CannotCompile
from guidebook.programs.native.loop import NativeLoop
from guidebook.programs.owned import Joined
from guidebook.scope import subsampling

ASIDE = ("first", "second", "gradient", "place", "looks", "kept")
"""The state that the graph does not touch: averages, the plan of the steps, looks at rows held out."""


class Own(NamedTuple):
    """What each of R fits in one step has of its own: its start (R, P), and, by name with R in front,
    tensors of its data and buffers of model and guide.
    """

    flat: Tensor
    data: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def _recordable(problem: Problem) -> None:
    """CannotRecord: the objective has no differentiable loss, or batches hold what no graph takes."""
    differentiable(problem.objective)
    if problem.moving_inside:
        raise CannotRecord(
            f"batches hold words, or tensors inside of something, in {problem.moving_inside}: give "
            "tensors of one shape, each as an argument"
        )


class Step:
    """The recorded step of a problem, with its state: parameters, moments, history, averages.

    `own`: of fits to several data sets, one a row; `restarts` is their number.

    Raises:
        CannotRecord: the objective has no differentiable loss, the program branches on values, or draws
            random numbers that are not torch's.
        SettingError: neither model nor guide has a parameter.
    """

    def __init__(
        self,
        problem: Problem,
        optimiser: Optimiser,
        steps: int,
        restarts: int,
        compile: bool | str,
        auto: bool = False,
        own: Own | None = None,
    ) -> None:
        """`steps` are those planned; with `auto` the plan may grow (`Course`)."""
        self.problem, self.optimiser, self.own = problem, optimiser, own
        self.steps, self.restarts = steps, restarts
        _recordable(problem)
        self.joined = Joined(problem.model, problem.guide)
        trained = [(n, p) for n, p in self.joined.named_parameters() if p.requires_grad]
        if not trained:
            raise SettingError(
                "Neither guide nor model has a parameter to fit. Give the guide pyro.param "
                "statements or modules, or use gb.exact for a guide that is known."
            )
        self.names = [n for n, _ in trained]
        self.shapes = [p.shape for _, p in trained]
        self.sizes = [p.numel() for _, p in trained]
        self.scheduled = list(getattr(problem.objective, "schedules", {}))
        table = schedule_table(problem.objective, steps)
        rates = (
            optimiser.rates if optimiser.averaged else torch.ones(steps)
        )  # any others are its own
        self.course = Course(rates, table, optimiser.averaged, auto)
        moves = problem.rows is not None or own is not None  # all rows are constants of the graph
        self.tensor_names = [k for k, v in problem.data.items() if moves and isinstance(v, Tensor)]
        flat = torch.cat([p.detach().reshape(-1) for _, p in trained]) if own is None else own.flat
        self.start, self.state = flat, self._fresh_state(flat)
        self.moving = [name for name in self.state if name not in ASIDE]
        example = [*self.inputs(), *self.tensors(problem.data)]
        with subsampling(problem.subsampled):
            self.graph = record(self._body, *[t.clone() for t in example])  # runs the body once
            check_repeats(self._first_loss)
        self._asked, self._tried, self.compiled = compile, False, False
        self.native: NativeLoop | None = None
        self.call: Callable[..., Tensor] | None = None
        self.compile_where_it_pays(steps)

    def compile_where_it_pays(self, steps: int) -> None:
        """Makes the loop in C where it pays for so many steps, or else compiles the graph where that does."""
        always, device = self._asked in (True, "native"), self.problem.device
        auto = self._asked == "auto"
        if not self._tried and (always or (auto and worth_looping(self.graph, steps, device))):
            self._tried = True
            self.native = self._native_loop()
            self.compiled = self.native is not None
        if not self.compiled and (always or (auto and worth_compiling(self.graph, steps, device))):
            self.compiled = True
            example = [*self.inputs(), *self.tensors(self.problem.data)]
            self.call = compile_graph(self.graph, [t.clone() for t in example])
        if self.native is None and self.call is None:
            self.call = interpreted(self.graph)

    def _native_loop(self) -> NativeLoop | None:
        """The loop of this step; None where none does what the step does, with a warning that says why where
        it was asked for.
        """
        data = self.tensors(self.problem.data)
        try:
            return NativeLoop(self.graph, self.state, self.moving, data, self.course.budget)
        except (CannotLower, CannotCompile) as error:
            if self._asked == "native":
                warnings.warn(
                    "compile='native' has no effect: no loop in C does what this step does "
                    f"({error}). The step runs compiled, called from Python.",
                    stacklevel=2,
                )
            return None

    def agrees(self) -> bool:
        """Whether the loop in C, if it was one, computes around the last parameters what the step does."""
        return self.native is None or self.native.agrees(self.tensors(self.problem.data))

    @property
    def at_once(self) -> int:
        """Steps between two looks at the clock, at Ctrl-C and at the bar."""
        return LOOK_EVERY if self.native is None else self.native.at_once

    def _fresh_state(self, flat: Tensor) -> dict[str, Tensor]:
        rows = flat.expand(self.restarts, -1).clone()
        if self.restarts > 1 and self.own is None:
            rows += self._scatter() * torch.randn_like(rows)
        kept = {name: torch.zeros_like(rows) for name in self.optimiser.keeps()}
        tables = self._tables()
        self.tables = list(tables)
        scheduled = {"schedules": self.course.table().to(flat)} if self.scheduled else {}
        held = self.problem.held
        if held is not None:
            held.begin(flat)
        apart = {} if held is None else {"looks": held.looks, "kept": held.kept}
        return {
            **scheduled,
            **apart,
            "place": self.course.place,
            "flat": rows,
            **kept,
            "first": torch.zeros_like(rows),
            "second": torch.zeros_like(rows),
            "gradient": torch.zeros_like(rows),
            "step": torch.zeros(1, dtype=torch.long, device=flat.device),
            "lived": torch.zeros(self.restarts, dtype=torch.long, device=flat.device),
            "alive": torch.ones(self.restarts, dtype=torch.bool, device=flat.device),
            "history": flat.new_full((self.course.budget, self.restarts), math.nan),
            **{name: table.to(flat) for name, table in tables.items()},
        }

    def _tables(self) -> dict[str, Tensor]:
        """The optimiser's numbers at every step of the budget, at the rates of the course where they fall."""
        o = self.optimiser
        return o.tables(self.course.rates().double().cpu() if o.averaged else o.rates)

    def follow(self) -> None:
        """Takes the rates of the course as it is planned now."""
        for name, table in self._tables().items():
            self.state[name].copy_(table)
        self.compile_where_it_pays(self.course.grew)  # as many steps as were taken may follow

    def inputs(self) -> list[Tensor]:
        """The state that the graph reads and writes."""
        return [self.state[name] for name in self.moving]

    def _scatter(self) -> Tensor:
        """How far restarts start apart, (P,): by what the guide says, `Defaults.scatter`."""
        defaults = defaults_of(self.problem.guide)
        pieces = []
        for name, parameter in self.joined.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.endswith(".loc"):
                spread = defaults.loc_scatter
            elif defaults.scatter is not None:
                spread = defaults.scatter
            else:
                varied = parameter.numel() > 1
                spread = 0.1 * float(parameter.detach().std()) if varied else 0.1
            pieces.append(torch.full((parameter.numel(),), spread or 0.1))
        return torch.cat(pieces).to(next(self.joined.parameters()))

    def tensors(self, data: dict[str, Any]) -> list[Tensor]:
        """The tensors of a batch in the order that the graph takes them, after its state."""
        if self.own is not None:
            data = {**data, **self.own.data}
            return [*(data[name] for name in self.tensor_names), *self.own.buffers.values()]
        return [data[name] for name in self.tensor_names]

    def _loss(
        self, flat: Tensor, data: dict[str, Any], objective: Any, buffers: Mapping[str, Tensor]
    ) -> Tensor:
        parameters = {**self.parameters_at(flat), **buffers}
        objective = differentiable(objective)

        def one(_: Tensor | None = None) -> Tensor:
            return torch.func.functional_call(self.joined, parameters, (objective, data))

        if self.problem.particles == 1:
            return one()
        number = flat.new_zeros(self.problem.particles)
        return torch.func.vmap(one, randomness="different")(number).mean()

    def _objective(self, state: Mapping[str, Tensor]) -> Any:
        """The objective, where it has schedules at their values of the step."""
        if not self.scheduled:
            return self.problem.objective
        values = state["schedules"].index_select(0, state["step"])[0]
        return self.problem.objective.at(**dict(zip(self.scheduled, values.unbind(), strict=True)))

    def _first_loss(self) -> Tensor:
        """The objective of the first row, before the first step."""
        flat = self.state["flat"][0].detach().requires_grad_()
        with torch.enable_grad():
            return self._loss(flat, self.problem.data, self._objective(self.state), {})

    def _body(self, *inputs: Tensor) -> Tensor:
        """One step in place; returns the gradient."""
        state = dict(zip(self.moving, inputs, strict=False))
        tensors = inputs[len(self.moving) :]
        data = {**self.problem.data, **dict(zip(self.tensor_names, tensors, strict=False))}
        flat, objective = state["flat"], self._objective(state)
        loss_and_grad = torch.func.grad_and_value(lambda f: self._loss(f, data, objective, {}))
        if self.own is not None:
            grad, loss = self._each(flat, data, tensors[len(self.tensor_names) :], objective)
        elif self.restarts == 1:
            grad, loss = loss_and_grad(flat[0])
            grad, loss = grad[None], loss.reshape(1)
        else:
            grad, loss = torch.func.vmap(loss_and_grad, randomness="different")(flat)
        finite = (grad * 0.0).sum(-1) == 0.0  # one pass of vectors, which a conjunction is not
        fine = state["alive"] & loss.isfinite() & finite
        used = torch.where(fine[:, None], grad, 0.0)
        place = state["step"]
        tables = {name: state[name] for name in self.tables}
        move = self.optimiser.move(flat, used, state, tables, place)
        flat.sub_(torch.where(fine[:, None], move, 0.0))
        state["history"].index_copy_(0, place, loss.detach()[None].to(state["history"].dtype))
        state["alive"].logical_and_(fine)
        state["lived"].add_(fine)
        place.add_(1)
        return grad

    def _each(
        self, flat: Tensor, data: dict[str, Any], buffers: tuple[Tensor, ...], objective: Any
    ) -> tuple[Tensor, Tensor]:
        """Gradient (R, P) and loss (R,) of every row at data and buffers of its own."""
        assert self.own is not None
        its_data = {name: data[name] for name in self.own.data}
        its_buffers = dict(zip(self.own.buffers, buffers, strict=True))

        def one(f: Tensor, some: dict[str, Tensor], held: dict[str, Tensor]) -> Any:
            loss = torch.func.grad_and_value(
                lambda g: self._loss(g, {**data, **some}, objective, held)
            )
            return loss(f)

        found: tuple[Tensor, Tensor] = torch.func.vmap(one, randomness="different")(
            flat, its_data, its_buffers
        )
        return found

    def average(self, step: int, grad: Tensor, halves: tuple[int, int]) -> None:
        """Running means over each half of the last steps of a phase, which begin at `halves`."""
        start, middle = halves
        if step < start:
            return
        if step < middle:
            self.state["first"].lerp_(self.state["flat"], 1 / (step - start + 1))
        else:
            weight = 1 / (step - middle + 1)
            self.state["second"].lerp_(self.state["flat"], weight)
            self.state["gradient"].lerp_(grad, weight)

    def parameters_at(self, flat: Tensor) -> dict[str, Tensor]:
        """The flat vector (P,) as parameters of model and guide, name to tensor."""
        pieces = flat.split(self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}
