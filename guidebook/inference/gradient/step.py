"""The captured step: model, guide, ELBO, backward pass, Adam and averaging as one graph.

    g_t   = grad of the objective at phi_t, averaged over particles
    m_t   = b1 m + (1 - b1) g,   v_t = b2 v + (1 - b2) g^2
    phi  -= rate_t * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

All parameters are one flat vector; restarts are its rows, (R, P). Everything a step needs (its
number, the rates, the history) lies in tensors that the graph updates in place, so a step is one
call without arguments of its own. Averages of the last fifth are kept outside the graph, which would
read and write them at every step. After the first value that is not finite nothing moves any more:
the parameters that produced it are still there to be looked at.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.errors import SettingError
from guidebook.guides.autoguides.whitened import Whitened
from guidebook.inference.fits.running import progress_bar, stoppable
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient import checkpoint as checkpoints
from guidebook.inference.gradient.activity import watch
from guidebook.inference.gradient.adam import Optimiser, schedule_table
from guidebook.inference.gradient.arrival import cause_of_nan, converged, restarts_rhat
from guidebook.inference.gradient.problem import Outcome
from guidebook.inference.gradient.run import CHUNK, RHAT_LIMIT, SECONDS_BETWEEN_CHECKPOINTS
from guidebook.inference.objectives.objective import differentiable
from guidebook.programs.graph import CannotRecord, compile_graph, record, worth_compiling
from guidebook.programs.owned import Joined

AVERAGED = 0.2


AVERAGES = ("first", "second", "gradient")


class Step:
    """The recorded step of a problem, with its state."""

    def __init__(
        self, problem: Any, optimiser: Optimiser, steps: int, restarts: int, compile: bool | str
    ) -> None:  # fmt: skip
        self.problem, self.optimiser, self.steps, self.restarts = (
            problem,
            optimiser,
            steps,
            restarts,
        )
        if not hasattr(problem.objective, "differentiable_loss"):
            raise CannotRecord(f"{type(problem.objective).__name__} has no differentiable_loss")
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
        self.table = schedule_table(problem.objective, steps)
        self.tensor_names = [k for k, v in problem.data.items() if isinstance(v, Tensor)]
        self.state = self._fresh_state(torch.cat([p.detach().reshape(-1) for _, p in trained]))
        self.moving = [name for name in self.state if name not in AVERAGES]
        example = [*self._moving(), *self._tensors(problem.data)]
        graph = record(self._body, *[t.clone() for t in example])  # recording runs the body once
        self.recipe = checkpoints.checksum(graph.code)
        self.compiled = compile is True or (
            compile == "auto" and worth_compiling(graph, steps, problem.device)
        )
        spare = [t.clone() for t in example] if self.compiled else []
        self._call = compile_graph(graph, spare) if self.compiled else graph

    # the graph ----------------------------------------------------------------------------------

    def _fresh_state(self, flat: Tensor) -> dict[str, Tensor]:
        rows = flat.expand(self.restarts, -1).clone()
        if self.restarts > 1:
            rows += self._scatter() * torch.randn_like(rows)
        number = torch.arange(1, self.steps + 1, dtype=torch.float64)
        o = self.optimiser
        scheduled = {"schedules": self.table.to(flat)} if self.scheduled else {}
        return {
            **scheduled,
            "flat": rows,
            "m": torch.zeros_like(rows),
            "v": torch.zeros_like(rows),
            "first": torch.zeros_like(rows),
            "second": torch.zeros_like(rows),
            "gradient": torch.zeros_like(rows),
            "step": torch.zeros(1, dtype=torch.long, device=flat.device),
            "lived": torch.zeros(self.restarts, dtype=torch.long, device=flat.device),
            "alive": torch.ones(self.restarts, dtype=torch.bool, device=flat.device),
            "history": flat.new_full((self.steps, self.restarts), math.nan),
            # Adam's corrections of its start, by step: exact, and no powers in the graph
            "rates": (o.rates.double().cpu() / (1 - o.b1**number)).to(flat),
            "shrink": (1 - o.b2**number).rsqrt().to(flat),
        }

    def _moving(self) -> list[Tensor]:
        """The state that the graph reads and writes."""
        return [self.state[name] for name in self.moving]

    def _scatter(self) -> Tensor:
        """How far restarts start apart: a posterior standard deviation, or a tenth of a weight."""
        whitened = isinstance(self.problem.guide, Whitened)
        pieces = []
        for name, parameter in self.joined.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.endswith(".loc"):
                spread = 1.0 if whitened else 0.5
            else:
                varied = parameter.numel() > 1 and not whitened
                spread = 0.1 * float(parameter.detach().std()) if varied else 0.1
            pieces.append(torch.full((parameter.numel(),), spread or 0.1))
        return torch.cat(pieces).to(next(self.joined.parameters()))

    def _average(self, step: int, grad: Tensor) -> None:
        """Running means over each half of the last fifth of the steps."""
        start = self.steps - max(2, int(AVERAGED * self.steps))
        if step < start:
            return
        middle = (start + self.steps) // 2
        if step < middle:
            self.state["first"].lerp_(self.state["flat"], 1 / (step - start + 1))
        else:
            weight = 1 / (step - middle + 1)
            self.state["second"].lerp_(self.state["flat"], weight)
            self.state["gradient"].lerp_(grad, weight)

    def _unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = flat.split(self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}

    def _tensors(self, data: dict[str, Any]) -> list[Tensor]:
        return [data[name] for name in self.tensor_names]

    def _loss(self, flat: Tensor, data: dict[str, Any], objective: Any) -> Tensor:
        parameters = self._unflatten(flat)
        objective = differentiable(objective)

        def one(_: Tensor | None = None) -> Tensor:
            return torch.func.functional_call(self.joined, parameters, (objective, data))

        if self.problem.particles == 1:
            return one()
        number = flat.new_zeros(self.problem.particles)
        return torch.func.vmap(one, randomness="different")(number).mean()

    def _body(self, *inputs: Tensor) -> Tensor:
        """One step in place; returns the gradient, zero for a restart that has stopped."""
        state = dict(zip(self.moving, inputs, strict=False))
        tensors = inputs[len(self.moving) :]
        data = {**self.problem.data, **dict(zip(self.tensor_names, tensors, strict=True))}
        flat, m, v, o = state["flat"], state["m"], state["v"], self.optimiser
        objective = self.problem.objective
        if self.scheduled:
            values = state["schedules"].index_select(0, state["step"])[0]
            objective = objective.at(**dict(zip(self.scheduled, values.unbind(), strict=True)))
        loss_and_grad = torch.func.grad_and_value(lambda f: self._loss(f, data, objective))
        if self.restarts == 1:
            grad, loss = loss_and_grad(flat[0])
            grad, loss = grad[None], loss.reshape(1)
        else:
            grad, loss = torch.func.vmap(loss_and_grad, randomness="different")(flat)
        fine = state["alive"] & loss.isfinite() & grad.isfinite().all(-1)
        grad = torch.where(fine[:, None], grad, 0.0)
        place = state["step"]
        m.mul_(o.b1).add_(grad, alpha=1 - o.b1)
        v.mul_(o.b2).addcmul_(grad, grad, value=1 - o.b2)
        rate = state["rates"].index_select(0, place)
        shrink = state["shrink"].index_select(0, place)
        move = rate * m / (v.sqrt() * shrink + o.eps)
        flat.sub_(torch.where(fine[:, None], move, 0.0))
        state["history"].index_copy_(0, place, loss.detach()[None].to(state["history"].dtype))
        state["alive"].logical_and_(fine)
        state["lived"].add_(fine)
        place.add_(1)
        return grad

    # the loop -----------------------------------------------------------------------------------

    def run(self, progress: bool, path: Path | None) -> Outcome:
        """All steps (or those still missing from the checkpoint), then the averaged result."""
        torch.manual_seed(self.problem.seed)  # so that the steps draw what eager steps would
        done = checkpoints.restore(path, self._signature(), self.state, self.joined) if path else 0
        written, interrupted = time.monotonic(), False
        look = watch(self.problem.model, self._placed, self.problem.batch) if progress else None
        with progress_bar(progress, self.steps, done) as bar, stoppable() as stop:
            while done < self.steps and not interrupted and bool(self.state["alive"].any()):
                upto = min(self.steps, done + CHUNK)
                done = self._advance(done, upto, stop)
                interrupted = stop.is_set()
                due = time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS
                if path and (due or interrupted or done == self.steps):
                    checkpoints.write(path, self._signature(), self.state, self.joined)
                    written = time.monotonic()
                objective = float(self.state["history"][max(0, done - 1)].nanmean())
                bar(done, objective, look() if look else "")
        return self._outcome(done, interrupted)

    def _advance(self, done: int, upto: int, stop: threading.Event) -> int:
        state, call = self._moving(), self._call
        fixed = self._tensors(self.problem.data)
        with torch.no_grad():
            while done < upto and not stop.is_set():
                rows = self.problem.rows
                try:
                    grad = call(*state, *(self._tensors(rows.batch(done)) if rows else fixed))
                except LinAlgError:  # as a density that is not a number
                    self.state["alive"].fill_(False)
                    return done
                self._average(done, grad)
                done += 1
        return done

    def _signature(self) -> dict[str, Any]:
        p = self.problem
        scheduled = {}
        if self.scheduled:
            scheduled["schedules"] = checkpoints.checksum(str(self.table.tolist()))
        return {
            **scheduled,
            "names": self.names,
            "shapes": [list(s) for s in self.shapes],
            "steps": self.steps,
            "restarts": self.restarts,
            "seed": p.seed,
            "batch_size": p.rows.batch_size if p.rows else None,
            "particles": p.particles,
            "data": checkpoints.fingerprint(p.data),
            "objective": type(p.objective).__name__,
            "model": self.recipe,  # the recorded operations of model, guide, objective and Adam
            "optim": checkpoints.checksum(str(self.optimiser.rates.tolist())),
        }

    def _outcome(self, done: int, interrupted: bool) -> Outcome:
        state = self.state
        history = state["history"][:done]
        notes: dict[str, Any] = {"compiled": self.compiled, "path": "captured"}
        finished = done == self.steps and bool(state["alive"].any())
        averaged = self.optimiser.averaged and finished
        result = 0.5 * (state["first"] + state["second"]) if averaged else state["flat"]
        tail = history[-max(1, int(AVERAGED * self.steps)) :]
        scores = torch.where(state["alive"], tail.mean(0), torch.inf)
        best = int(scores.argmin())
        self._write_back(result[best])
        if not bool(state["alive"].any()):
            best = int(state["lived"].argmax())
            self._write_back(result[best])
            last = int(state["lived"][best])  # the step that was not finite
            history = history[: last + 1]
            objective = float(history[last, best]) if last < len(history) else math.nan
            notes["nan"] = cause_of_nan(self.problem, last, objective)
            status = Status.STOPPED_BY_NAN
        elif interrupted:
            status = Status.INTERRUPTED
        else:
            status = self._converged(best, history[:, best])
        if self.restarts > 1 and finished:
            rhat = restarts_rhat(self.problem, result[state["alive"]], self._place)
            notes |= {"restarts": self.restarts, "restarts_rhat": rhat}
            notes["restarts_objective"] = [float(s) for s in scores]
            if rhat > RHAT_LIMIT and status is Status.CONVERGED:
                status = Status.RESTARTS_DISAGREE
        if self.restarts > 1:
            self._write_back(result[best])
        values = history[:, best].cpu().double().numpy()
        return Outcome(self.problem.model, self.problem.guide, values, status, notes)

    def _converged(self, best: int, history: Tensor) -> Status:
        state = self.state
        drift = {"first": state["first"][best], "second": state["second"][best]}
        gradient = state["gradient"][best]
        calm = converged(self.problem.guide, self.names, self.sizes, history, drift, gradient)
        return Status.CONVERGED if calm else Status.STILL_MOVING

    def _placed(self) -> Any:
        """The guide with the parameters of now; the graph reads its own."""
        return self._place(self.state["flat"][0])

    def _place(self, flat: Tensor) -> Any:
        """The guide with these parameters in it."""
        self._write_back(flat)
        return self.problem.guide

    def _write_back(self, flat: Tensor) -> None:
        values = self._unflatten(flat)
        with torch.no_grad():
            for name, parameter in self.joined.named_parameters():
                if name in values:
                    parameter.copy_(values[name])
