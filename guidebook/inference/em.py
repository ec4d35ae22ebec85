"""Expectation maximisation: local latents summed out exactly, parameters at their maximum.

    maximise L(theta) = log p(x | theta) + log p(theta)

    E-step:  S = E[sufficient statistics of (x, z) | x, theta]
    M-step:  theta <- argmax E[log p(x, z | theta)] + log p(theta), a function of S

No iteration lowers L. With log p(theta) = 0 it is the likelihood, otherwise the marginal posterior of
theta (MAP-EM: latents integrated out, theta at its mode). A partial M-step climbs the same function
by a few gradient steps (generalised EM).

Sources: Dempster, Laird and Rubin 1977, "Maximum likelihood from incomplete data via the EM
algorithm"; Neal and Hinton 1998, "A view of the EM algorithm that justifies incremental, sparse, and
other variants".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import Steps, check_whole
from guidebook.inference.fits.status import Status
from guidebook.inference.protocols.maximisation import (
    REMEDY,
    ExpectationMaximization,
    PartialMaximization,
    Tensors,
)
from guidebook.inference.protocols.require import require
from guidebook.programs.check import check_pair
from guidebook.programs.data import as_tensors, number_of_rows
from guidebook.programs.owned import dtype_of
from guidebook.programs.rows import chunks, some_rows
from guidebook.programs.sites import Site, latent_sites
from guidebook.programs.statements import make_local
from guidebook.scope import precision

CHUNK = 16_384


START_ROWS = 100_000


ROUNDING = 1e-9
"""A fall of the objective up to this share of it is rounding; sums are taken in float64."""


NEGLIGIBLE = 0.005
"""A maximum this far above (1/2 of 0.1^2) is a tenth of a standard error away, or less."""


SPAN = 10


def em(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    iterations: int = 1000,
    tolerance: float = 1e-8,
    seed: int = 0,
    restarts: int = 1,
    partial: int | None = None,
    chunk: int = CHUNK,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Fits the model's parameters with its local latents summed out by the guide's E-step.

    The Fit holds copies: the model with the parameters found, the guide as its exact posterior. Its
    history is -L at the start and after each iteration, so history[-1] belongs to the parameters
    kept. In notes: `log_likelihood` and `log_prior` at the end; `iterations`; `remaining`, how much
    L would still gain if its gains went on shrinking as they did (EM can be slow: a small step is
    not a small distance); with restarts `restarts_objective`, -L of each.

    Arguments:
        guide: one with the methods of `ExpectationMaximization`, such as gb.guides.FactorPosterior.
        data: the model's keyword arguments; memory-mapped arrays are read by chunks.
        iterations: the most E- and M-steps; the start counts as none.
        tolerance: converged once L rises by at most this share of max(1, |L|), and would in all
            later iterations rise by at most this share or 0.005, whichever is more.
        seed: decides the result alone, by the start.
        restarts: starts of their own seeds; the fit with the highest L is kept.
        partial: None, or the number of gradient steps that replace each M-step. Steps are halved
            until they climb.
        chunk: rows per E-step call; memory does not grow with the number of rows.

    Raises:
        GuideError: the guide lacks methods, does not fit the model, or its steps lower L.
        DataError, ModelError, SettingError: as `svi`.
    """
    check_whole(iterations=(iterations, 1), restarts=(restarts, 1), chunk=(chunk, 1))
    if not 0 <= tolerance < 1:
        raise SettingError(f"tolerance={tolerance!r} is out of range: give 0 <= tolerance < 1.")
    require(guide, ExpectationMaximization, "em", REMEDY)
    if partial is not None:
        check_whole(partial=(partial, 1))
        complete = "Leave partial=None for its complete M-step."
        require(guide, PartialMaximization, f"em with partial={partial}", complete)
    with (
        opened("em", model, guide, data, seed=seed, device=device, check=None) as run,
        precision(torch.float64),
    ):
        if not number_of_rows(run.data):
            raise DataError("data holds no rows: give the observed array of the model.")
        with run.steps(iterations * restarts, shown=progress, unit="iteration") as steps:
            climb = _Climb(run, chunk, tolerance, partial, steps)
            climbs = climb.from_starts(iterations, restarts)
        best = max(climbs, key=lambda one: (not one.nan, one.objective))
        notes = _notes(best, run.guide)
        run.model, run.guide, sites = _trained(run, best.parameters, chunk)
    if restarts > 1:
        notes |= {"restarts": restarts, "restarts_objective": [-one.objective for one in climbs]}
    return run.fit(best.status, -np.array(best.objectives), sites=sites, notes=notes)


