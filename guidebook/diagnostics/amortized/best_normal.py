"""The best normal for every row by itself: the member of the guide's family nearest to p(z | x_i).

What an encoder would give if it knew each row alone; all rows are searched at once.

Sources: Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders"; Roeder,
Wu and Duvenaud 2017, "Sticking the landing: simple, lower-variance gradient estimators for
variational inference".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from guidebook.diagnostics.amortized.density import recorded
from guidebook.diagnostics.amortized.rows import (
    Latent,
    draw_rows,
    is_point,
    posterior_of,
    row_terms,
    unwrapped,
)
from guidebook.errors import DataError, GuideError
from guidebook.inference.fits.fit import Fit

DIAGONAL, FULL = "diagonal normal", "full normal"
"""The families of which the best member is sought, by the name that is shown."""
COARSE, FINE, MOST_ROUNDS, SETTLED = 0.3, (0.1, 0.03), 8, 3.0
"""Rates of the rounds of the search; most coarse rounds; what no row may travel in the last one."""


def family_of(fit: Fit, x: Tensor, latents: tuple[Latent, ...]) -> tuple[Tensor, Tensor, str]:
    """The encoder's mean and scale_tril per row, and the family; moments of draws for others."""
    q = posterior_of(fit, x)
    if q is not None and is_point(q):
        raise GuideError(
            "A deterministic guide has no density, so its ELBO and gaps are undefined: fit "
            "AmortizedNormal."
        )
    if not all(one.real for one in latents):
        raise DataError(
            "gap_ledger needs real-valued latents, and a latent site of the rows is discrete or bounded: "
            "use importance_bound, or sum discrete states out of the model."
        )
    inner: Any = None if q is None else unwrapped(q)
    if isinstance(inner, MultivariateNormal) and len(latents) == 1:
        return inner.loc.clone(), inner.scale_tril.clone(), FULL
    if type(inner) in (Normal, dist.Normal) and q.event_shape.numel() == inner.loc[0].numel():
        flat = inner.loc.reshape(len(x), -1), inner.scale.expand_as(inner.loc).reshape(len(x), -1)
        return flat[0].clone(), torch.diag_embed(flat[1]), DIAGONAL
    z, _ = draw_rows(fit, x, 400)
    mean = z.mean(0)
    centred = z - mean
    covariance = torch.einsum("kni,knj->nij", centred, centred) / (len(z) - 1)
    jitter = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] + 1e-12
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return mean, torch.linalg.cholesky(covariance + jitter * eye), ""


def best_normal(
    fit: Fit,
    x: Tensor,
    mean: Tensor,
    tril: Tensor,
    diagonal: bool,
    latents: tuple[Latent, ...],
    steps: int,
    particles: int = 16,
) -> tuple[Tensor, Tensor]:
    """The normals that maximise each row's ELBO: Adam on (n, width), all rows at once.

    In the coordinates of where a round starts, z = mean + L (a + B e), with a and B starting at 0
    and 1, so that one rate suits every row; a round's end is where the next one starts. Coarse
    rounds go on while some row still travels, two finer ones end. Antithetic draws, and only the
    gradient along the path of z, whose noise vanishes where q* is the posterior (Roeder, Wu &
    Duvenaud 2017, Sticking the landing).
    """
    n, D = mean.shape
    below = torch.tril_indices(D, D, -1) if not diagonal else torch.zeros(2, 0, dtype=torch.long)
    repeated = x.repeat(particles, *(1 for _ in x.shape[1:]))

    def gradient(free: Tensor, mean: Tensor, tril: Tensor, noise: Tensor) -> Tensor:
        with torch.enable_grad():
            free = free.detach().requires_grad_(True)
            centre, scale = _moved(free, mean, tril, below)
            both = torch.cat([noise, -noise]).movedim(0, -1)  # (n, D, particles)
            z = (centre.unsqueeze(-1) + scale @ both).movedim(-1, 0)
            terms = row_terms(fit, repeated, z.reshape(-1, D), latents)
            pull = torch.linalg.solve_triangular(scale.detach().mT, both, upper=True)
            along = (z * pull.movedim(-1, 0)).sum()  # -log q along the path of z
            energy = ((terms.prior + terms.likelihood).sum() + along) / particles
            (found,) = torch.autograd.grad(energy, free)
        return found.detach()

    free = x.new_zeros(n, 2 * D + below.shape[1])
    noise = x.new_zeros(particles // 2, n, D)
    step = recorded(gradient, free, mean, tril, noise)
    coarse = 0
    while True:
        rate = COARSE if coarse < MOST_ROUNDS else FINE[coarse - MOST_ROUNDS]
        free = _ascent(lambda f, e: step(f, mean, tril, e), torch.zeros_like(free), noise, rate, steps)  # noqa: B023 # fmt: skip
        mean, tril = _moved(free, mean, tril, below)
        coarse += 1
        if rate == COARSE and float(free.abs().max()) < SETTLED:
            coarse = MOST_ROUNDS
        if coarse == MOST_ROUNDS + len(FINE):
            return mean, tril


def _moved(free: Tensor, mean: Tensor, tril: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """mean + L a and L B, with a, log diag B and B's entries `below` its diagonal in `free` (n, width)."""
    n, D = mean.shape
    shift, log_scale, rest = free.split([D, D, below.shape[1]], -1)
    B = torch.diag_embed(log_scale.exp())
    if below.shape[1]:
        at = (torch.arange(n)[:, None], below[0][None], below[1][None])
        B = B.index_put(at, rest)
    return mean + (tril @ shift.unsqueeze(-1)).squeeze(-1), tril @ B


def _ascent(
    gradient: Callable[[Tensor, Tensor], Tensor],
    free: Tensor,
    noise: Tensor,
    rate: float,
    steps: int,
) -> Tensor:
    """Adam, the rate falling along a cosine; the mean of the last quarter of the path."""
    first, second = torch.zeros_like(free), torch.zeros_like(free)
    last, total = max(1, steps // 4), torch.zeros_like(free)
    for k in range(steps):
        g = gradient(free, torch.randn_like(noise)).nan_to_num(0.0, 0.0, 0.0)
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g.square()
        scaled = (first / (1 - 0.9 ** (k + 1))) / ((second / (1 - 0.99 ** (k + 1))).sqrt() + 1e-8)
        free = free + rate * 0.5 * (1 + math.cos(math.pi * k / steps)) * scaled
        total = total + free if k >= steps - last else total
    return total / last
