"""What svi climbs: copies of model and guide, tensors, the objective, and where a fit starts.

Both paths, the captured step and pyro.infer.SVI, work on one `Problem` by one `Settings` and hand
back one `Outcome`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoGaussian, AutoStructured
from torch import Tensor, nn

from guidebook.errors import SettingError
from guidebook.inference.fits.running import MOST, check_whole
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.held_out import HeldOut, rows_apart
from guidebook.inference.optimisers.given import check_optimiser
from guidebook.inference.protocols.mode import StartsAtMode, defaults_of
from guidebook.programs.batches.minibatches import MiniBatches
from guidebook.programs.batches.source import Batches, Source
from guidebook.programs.check import check_model, check_pair, check_same_sites, check_sum
from guidebook.programs.data import number_of_rows, takes
from guidebook.programs.nodes import partial_plates, plate_nesting, sample_nodes
from guidebook.programs.owned import Joined
from guidebook.programs.potential import Potential
from guidebook.programs.sites import Site, is_enumerated, latent_sites
from guidebook.programs.start.mode import find_start
from guidebook.programs.values.arrays import arrays_in
from guidebook.scope import subsampling

START_ROWS = 10_000
"""The mode is looked for with this many rows drawn by the seed, where there are more."""
SITE_BY_SITE = AutoGaussian, AutoStructured
"""Guides of Pyro without one vector whose plates cannot draw rows."""
LOOK_EVERY = 50
"""Steps between two looks at the clock, the progress bar and what is still alive."""


@dataclass(frozen=True)
class Settings:
    """How a problem is run: `svi`'s arguments of the same names; `steps` are those planned, which may
    grow where `auto`; `checkpoint` is a usable path.

    Raises SettingError for a number out of range, an unknown `compile`, or an optimiser that no fit can run.
    """

    steps: int
    auto: bool = False
    optim: Any = None
    restarts: int = 1
    compile: bool | str = "auto"
    progress: bool = False
    checkpoint: Path | None = None

    @property
    def holds_out(self) -> bool:
        """Whether rows may be kept apart: several restarts have one decision, and no one bound."""
        return self.auto and self.restarts == 1

    def __post_init__(self) -> None:
        check_whole(steps=(self.steps, 1, MOST))
        check_whole(restarts=(self.restarts, 1, MOST // self.steps))  # a history each
        check_optimiser(self.optim)
        if self.compile not in (True, False, "auto", "graph", "native"):
            raise SettingError(
                f"compile={self.compile!r} is unknown: give 'auto', True, 'native', 'graph' or False."
            )


@dataclass
class Outcome:
    """What a path hands back: trained copies, objective per step, status and notes."""

    model: Any
    guide: Any
    history: np.ndarray
    status: Status
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Problem:
    """What both paths work on: copies of model and guide, tensors, where batches come from, and the rows
    that are held out. `subsampled`: whether plates draw the rows they ask for at every step. `source`: of
    the data, as they were admitted. `starts`: what the guide holds that its start at the mode has set.
    `joint`: log p of all rows, where the start was looked for by it and the steps leave it as it is.
    """

    model: Any
    guide: Any
    sites: tuple[Site, ...]
    data: dict[str, Any]
    rows: Batches | None
    objective: Any
    particles: int
    device: torch.device
    seed: int
    held: HeldOut | None = None
    joint: Potential | None = None
    subsampled: bool = True
    source: Source | None = None
    starts: tuple[Tensor, ...] = ()

    @property
    def count(self) -> int:
        """The number of rows that the objective stands for."""
        return self.rows.count if self.rows else number_of_rows(self.data)

    @property
    def moving_inside(self) -> list[str]:
        """Arguments that come anew with every batch and are no tensors, but hold some, or arrays of words."""
        if self.rows is None:
            return []
        given = self.data
        if isinstance(self.rows, MiniBatches):
            given = {name: given[name] for name in self.rows.rows.names}
        inside = (n for n, v in given.items() if not isinstance(v, Tensor))
        return [
            n
            for n in inside
            if isinstance(given[n], np.ndarray) or any(True for _ in arrays_in(n, given[n]))
        ]

    def batch(self, step: int) -> dict[str, Any]:
        """The model's keyword arguments at a step: a mini-batch, or all rows."""
        return self.rows.batch(step) if self.rows else self.data


