"""NEEDS A DOCSTRING: guidebook.inference.gradient.problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from guidebook.errors import SettingError
from guidebook.guides.autoguides.flow import Flow
from guidebook.guides.autoguides.whitened import Whitened
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.adam import Optimiser, schedule
from guidebook.programs.check import check_pair
from guidebook.programs.data import as_tensors, takes
from guidebook.programs.mode import find_start
from guidebook.programs.owned import Joined
from guidebook.programs.potential import Potential, enumeration_depth
from guidebook.programs.rows import Rows
from guidebook.programs.sites import Site, latent_sites


@dataclass
class Outcome:
    """What a path hands back: trained copies, objective per step, status and notes."""

    model: Any
    guide: Any
    history: np.ndarray
    status: Status
    notes: dict[str, Any] = field(default_factory=dict)


PARTICLES = 16


START_ROWS = 10_000


@dataclass
class Problem:
    """What both paths work on: copies of model and guide, tensors, and where batches come from."""

    model: Any
    guide: Any
    data: dict[str, Any]
    rows: Rows | None
    objective: Any
    particles: int
    device: torch.device
    dtype: torch.dtype
    seed: int

    def batch(self, step: int) -> dict[str, Any]:
        return self.rows.batch(step) if self.rows else self.data


def _prepare(
    model: Any, guide: Any, data: dict[str, Any], objective: Any, batch_size: int | None,
    device: torch.device, dtype: torch.dtype, seed: int,
) -> tuple[Problem, tuple[Site, ...]]:  # fmt: skip
    for part in (model, guide):
        if isinstance(part, torch.nn.Module):
            part.to(device)
    rows = None
    if batch_size is not None:
        sized = takes(model, "size")
        rows = Rows(data, batch_size, seed, dtype, device, sized)
        if not sized and batch_size < rows.count:
            raise SettingError(
                "batch_size needs a model that takes size=None and gives it to its plate "
                '(pyro.plate("row", size, ...)): otherwise the ELBO of a batch is not an estimate '
                "of the full one."
            )
        tensors = rows.take(np.arange(min(batch_size, rows.count)))
    else:
        tensors = as_tensors(data, dtype, device)
    whitened = isinstance(guide, Whitened)
    joined = Joined(model, guide)
    check_pair(joined.model, joined.guide, tensors)
    particles = PARTICLES if whitened and objective is None and rows is None else 1
    if objective is None:
        depth = enumeration_depth(joined.model, tensors)
        objective = Trace_ELBO() if depth is None else TraceEnum_ELBO(max_plate_nesting=depth)
    problem = Problem(
        joined.model, joined.guide, tensors, rows, objective, particles, device, dtype, seed,
    )  # fmt: skip
    if whitened:
        guide.to(device)
        start = find_start(_start_potential(model, guide, problem))
        guide.start_at(start.center, start.factor)
        return problem, guide.sites
    with torch.no_grad():
        sites = latent_sites(joined.model, tensors, discrete=True)
    return problem, sites


def _start_potential(model: Any, guide: Any, problem: Problem) -> Potential:
    """The potential of all rows, or of a sample of them that stands for all."""
    data = problem.data
    if problem.rows is not None:
        count = min(problem.rows.count, max(START_ROWS, problem.rows.batch_size))
        chosen = np.random.default_rng(problem.seed).integers(problem.rows.count, size=count)
        if count == problem.rows.count:
            chosen = np.arange(count)
        data = problem.rows.take(chosen)
    return Potential(problem.model, data, guide.sites)


def default_steps(guide: Any) -> int:
    """Enough steps for the kind of guide, by where it starts."""
    if isinstance(guide, Flow):
        return 4000
    return 2000 if isinstance(guide, Whitened) else 5000


def default_optimiser(problem: Problem, steps: int) -> Optimiser:
    """Adam with a falling step size, its scale by the kind of parameters."""
    if isinstance(problem.guide, Whitened):
        rate = 0.005 if isinstance(problem.guide, Flow) else 0.01
    elif any(p.dim() > 1 for p in Joined(problem.model, problem.guide).parameters()):
        rate = 0.001
    else:
        rate = 0.01
    return Optimiser(schedule(rate, steps))
