"""A Gaussian on the unconstrained scale, its ELBO, and the one of highest ELBO near it.

    ELBO(m, L) = E_q[log p(x, u)] + D/2 (1 + log 2 pi) + log |det L|,     q = N(m, L L'),

estimated over antithetic draws u = m + L e, with the same e at every call, so that two Gaussians are
compared without noise between them.

Source: Opper and Archambeau 2009, "The variational Gaussian approximation revisited".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from guidebook.programs.potential import Potential

DRAWS = 256
ROUNDS = 60
"""Fixed-point steps that bring a Gaussian to the one of highest ELBO."""


@dataclass(frozen=True)
class Start:
    """N(center, factor factor'), factor (D, D) lower triangular or (D,); and how it was come by.

    log_mass is Laplace's estimate of the log integral around the centre:
    log p(x, u) + D/2 log(2 pi) + log |det factor|. `mode` says that the centre is a local maximum.
    """

    center: Tensor
    factor: Tensor
    log_density: float
    mode: bool

    @property
    def log_mass(self) -> float:
        diagonal = self.factor if self.factor.dim() == 1 else self.factor.diagonal()
        log_det = float(diagonal.log().sum())
        return self.log_density + 0.5 * len(self.center) * math.log(2 * math.pi) + log_det


class _At(NamedTuple):
    """What one evaluation at the draws of a Gaussian gives: the ELBO, -inf if not finite, and the gradients
    at the draws with their noise, both (S, D).
    """

    elbo: float
    grad: Tensor
    noise: Tensor


def elbo(potential: Potential, start: Start) -> float:
    """E_q log p(x, u) - E_q log q(u) of the start's Gaussian, over fixed draws; -inf if not finite."""
    return _at(potential, start).elbo


def _at(potential: Potential, start: Start) -> _At:
    u, noise = _draws(potential, start)
    log_density, grad = potential.value_and_grad(u)
    diagonal = start.factor if start.factor.dim() == 1 else start.factor.diagonal()
    entropy = diagonal.log().sum() + 0.5 * noise.square().sum(1).mean()
    value = float(log_density.mean() + entropy) + 0.5 * noise.shape[1] * math.log(2 * math.pi)
    return _At(value if math.isfinite(value) else -math.inf, grad, noise)


def _draws(potential: Potential, start: Start) -> tuple[Tensor, Tensor]:
    """Antithetic draws of the Gaussian, the same noise for every call (u and noise, (S, D))."""
    dimension = len(start.center)
    half = max(DRAWS, 4 * dimension) if potential.vectorised else max(16, 2 * dimension)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(half, dimension, generator=generator, dtype=torch.float64)
    noise = torch.cat([noise, -noise]).to(start.center)
    factor = start.factor
    shift = noise * factor if factor.dim() == 1 else noise @ factor.T
    return start.center + shift, noise


def fitted(potential: Potential, start: Start, iterations: int = ROUNDS) -> Start:
    """The Gaussian of highest ELBO from here, by damped fixed-point steps over fixed draws.

    At the optimum E_q[grad log p] = 0 and E_q[-Hessian log p] = C^-1 (Opper and Archambeau 2009,
    "The variational Gaussian approximation revisited"). By Stein's lemma the expected Hessian is
    the slope of the gradient on the draws, so no second derivative is taken.
    """
    rate, here = 1.0, _at(potential, start)
    for _ in range(iterations):
        if not bool(here.grad.isfinite().all()):
            return start
        # in whitened coordinates: g = L' grad, slope about -I when done
        white = here.grad @ start.factor
        mean = white.mean(0)
        # not LAPACK's default driver, whose last digits depend on where its workspace lies in memory
        slope = torch.linalg.lstsq(here.noise, white - mean, driver="gels").solution
        curvature = -0.5 * (slope + slope.T)
        eye = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        gap = max(float(mean.abs().max()), float((curvature - eye).abs().max()))
        if gap < 1e-3:
            return start
        while True:
            step = _stepped(start, mean, curvature, rate)
            trial = _at(potential, step)
            if trial.elbo > here.elbo:
                break
            rate /= 2
            if rate < 1e-3:
                return start
        start, here, rate = step, trial, min(1.0, 1.5 * rate)
    return start


def _stepped(start: Start, mean: Tensor, curvature: Tensor, rate: float) -> Start:
    values, vectors = torch.linalg.eigh(curvature)
    precision = (1 - rate) + rate * values.clamp(0.1, 10.0)  # at most tenfold a step
    inner = vectors * precision.rsqrt()
    move = vectors @ ((vectors.T @ mean) / precision)
    length = float(move.norm()) / math.sqrt(len(move))
    move = move * min(rate, 3.0 / max(length, 1e-30))
    inner = torch.linalg.cholesky(inner @ inner.T)
    return Start(start.center + start.factor @ move, start.factor @ inner, -math.inf, mode=False)
