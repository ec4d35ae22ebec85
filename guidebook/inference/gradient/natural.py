"""NEEDS A DOCSTRING: guidebook.inference.gradient.natural."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import GuideError
from guidebook.guides.autoguides.normal import FullRank, MeanField
from guidebook.guides.autoguides.whitened import Whitened
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import bar_of, stoppable
from guidebook.inference.fits.status import Status
from guidebook.programs.check import check_pair
from guidebook.programs.data import as_tensors
from guidebook.programs.gaussian import Start
from guidebook.programs.mode import find_start
from guidebook.programs.owned import copied, working_precision
from guidebook.programs.potential import Potential
from guidebook.programs.scope import local_parameters, precision, random_state

GAUSSIAN_STEPS = 500


DRAWS = 64


CALM = 4.0
"""The objective's last tenth may differ from the tenth before by so many standard errors."""


def _ended(history: np.ndarray) -> Status:
    """Whether the objective still falls: its last tenth against the tenth before."""
    tenth = len(history) // 10
    if tenth < 5:
        return Status.STILL_MOVING if len(history) > 1 else Status.CONVERGED
    last, before = history[-tenth:], history[-2 * tenth : -tenth]
    error = math.sqrt((last.var(ddof=1) + before.var(ddof=1)) / tenth)
    allowed = CALM * error + 1e-6 * abs(last.mean())
    return Status.CONVERGED if abs(last.mean() - before.mean()) <= allowed else Status.STILL_MOVING


# Gaussian guides of models without conjugacy -------------------------------------------------------


def _gaussian(
    model: Any, guide: Whitened, data: dict[str, Any], steps: int, sizes: tuple[float, float],
    seed: int, progress: bool, where: torch.device, started: float,
) -> Fit:  # fmt: skip
    if not isinstance(guide, (FullRank, MeanField)):
        raise GuideError(
            f"natural_svi has natural parameters for full_rank and mean_field, not for "
            f"{guide.family}: fit it with svi."
        )

    def attempt(dtype: torch.dtype) -> Fit:
        story, family = copied(model, guide)
        with local_parameters(), precision(dtype), random_state(seed), stoppable() as stop:
            tensors = as_tensors(data, dtype, where)
            check_pair(story, family, tensors)
            family.to(where)
            potential = Potential(story, tensors, family.sites)
            start = find_start(potential)
            if isinstance(family, MeanField):
                family.start_at(start.center, start.factor)  # which takes its conditional scales
                start = replace(start, center=family.center, factor=family.conditional_sd())
            with bar_of("natural_svi", steps, progress) as bar:
                end, history = _climb(potential, start, steps, sizes, seed, stop, bar)
            family.start_at(end.center, end.factor)
        status = Status.INTERRUPTED if stop.is_set() else _ended(history)
        return Fit(story, family, data, history, status, seed, 0.0, "natural_svi", family.sites)

    fit = working_precision(model, guide, attempt)
    notes = {"steps": len(fit.history)}
    return replace(fit, seconds=time.perf_counter() - started, notes=notes)


def _climb(
    potential: Potential, start: Start, steps: int, sizes: tuple[float, float], seed: int,
    stop: threading.Event, bar: Callable[[float], None],
) -> tuple[Start, np.ndarray]:  # fmt: skip
    """Natural-gradient steps over fresh draws, in the coordinates that the current factor whitens."""
    generator = torch.Generator().manual_seed(seed)
    history = []
    half = max(DRAWS, 4 * len(start.center))
    for step in range(steps):
        if stop.is_set():
            break
        noise = torch.randn(half, len(start.center), generator=generator, dtype=torch.float64)
        noise = torch.cat([noise, -noise]).to(start.center)
        flat = start.factor.dim() == 1
        u = start.center + (noise * start.factor if flat else noise @ start.factor.T)
        value, grad = potential.value_and_grad(u)
        elbo = float(value.mean()) + _entropy(start)
        if not math.isfinite(elbo) or not bool(grad.isfinite().all()):
            raise GuideError(
                f"The density is not finite at a draw of the guide in step {step}: the guide is far "
                "wider than the posterior's support. Use svi, or reparameterise the model."
            )
        history.append(-elbo)
        bar(elbo)
        rate = (step + sizes[0]) ** -sizes[1]
        start = _natural_step(start, noise, grad, rate)
    return start, np.array(history)


def _natural_step(start: Start, noise: Tensor, grad: Tensor, rate: float) -> Start:
    """The convex combination of natural parameters, whitened; precision changes at most tenfold."""
    if start.factor.dim() == 1:
        white = grad * start.factor
        mean = white.mean(0)
        curvature = -(noise * (white - mean)).mean(0) / noise.square().mean(0)
        inner = (1 - rate) + rate * curvature.clamp(0.1, 10.0)
        center = start.center + start.factor * rate * mean / inner
        return replace(start, center=center, factor=start.factor * inner.rsqrt())
    white = grad @ start.factor
    mean = white.mean(0)
    # Stein's lemma: the expected Hessian is the slope of the gradient on the draws
    slope = torch.linalg.lstsq(noise, white - mean, driver="gels").solution
    values, vectors = torch.linalg.eigh(-0.5 * (slope + slope.T))
    inner = (1 - rate) + rate * values.clamp(0.1, 10.0)
    move = vectors @ ((vectors.T @ mean) / inner) * rate
    spread = vectors * inner.rsqrt()
    factor = start.factor @ torch.linalg.cholesky(spread @ spread.T)
    return replace(start, center=start.center + start.factor @ move, factor=factor)


def _entropy(start: Start) -> float:
    diagonal = start.factor if start.factor.dim() == 1 else start.factor.diagonal()
    dimension = len(start.center)
    return float(diagonal.log().sum()) + 0.5 * dimension * (1 + math.log(2 * math.pi))
