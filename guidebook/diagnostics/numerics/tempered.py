r"""Chains between a standard normal and a density: Hamiltonian transitions at rising temperatures.

.. math:: f_t(v) = q_0(v)^{1-t}\, p(x, v)^t

of n rows with C chains each, all at once, in coordinates v in which q_0 is a standard normal; m = C n.

Sources: Neal (2001), Annealed importance sampling; Wu, Burda, Salakhutdinov & Grosse (2017), On the
quantitative analysis of decoder-based generative models.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

WARM, CLIMB, CLIMB_RATE = 0.1, 60, 0.1
"""A temperature at which an explanation with a thousandth of the posterior holds chains, from where they
climb; steps, and the length of the first in standard deviations of the prior."""
TARGET, LEAPFROGS = 0.65, 4
"""The acceptance rate that steps are tuned to (Wu et al. 2017); leapfrog steps of a transition."""

Densities = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(white z (m, D), temperature (m,)) -> log p(x, z), log q_0(z), gradient of log f_t, all of m rows."""


def schedule_of(temperatures: int) -> list[float]:
    """Sigmoidal, closer at both ends (Wu et al. 2017)."""
    ends = torch.sigmoid(torch.linspace(-4, 4, temperatures, dtype=torch.float64))
    return [float(t) for t in (ends - ends[0]) / (ends[-1] - ends[0])]


class Chains:
    """Chains at one set of step sizes: (temperatures, n), frozen."""

    def __init__(self, f: Densities, steps: Tensor, n: int, chains: int) -> None:
        self.f, self.steps, self.n, self.chains = f, steps, n, chains

    def move(self, v: Tensor, t: float, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """One Hamiltonian transition; the new place, log p - log q_0 there, acceptance (m,)."""
        step = self.steps[k].repeat(self.chains)
        return _hmc(self.f, v, step, t)

    def forward(
        self, v: Tensor, schedule: list[float], warm: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """log w (chains, n), where the chains end, mean acceptance (n,); appends to `warm` where they are
        when the temperature first exceeds WARM.
        """
        log_p, log_q, _ = self.f(v, v.new_zeros(len(v)))
        ratio = (log_p - log_q).double()
        total, accepted = torch.zeros_like(ratio), torch.zeros_like(ratio)
        for k in range(1, len(schedule)):
            total = total + (schedule[k] - schedule[k - 1]) * ratio
            if k < len(schedule) - 1:
                v, ratio, rate = self.move(v, schedule[k], k)
                accepted += rate
                if warm is not None and not warm and schedule[k] > WARM:
                    warm.append(v)
        shape = (self.chains, self.n)
        mean = accepted.reshape(shape).mean(0) / max(1, len(schedule) - 2)
        return total.reshape(shape), v, mean.cpu().numpy()

    def climb(self, v: Tensor) -> Tensor:
        """Where steepest ascent of log p(x, z) comes to from v: Adam, the rate falling to a twentieth."""
        one = v.new_ones(len(v))
        first, second = torch.zeros_like(v), torch.zeros_like(v)
        for k in range(CLIMB):
            gradient = self.f(v, one)[2]
            first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient.square()
            unit = (first / (1 - 0.8 ** (k + 1))) / ((second / (1 - 0.95 ** (k + 1))).sqrt() + 1e-8)
            v = v + CLIMB_RATE * 0.05 ** (k / CLIMB) * unit
        return v

    def backward(self, v: Tensor, schedule: list[float]) -> Tensor:
        """log w (chains, n) of the same path run from t = 1 to t = 0."""
        log_p, log_q, _ = self.f(v, v.new_ones(len(v)))
        ratio = (log_p - log_q).double()
        total = torch.zeros_like(ratio)
        for k in range(len(schedule) - 1, 0, -1):
            total = total + (schedule[k] - schedule[k - 1]) * ratio
            if k > 1:
                v, ratio, _ = self.move(v, schedule[k - 1], k - 1)
        return total.reshape(self.chains, self.n)


def _hmc(f: Densities, v: Tensor, step: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.full_like(step, t)
    log_p, log_q, gradient = f(v, at)
    ratio = (log_p - log_q).double()
    momentum = torch.randn_like(v)
    start = _energy(log_p, log_q, t, momentum)
    place, size = v, step.unsqueeze(-1)
    for _ in range(LEAPFROGS):
        momentum = momentum + 0.5 * size * gradient
        place = place + size * momentum
        new_p, new_q, gradient = f(place, at)
        momentum = momentum + 0.5 * size * gradient
    gain = (_energy(new_p, new_q, t, momentum) - start).nan_to_num(-math.inf, -math.inf, -math.inf)
    accept = torch.rand_like(gain).log() < gain
    new_ratio = (new_p - new_q).double()
    return (
        torch.where(accept.unsqueeze(-1), place, v),
        torch.where(accept, new_ratio, ratio),
        gain.clamp(max=0).exp(),
    )


def _energy(log_p: Tensor, log_q: Tensor, t: float, momentum: Tensor) -> Tensor:
    kinetic = 0.5 * momentum.double().square().sum(-1)
    return (1 - t) * log_q.double() + t * log_p.double() - kinetic


def tuned(f: Densities, n: int, D: int, chains: int, schedule: list[float], like: Tensor) -> Tensor:
    """Step sizes (temperatures, n), from a forward run whose chains are not used again."""
    v = torch.randn(chains * n, D, dtype=like.dtype, device=like.device)
    log_step = torch.full((n,), math.log(0.8 / D**0.25), dtype=like.dtype, device=like.device)
    kept = []
    for t in schedule:
        v, _, rate = _hmc(f, v, log_step.exp().repeat(chains), t)
        off = rate.reshape(chains, n).mean(0) - TARGET
        log_step = (log_step + 0.3 * off.to(log_step)).clamp(math.log(1e-3), math.log(1.5))
        kept.append(log_step.clone())
    history = torch.stack(kept)
    # The mean of a few temperatures around each: the rate of a handful of chains is noisy.
    padded = torch.cat([history[:1].expand(3, n), history, history[-1:].expand(3, n)])
    return padded.unfold(0, 7, 1).mean(-1).exp()


def resampled(v: Tensor, log_w: Tensor) -> Tensor:
    """Each row's chains, drawn again by their weights."""
    chains, n = log_w.shape
    chosen = torch.multinomial((log_w - log_w.amax(0)).exp().mT, chains, replacement=True).mT
    return v.reshape(chains, n, -1)[chosen, torch.arange(n, device=v.device)].reshape(len(v), -1)


def log_mean(log_w: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """log mean w over the chains (n,), and its standard error by the delta method."""
    chains = len(log_w)
    top = log_w.amax(0)
    w = (log_w - top).exp()
    value = top + w.mean(0).log()
    error = w.std(0) / w.mean(0) / math.sqrt(chains)
    return value.cpu().numpy(), error.cpu().numpy()