@dataclass
class _Ascent:
    """One climb: parameters whose objective is the last one, and every objective before."""

    parameters: Tensors
    objectives: list[float] = field(default_factory=list)
    status: Status = Status.STILL_MOVING
    nan: str = ""

    @property
    def objective(self) -> float:
        return self.objectives[-1] if self.objectives else -math.inf


class _Climb:
    """What every climb shares: the steps, the data, and when to stop."""

    def __init__(
        self, run: Run, chunk: int, tolerance: float, partial: int | None, steps: Steps
    ) -> None:
        self.run, self.structure, self.chunk = run, run.guide, chunk
        self.tolerance, self.partial, self.steps = tolerance, partial, steps

    def from_starts(self, iterations: int, restarts: int) -> list[_Ascent]:
        """One climb from each start, until Ctrl-C."""
        ascents: list[_Ascent] = []
        for restart in range(restarts):
            seed = _seed_of(self.run.seed, restart)
            rows = some_rows(self.run.data, START_ROWS, seed, self.run.device)
            start = self.structure.start(rows, seed)
            if not ascents:  # model and guide that do not fit each other are found out at once
                _trained(self.run, start, self.chunk)
            ascents.append(self.climbed(start, iterations))
            if self.steps.stopped:
                break
        return ascents

    def climbed(self, start: Tensors, iterations: int) -> _Ascent:
        """E- and M-steps from a start until they no longer climb."""
        ascent, ahead, reach, statistics = _Ascent(start), start, 1.0, Tensors()
        for iteration in range(iterations + 1):
            try:
                if iteration:
                    ahead, reach = self._m_step(statistics, ahead, reach)
                found = self._e_step(ahead)
            except LinAlgError as error:  # a covariance has become singular
                self._not_finite(ascent, iteration, f"not defined ({str(error).splitlines()[0]})")
                return ascent
            if found is None:  # interrupted: what was evaluated before is kept
                return ascent
            statistics, objective = found
            if not math.isfinite(objective):
                self._not_finite(ascent, iteration, str(objective))
                return ascent
            gain = objective - ascent.objective
            size = max(1.0, abs(objective))
            if gain < -ROUNDING * size:
                raise GuideError(
                    f"The objective of em fell from {ascent.objective:.10g} to {objective:.10g} in "
                    f"iteration {iteration}, and exact E- and M-steps never lower it: check that m_step "
                    f"of {type(self.structure).__name__} maximises what its e_step and log_prior state."
                )
            if ascent.objectives and gain <= 0:  # by rounding: the parameters before are kept
                objective = ascent.objective
            else:
                ascent.parameters = ahead
            ascent.objectives.append(objective)
            if self._converged(ascent, gain, size):
                ascent.status = Status.CONVERGED
                return ascent
            if iteration:
                self.steps.advance()
                self.steps.show(objective=objective)
        return ascent

    def _converged(self, ascent: _Ascent, gain: float, size: float) -> bool:
        """Whether neither the last gain nor all that would follow it matters."""
        allowed = self.tolerance * size
        return gain <= allowed and _remaining(ascent.objectives) <= max(allowed, NEGLIGIBLE)

    @torch.no_grad()
    def _e_step(self, parameters: Tensors) -> tuple[Tensors, float] | None:
        """Statistics and objective over all rows; None when it was interrupted."""
        totals: Tensors = {}
        objective = float(self.structure.log_prior(parameters))
        for rows in chunks(self.run.data, self.chunk, self.run.device):
            if self.steps.stopped:
                return None
            statistics, log_evidence = self.structure.e_step(rows, parameters)
            objective += float(log_evidence)
            totals = {n: totals[n] + s for n, s in statistics.items()} if totals else statistics
        return totals, objective

    def _m_step(
        self, statistics: Tensors, parameters: Tensors, reach: float
    ) -> tuple[Tensors, float]:
        if self.partial is None:
            with torch.no_grad():
                return self.structure.m_step(statistics, parameters), reach
        for _ in range(self.partial):
            parameters, reach = self._ascend(statistics, parameters, reach)
        return parameters, reach

    def _ascend(
        self, statistics: Tensors, parameters: Tensors, reach: float
    ) -> tuple[Tensors, float]:
        """One gradient step on the expected log joint and the prior, halved until it climbs."""
        structure = self.structure

        def value(at: Tensors) -> Tensor:
            return structure.expected_log_joint(statistics, at) + structure.log_prior(at)

        free = {n: p.detach().clone().requires_grad_() for n, p in parameters.items()}
        with torch.enable_grad():
            now = value(free)
            found = torch.autograd.grad(now, list(free.values()), allow_unused=True)
        uphill = {n: g for n, g in zip(free, found, strict=True) if g is not None}
        slope = sum(float(g.square().sum()) for g in uphill.values())
        with torch.no_grad():
            for _ in range(100):
                moved = {n: p + reach * uphill[n] if n in uphill else p
                         for n, p in parameters.items()}  # fmt: skip
                # Armijo's condition: a share of the rise that the slope promises
                if float(value(moved)) >= float(now) + 1e-4 * reach * slope:
                    return moved, 2 * reach
                reach /= 2
        return parameters, 1.0  # at the top, up to rounding

    def _not_finite(self, ascent: _Ascent, iteration: int, objective: str) -> None:
        if not ascent.objectives:
            raise GuideError(
                f"The objective of em is {objective} at the start of "
                f"{type(self.structure).__name__}: its start must have a finite log p(x | theta)."
            )
        ascent.status = Status.STOPPED_BY_NAN
        ascent.nan = (
            f"the objective was {objective} in iteration {iteration}: a variance fell to 0 or a "
            "weight vanished; use a prior, fewer components or fewer latents"
        )


