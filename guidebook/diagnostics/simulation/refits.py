"""An engine's fit to every data set of a study, and the rank of its truth: in one step, or one by one."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from guidebook.diagnostics.simulation.ranking import Ranker
from guidebook.diagnostics.simulation.study import Study, thinned
from guidebook.errors import GuidebookError
from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import Steps, check_whole
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient.problem import Problem, prepare
from guidebook.inference.gradient.replicas import fit_replicas
from guidebook.inference.protocols.mode import defaults_of
from guidebook.inference.svi import svi
from guidebook.programs.batches.source import admitted
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.scope import quiet

DRAWS = 400
"""Of every posterior, at most: a rank among so many adds little to the noise of N truths, and a sampler's
draws, thinned to so many, are as good as independent."""
APART = 1_000_000
"""Between the seeds of truths and of draws, so that they share no random numbers."""
WITHOUT_DRAWS = (Status.STOPPED_BY_NAN, Status.NO_MODE)


@dataclass
class Ranked:
    """What has been ranked so far: ranks (Q,) of each data set, L, and the fits that did not converge."""

    ranks: list[np.ndarray] = field(default_factory=list)
    draws: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    unranked: int = 0

    def lost(self, reason: str) -> None:
        """Counts a data set without ranks."""
        self.ended[reason] += 1
        self.unranked += 1


def ranked(
    study: Study, engine: Callable[..., Fit], options: Mapping[str, Any], seed: int, bar: Steps
) -> Ranked:
    """The ranks of all truths, or of those that were reached before Ctrl-C."""
    found, rank = Ranked(), Ranker(study.potential, study.truths, seed)
    for row, one, status in _fits(study, engine, options, seed, bar):
        if status is None or status in WITHOUT_DRAWS:
            found.lost(one if isinstance(one, str) else _named(status))
            continue
        potential = study.potential_of(row)
        u, _ = one.sharing(potential).draw(DRAWS, APART + seed + row)
        draws = thinned(u, DRAWS).to(potential.dtype)
        ranks = rank(row, potential, draws) if bool(draws.isfinite().all()) else None
        if ranks is None:
            found.lost("with draws that are not finite")
            continue
        if not status.good:
            found.ended[_named(status)] += 1
        found.draws = len(draws)
        found.ranks.append(ranks)
    return found


def _named(status: Status | None) -> str:
    return "" if status is None else status.name.lower().replace("_", " ")


Found = tuple[int, Any, Status | None]
"""The row of a data set, its approximation and status; or the reason why there is none, and None."""


def _fits(
    study: Study, engine: Callable[..., Fit], options: Mapping[str, Any], seed: int, bar: Steps
) -> Iterator[Found]:
    if engine is svi and set(options) <= {"steps"} and study.potential.changing:
        try:
            yield from _together(study, seed, bar, **options)
            return
        except CannotRecord:
            pass  # nothing was yielded: a step is recorded before the first fit ends
    yield from _one_by_one(study, engine, options, seed, bar)


def _together(
    study: Study, seed: int, bar: Steps, steps: int | Literal["auto"] = "auto"
) -> Iterator[Found]:
    """All fits by svi's step, recorded once; "auto": each takes the steps that svi plans, and no more.

    Raises:
        CannotRecord: before the first fit ends.
    """
    if steps != "auto":
        check_whole(steps=(steps, 1))
    problems: list[Problem] = []
    source = admitted(study.model, study.data(0), batch_size=None, size=None)

    def put(run: Run) -> None:
        problems.append(
            prepare(run.model, run.guide, source, None, run.device, run.dtype, run.seed)
        )

    with opened("svi", study.model, study.guide, source, seed=seed, device=None, check=put) as run:
        problem = problems[-1]
        if run.dtype is not study.potential.dtype:
            raise CannotRecord("the model works in another precision than its data")
        torch.manual_seed(seed)
        steps = defaults_of(problem.guide).steps if steps == "auto" else steps
        replicas = fit_replicas(problem, study.potential, study.datasets, steps, bar)
    for row, one in enumerate(replicas):
        q = Approximation(problem.model, one.guide, study.data(row), problem.sites)
        yield row, q, one.status


def _one_by_one(
    study: Study, engine: Callable[..., Fit], options: Mapping[str, Any], seed: int, bar: Steps
) -> Iterator[Found]:
    """A call of the engine for each data set."""
    known = inspect.signature(engine).parameters
    quietly = {"progress": False} if "progress" in known else {}
    parts = (study.model, study.guide) if "guide" in known else (study.model,)
    for row in bar:
        given = {**quietly, **options, **({"seed": seed + row} if "seed" in known else {})}
        try:
            with quiet():
                fit = engine(*parts, study.data(row), **given)
        except (
            GuidebookError,
            RuntimeError,
            ValueError,
        ) as error:  # as of a factorisation that fails
            yield row, f"with {type(error).__name__} ({str(error).split('. ')[0][:120]})", None
            continue
        except KeyboardInterrupt:
            return
        if fit.status is Status.INTERRUPTED:
            return
        yield row, fit.approximation, fit.status
