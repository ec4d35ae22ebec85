r"""Stochastic variational inference by natural gradients.

For a conjugate model the natural gradient of the ELBO by the natural parameters of q is the
difference between the expected complete conditional and what q is now, so a step on a mini-batch B
of the N rows is a convex combination,

.. math:: \eta \leftarrow (1 - \rho_t)\, \eta + \rho_t \Big(\eta^0 + \frac{N}{|B|}
    \nabla_{E_q[t]} \sum_{i \in B} \log \sum_z \exp E_q[\log p(x_i, z \mid \beta)]\Big), \qquad
    \rho_t = (t + \mathrm{delay})^{-\mathrm{forgetting}}.

A step of size 1 on all rows is a sweep of `cavi`. For a Gaussian guide of any model the same step
on the natural parameters (P m, -P/2), P the precision, is

.. math:: P \leftarrow (1 - \rho) P + \rho\, E_q[-\nabla^2 \log p(x, u)], \qquad
    m \leftarrow m + \rho\, P^{-1} E_q[\nabla \log p(x, u)].

Sources: Hoffman, Blei, Wang and Paisley 2013, "Stochastic variational inference"; Khan and Nielsen
2018, "Fast yet simple natural-gradient descent for variational inference in complex models".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from guidebook.errors import SettingError
from guidebook.inference.fits.approximation import UnconstrainedGuide
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import check_whole
from guidebook.inference.gradient.natural import (
    GAUSSIAN_STEPS,
    StepSizes,
    climbed,
    ended,
    natural_gaussian,
    step_sizes,
)
from guidebook.inference.protocols.conjugate import (
    REMEDY,
    START_ROWS,
    ConditionallyConjugate,
    divergence,
    observed,
)
from guidebook.inference.protocols.require import require
from guidebook.programs.batches.minibatches import MiniBatches
from guidebook.programs.data import number_of_rows
from guidebook.programs.rows import ArrayRows, some_rows

BATCH = 2048


def natural_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    steps: int | None = None,
    batch_size: int | None = BATCH,
    delay: float = 1.0,
    forgetting: float = 0.7,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Fits the guide by natural-gradient steps of Robbins-Monro size.

    history is minus the ELBO as each step's mini-batch or draws estimate it.

    Arguments:
        guide: with the structure of `cavi` (gb.guides.MixtureMeanField), or gb.guides.full_rank or
            mean_field of any model whose latents are global; those take all rows at every step.
        steps: None: one pass over the data and at least 200 steps; 500 for Gaussian guides.
        batch_size: rows per step, at most all of them; None for all rows. Memory-mapped arrays are
            read where the batch lies, so memory does not grow with the number of rows.
        delay: at least 1 with `forgetting` above 0 makes no step larger than 1.
        forgetting: kappa, in (0.5, 1] for convergence with mini-batches; 0 for steps of size 1.
            From a poor start steps of 0.7 can shrink before the optimum is near: 0.55, smaller
            batches or more passes help, and so does a comparison with `cavi` on a sample of rows.
        seed: decides the start and the batches.

    Raises:
        GuideError: a guide without conjugate structure that is not one of those Gaussians.
        SettingError: a setting out of range, or batch_size with a Gaussian guide of all rows.
        DataError, ModelError: as `svi`.
    """
    check_whole(
        steps=(1 if steps is None else steps, 1),
        batch_size=(BATCH if batch_size is None else batch_size, 1),
    )
    sizes = step_sizes(delay, forgetting)
    if isinstance(guide, UnconstrainedGuide):  # a density over u, not conjugate blocks
        if batch_size not in (None, BATCH):
            raise SettingError(
                "natural_svi takes all rows at every step of a Gaussian guide: leave batch_size "
                "out, or use svi with batch_size."
            )
        normal = natural_gaussian(guide)
        with opened("natural_svi", model, normal, data, seed=seed, device=device) as run:
            history = climbed(run, steps or GAUSSIAN_STEPS, sizes, progress)
        notes: dict[str, Any] = {"steps": len(history)}
        return run.fit(ended(history), history, sites=run.guide.sites, notes=notes)
    require(guide, ConditionallyConjugate, "natural_svi", REMEDY)
    with opened(
        "natural_svi", model, guide, data, seed=seed, device=device, dtype=torch.float64, check=None
    ) as run:
        count = number_of_rows(run.data)
        batch = count if batch_size is None else min(batch_size, count)
        steps = steps or max(200, math.ceil(count / batch))
        history = _stepped(run, steps, batch, sizes, progress)
        sites = run.sites_of_some_rows()
    notes = {"steps": len(history), "batch_size": batch, "passes": len(history) * batch / count}
    return run.fit(ended(history), history, sites=sites, notes=notes)


@torch.no_grad()
def _stepped(run: Run, total: int, batch: int, sizes: StepSizes, progress: bool) -> np.ndarray:
    """Take the steps in place; returns -ELBO by each mini-batch, before its step."""
    guide, seed = run.guide, run.seed
    arrays = ArrayRows(run.data)
    rows = MiniBatches(arrays, arrays.whole, batch, seed, run.dtype, run.device)
    start = observed(some_rows(run.data, START_ROWS, seed, run.device))
    natural = guide.initial_natural(start, rows.count, seed)
    prior, history = guide.prior, []
    whole = rows.take(np.arange(rows.count)) if batch == rows.count else None
    with run.steps(total, shown=progress) as steps:
        for step in steps:
            x = observed(whole or rows.batch(step))
            bound, message = guide.local(x, guide.expected(natural))
            scale = rows.count / len(x)
            elbo = scale * float(bound) - float(divergence(guide, natural, prior))
            history.append(-elbo)
            steps.show(elbo=elbo)
            natural = {
                name: torch.lerp(value, prior[name] + scale * message[name], sizes.at(step))
                for name, value in natural.items()
            }
    guide.adopt(natural)
    return np.array(history)