def _seed_of(seed: int, restart: int) -> int:
    """The seed itself for the first start, others that do not meet those of the next seed."""
    if restart == 0:
        return int(seed)
    return int(np.random.SeedSequence((int(seed), restart)).generate_state(1, np.uint64)[0] >> 1)


def _trained(run: Run, parameters: Tensors, chunk: int) -> tuple[Any, Any, tuple[Site, ...]]:
    """Model and guide with these parameters, checked on the first rows, and the latent sites."""
    with torch.no_grad():
        story, family = run.guide.finished(run.model, parameters)
        for part in (story, family):
            make_local(part)
            if isinstance(part, torch.nn.Module):
                part.to(run.device)
        dtype = dtype_of(story, family)
        rows = as_tensors(next(chunks(run.data, chunk, run.device)), dtype, run.device)
        with precision(dtype):
            check_pair(story, family, rows)
            return story, family, latent_sites(story, rows)


def _notes(ascent: _Ascent, structure: ExpectationMaximization) -> dict[str, Any]:
    notes: dict[str, Any] = {"iterations": max(0, len(ascent.objectives) - 1)}
    if ascent.objectives:
        prior = float(structure.log_prior(ascent.parameters))
        notes |= {"log_likelihood": ascent.objective - prior, "log_prior": prior}
    if len(ascent.objectives) > 2:
        notes["remaining"] = _remaining(ascent.objectives)
    if ascent.nan:
        notes["nan"] = ascent.nan
    return notes


def _remaining(objectives: list[float]) -> float:
    """What is still to gain if gains go on shrinking by their last factor (Aitken).

    Gains are taken over several iterations: those of gradient steps vary from one to the next.
    """
    if len(objectives) > 1 and objectives[-1] - objectives[-2] <= 1e-12 * abs(objectives[-1]):
        return 0.0
    span = min(SPAN, (len(objectives) - 1) // 2)
    if span < 1:
        return math.inf
    before, last = np.diff([objectives[-1 - 2 * span], objectives[-1 - span], objectives[-1]])
    ratio = last / before if before > 0 else 1.0
    return float(last * ratio / (1 - ratio)) if ratio < 1 else math.inf