def prepare(
    model: Any, guide: Any, source: Source, objective: Any, device: torch.device,
    dtype: torch.dtype, seed: int, hold_out: bool = False,
) -> Problem:  # fmt: skip
    """The problem of these copies of model and guide, checked, and started where the guide can be.

    `hold_out`: rows are kept apart where the model could overfit (`rows_apart`).

    Raises:
        SettingError: a batch size with a model that does not scale mini-batches.
        DataError, ModelError, GuideError: inputs that do not fit together.
    """
    joined = Joined(model, guide)
    rows = source.batches(model, seed, dtype, device)
    tensors = rows.head(rows.batch_size) if rows else source.whole(dtype, device)
    flat = rows is None and _of_all_rows(guide)
    with subsampling(not flat):
        of_guide = check_pair(joined.model, joined.guide, tensors)
    apart = None
    if hold_out:
        apart = rows_apart(joined.model, guide, source.rows, source.batch_size, seed)
    if apart is not None:
        kept = replace(source, apart=apart)
        rows = kept.batches(model, seed, dtype, device)
        tensors = rows.head(rows.batch_size) if rows else kept.whole(dtype, device)
    particles = defaults_of(guide).particles if objective is None and rows is None else 1
    with subsampling(), torch.no_grad():
        nodes = sample_nodes(joined.model, tensors)
    if objective is None:
        depth = plate_nesting(nodes | {f"guide {name}": node for name, node in of_guide.items()})
        objective = Trace_ELBO() if depth is None else TraceEnum_ELBO(max_plate_nesting=depth)
    if isinstance(objective, TraceEnum_ELBO) and any(map(is_enumerated, of_guide.values())):
        with subsampling():
            check_sum(joined.model, joined.guide, objective, tensors)
    problem = Problem(
        joined.model, joined.guide, (), tensors, rows, objective, particles, device, seed,
        subsampled=not (flat and partial_plates(nodes, latent=True)), source=source,
    )  # fmt: skip
    if apart is not None and source.rows is not None:
        unseen = source.whole(dtype, device, apart) | ({"size": 0} if takes(model, "size") else {})
        problem.held = HeldOut(
            objective, unseen, source.rows.names, (len(apart), problem.count), seed
        )
    with subsampling(rows is not None):
        if rows is None and partial_plates(nodes):
            check_model(joined.model, tensors)
        _start(problem)
        check_same_sites(joined.model, joined.guide, tensors, {s.name for s in problem.sites})
    return problem


def _of_all_rows(guide: Any) -> bool:
    """Whether the guide has the latents of all rows at every run: in one vector, or site by site."""
    parts = guide.modules() if isinstance(guide, nn.Module) else [guide]
    return any(hasattr(p, "get_posterior") or isinstance(p, SITE_BY_SITE) for p in parts)


def _start(problem: Problem) -> None:
    """The latent sites, and the guide's start at the mode where it can."""
    guide = problem.guide
    if isinstance(guide, StartsAtMode):
        guide.to(problem.device)
        problem.sites = guide.sites
        potential = _start_potential(problem)
        start = find_start(potential)
        before = {name: (value, value._version) for name, value in _held(guide)}
        guide.start_at(start.center, start.factor)
        problem.starts = tuple(
            value
            for name, value in _held(guide)
            if name not in before
            or before[name][0] is not value
            or value._version != before[name][1]
        )
        trained = isinstance(problem.model, nn.Module) and any(
            True for _ in problem.model.parameters()
        )
        if problem.rows is None and not trained and not partial_plates(potential.nodes):
            problem.joint = potential
    else:
        with torch.no_grad():
            problem.sites = latent_sites(problem.model, problem.data, discrete=True)


def _held(guide: Any) -> list[tuple[str, Tensor]]:
    """The parameters and buffers of a guide by name."""
    if not isinstance(guide, nn.Module):
        return []
    return [*guide.named_parameters(), *guide.named_buffers()]


def _start_potential(problem: Problem) -> Potential:
    """The potential of all rows, or of a sample of them that stands for all."""
    data = problem.data
    if problem.rows is not None:
        data = problem.rows.sample(START_ROWS, problem.seed)
    return Potential(problem.model, data, problem.sites)
