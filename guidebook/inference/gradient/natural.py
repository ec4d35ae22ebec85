r"""Natural gradients of a Gaussian guide of any model; `guidebook.inference.natural_svi` has the equations.

A step moves the natural parameters (P m, -P/2) of q(u) = N(m, P^-1) by a share rho towards those that
the gradient of log p(x, u), averaged over fresh antithetic draws of q, asks for. The expected Hessian
is taken from the gradients alone, by Stein's lemma: it is their slope on the draws.

Sources: Khan and Nielsen 2018, "Fast yet simple natural-gradient descent for variational inference in
complex models"; Lin, Khan and Schmidt 2019, "Stein's lemma for the reparameterization trick with
exponential family mixtures".
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import GuideError, SettingError
from guidebook.guides.autoguides.normal import FullRank, MeanField
from guidebook.inference.fits.opening import Run
from guidebook.inference.fits.status import Status
from guidebook.programs.potential import Potential
from guidebook.programs.start.gaussian import Start
from guidebook.programs.start.mode import find_start

GAUSSIAN_STEPS = 500


DRAWS = 64


CALM = 4.0
"""The objective's last tenth may differ from the tenth before by so many standard errors."""


class StepSizes(NamedTuple):
    """Robbins-Monro sizes rho_t = (t + delay)^-forgetting, t = 0, 1, ..."""

    delay: float
    forgetting: float

    def at(self, step: int) -> float:
        return float((step + self.delay) ** -self.forgetting)


def step_sizes(delay: float, forgetting: float) -> StepSizes:
    """The sizes, none above 1; SettingError where delay or forgetting would make one larger."""
    if not 0 <= forgetting <= 1 or not 1 <= delay < math.inf:
        raise SettingError(
            f"forgetting={forgetting} and delay={delay}: give 0 <= forgetting <= 1 (above 0.5 with "
            "mini-batches) and delay >= 1, so that no step is larger than 1."
        )
    return StepSizes(delay, forgetting)


def ended(history: np.ndarray) -> Status:
    """Whether the objective still falls: its last tenth against the tenth before."""
    tenth = len(history) // 10
    if tenth < 5:
        return Status.STILL_MOVING if len(history) > 1 else Status.CONVERGED
    last, before = history[-tenth:], history[-2 * tenth : -tenth]
    error = math.sqrt((last.var(ddof=1) + before.var(ddof=1)) / tenth)
    allowed = CALM * error + 1e-6 * abs(last.mean())
    return Status.CONVERGED if abs(last.mean() - before.mean()) <= allowed else Status.STILL_MOVING


def natural_gaussian(guide: Any) -> Any:
    """The guide, if it is a normal whose natural parameters are free: `full_rank`, `mean_field`.

    Raises:
        GuideError: another family.
    """
    if not isinstance(guide, (FullRank, MeanField)):
        raise GuideError(
            f"natural_svi has natural parameters for full_rank and mean_field, not for "
            f"{guide.family}: fit it with svi."
        )
    return guide


def climbed(run: Run, total: int, sizes: StepSizes, progress: bool) -> np.ndarray:
    """Fit the guide of the run in place; returns -ELBO before each step, (steps,).

    The steps are taken in the coordinates that the current factor whitens.

    Raises:
        GuideError: the density is not finite at a draw.
    """
    guide, history = run.guide, []
    potential = Potential(run.model, run.tensors, guide.sites)
    start = find_start(potential)
    if isinstance(guide, MeanField):
        guide.start_at(start.center, start.factor)  # which takes its conditional scales
        start = replace(start, center=guide.center, factor=guide.conditional_sd())
    dimension = len(start.center)
    generator = torch.Generator().manual_seed(run.seed)
    half = max(DRAWS, 4 * dimension)
    with run.steps(total, shown=progress) as steps:
        for step in steps:
            noise = torch.randn(half, dimension, generator=generator, dtype=torch.float64)
            noise = torch.cat([noise, -noise]).to(start.center)
            flat = start.factor.dim() == 1
            u = start.center + (noise * start.factor if flat else noise @ start.factor.T)
            value, grad = potential.value_and_grad(u)
            elbo = float(value.mean()) + _entropy(start)
            if not math.isfinite(elbo) or not bool(grad.isfinite().all()):
                raise GuideError(
                    f"The density is not finite at a draw of the guide in step {step}: the guide is "
                    "far wider than the posterior's support. Use svi, or reparameterise the model."
                )
            history.append(-elbo)
            steps.show(elbo=elbo)
            start = natural_step(start, noise, grad, sizes.at(step))
    guide.start_at(start.center, start.factor)
    return np.array(history)


def natural_step(start: Start, noise: Tensor, grad: Tensor, rate: float) -> Start:
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
