"""One guide fitted to many data sets of one shape: a step recorded once, all fits its rows.

    for r = 1..R:  maximise ELBO(phi_r; y_r)        in one vectorised step (`Step` with `Own`)

Model and guide are the same for all, so the log density is recorded once too: each fit starts at the
mode of its own data as every fit does, and what differs goes into the graphs as their inputs. The fits
do not know each other: each has its own random numbers, its own Adam, its own end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.inference.fits.running import Steps
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.arrival import converged
from guidebook.inference.gradient.chosen import default_optimiser
from guidebook.inference.gradient.problem import LOOK_EVERY, Problem
from guidebook.inference.gradient.run import adopt, advance
from guidebook.inference.gradient.step import Own, Step
from guidebook.inference.protocols.mode import StartsAtMode
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.programs.owned import Joined, copied
from guidebook.programs.potential import Potential
from guidebook.programs.start.mode import find_start

NUMBERS_AT_ONCE = 2_000_000
"""Fits x particles x numbers of the data, of the fits in one step; more go in several."""


FITTED = 8
"""Fixed-point steps of each start: the gradient steps do the rest, for all fits together."""


class Replica(NamedTuple):
    """One of the fits: its trained guide, and how it ended."""

    guide: Any
    status: Status


def fit_replicas(
    problem: Problem,
    potential: Potential,
    datasets: Sequence[Mapping[str, Tensor]],
    steps: int,
    bar: Steps,
) -> list[Replica]:
    """The guide of the problem fitted to each data set; fewer than those where Ctrl-C ended the work.

    Arguments:
        problem: as `prepare` makes it, with data of the shapes of all; it has no mini-batches.
        potential: of the problem's model; `changing` are the names that a data set holds.
        bar: counts whole fits.

    Raises:
        CannotRecord: the step depends on values of the data, or a factorisation failed on the way.
    """
    size = sum(v.numel() for v in problem.data.values() if isinstance(v, Tensor))
    size = max(1, problem.particles * max(size, potential.dimension))
    at_once = max(1, NUMBERS_AT_ONCE // size)
    found: list[Replica] = []
    fresh = _trained(Joined(problem.model, problem.guide))
    for first in range(0, len(datasets), at_once):
        some = datasets[first : first + at_once]
        own = _starts(problem, potential, some, bar)
        step = Step(
            problem, default_optimiser(problem, steps), steps, len(own.flat), "auto", own=own
        )
        if bar.stopped or not _climbed(step, bar):
            break
        found += [_replica(step, row) for row in range(len(own.flat))]
        adopt(step, fresh)  # the next block begins where this one did
        bar.advance(len(own.flat))
    return found


def _starts(
    problem: Problem, potential: Potential, datasets: Sequence[Mapping[str, Tensor]], bar: Steps
) -> Own:
    """Every fit's parameters and buffers at its start, at the mode where the guide starts there."""
    joined, guide = Joined(problem.model, problem.guide), problem.guide
    rows: list[Tensor] = []
    held: list[dict[str, Tensor]] = []
    for row, data in enumerate(datasets):
        bar.show(started=f"{row}/{len(datasets)}")
        if isinstance(guide, StartsAtMode):
            guide.start_at(*_start(potential.at(data)))
        rows.append(_trained(joined))
        held.append({name: b.detach().clone() for name, b in joined.named_buffers()})
        if bar.stopped:
            break
    buffers = {name: torch.stack([one[name] for one in held]) for name in held[0]}
    varied = {name: torch.stack([d[name] for d in datasets[: len(rows)]]) for name in datasets[0]}
    return Own(torch.stack(rows), varied, buffers)


def _start(potential: Potential) -> tuple[Tensor, Tensor]:
    """Centre and factor of a fit's start; N(0, I) at data so extreme that a factorisation fails."""
    try:
        start = find_start(potential, FITTED)
    except (RuntimeError, np.linalg.LinAlgError):
        like = torch.zeros(potential.dimension, dtype=potential.dtype, device=potential.device)
        return like, torch.eye(len(like)).to(like)
    return start.center, start.factor


def _trained(joined: Joined) -> Tensor:
    """The parameters that a fit moves, (P,)."""
    return torch.cat([p.detach().reshape(-1) for p in joined.parameters() if p.requires_grad])


def _climbed(step: Step, bar: Steps) -> bool:
    """Takes all steps; False where Ctrl-C came before the last."""
    done = 0
    while done < step.steps and not bar.stopped:
        done = advance(step, done, min(step.steps, done + LOOK_EVERY), bar)
        bar.show(steps=f"{done}/{step.steps}")
        if not bool(step.state["alive"].any()):
            raise CannotRecord("a factorisation failed, or no fit has a finite objective")
    return done == step.steps


def _replica(step: Step, row: int) -> Replica:
    """The fit of a row: the guide with its averaged parameters and its buffers."""
    assert step.own is not None
    state = step.state
    adopt(step, 0.5 * (state["first"][row] + state["second"][row]))
    buffers = dict(step.joined.named_buffers())
    with torch.no_grad():
        for name, value in step.own.buffers.items():
            buffers[name].copy_(value[row])
    _, guide = copied(step.problem.model, step.problem.guide)
    if not bool(state["alive"][row]):
        return Replica(guide, Status.STOPPED_BY_NAN)
    drift = {"first": state["first"][row], "second": state["second"][row]}
    calm = converged(step.problem.guide, state["history"][:, row], drift, state["gradient"][row])
    return Replica(guide, Status.CONVERGED if calm else Status.STILL_MOVING)
