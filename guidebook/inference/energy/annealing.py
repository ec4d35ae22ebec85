"""From a hot Boltzmann machine to a cold one: log Z by annealed importance sampling, and minima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.guides.energy.spin_gibbs import draw_units, gibbs_sweep
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import (
    Boltzmann,
    check_couplings,
    check_temperature,
    log_two_cosh,
)


class AnnealedEstimate(NamedTuple):
    """`log_normaliser`, log Z; `standard_error` of it; `effective_size`, how many of the chains
    carry the estimate: with less than some tens, take more temperatures; `log_weights` (chains,).
    """

    log_normaliser: float
    standard_error: float
    effective_size: float
    log_weights: Tensor


@torch.no_grad()
def annealed_importance_sampling(
    machine: BoltzmannMachine | Boltzmann,
    *,
    chains: int = 256,
    temperatures: int = 1000,
    seed: int = 0,
) -> AnnealedEstimate:
    r"""log Z of a Boltzmann machine of any size, and its standard error.

    From independent units (t = 0, biases only), whose normaliser is known, to the machine (t = 1):

    .. math:: f_t(x) = \exp\left(\beta (b^\top x + t\, \tfrac12 x^\top W x)\right), \qquad
        w = \prod_k f_{t_k}(x_k) / f_{t_{k-1}}(x_k), \qquad E[w] = Z / Z_0

    with x_{k+1} from a Gibbs sweep at t_k. The estimate is log of the mean weight, biased downwards
    by about half its variance; its standard error is sd(w) / (mean(w) sqrt(chains)). In a restricted
    machine the hidden units are summed out and a sweep draws a layer at a time.

    The standard error speaks of the regions that the chains have found: where E has deep separate
    minima, compare with more temperatures.

    Raises SettingError unless chains >= 2 and temperatures >= 2; ModelError as `check_couplings`.

    Source: Neal (2001), Annealed importance sampling; for Boltzmann machines: Salakhutdinov & Murray
    (2008), On the quantitative analysis of deep belief networks.
    """
    if chains < 2 or temperatures < 2:
        raise SettingError(
            f"chains={chains}, temperatures={temperatures}: give at least 2 of each."
        )
    generator = torch.Generator(machine.bias.device).manual_seed(seed)
    steps = torch.linspace(0, 1, temperatures).tolist()
    if isinstance(machine, BoltzmannMachine) and machine.restricted:
        log_w, base = _restricted(machine, chains, steps, generator)
    else:
        joint = machine.joint() if isinstance(machine, BoltzmannMachine) else machine
        log_w, base = _general(joint, chains, steps, generator)
    log_w = log_w.double()
    w = (log_w - log_w.max()).exp()
    value = float(base) + float(log_w.logsumexp(0)) - math.log(chains)
    error = float(w.std() / w.mean()) / math.sqrt(chains)
    return AnnealedEstimate(value, error, float(w.sum().square() / w.square().sum()), log_w)


def _general(
    joint: Boltzmann, chains: int, steps: list[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    W, b, beta = joint.weights, joint.bias, float(joint.beta)
    check_couplings(W, b, beta)
    x = draw_units(b.unsqueeze(-1).expand(-1, chains), beta, generator)
    log_w = b.new_zeros(chains, dtype=torch.float64)
    for before, now in pairwise(steps):
        log_w += (now - before) * beta * 0.5 * (W @ x * x).sum(0)
        if now < 1:
            x = gibbs_sweep(x, now * W, b, beta, generator)
    return log_w, log_two_cosh(beta * b).sum()


def _restricted(
    machine: BoltzmannMachine, chains: int, steps: list[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    V, beta, bias = machine.visible, machine.beta, machine.bias.detach()
    across, b, c = machine.weights[:V, V:], bias[:V], bias[V:]
    v = draw_units(b.expand(chains, -1), beta, generator)
    log_w = b.new_zeros(chains, dtype=torch.float64)
    for before, now in pairwise(steps):
        field = v @ across
        log_w += log_two_cosh(beta * (c + now * field)).sum(-1)
        log_w -= log_two_cosh(beta * (c + before * field)).sum(-1)
        h = draw_units(c + now * field, beta, generator)
        v = draw_units(b + now * h @ across.mT, beta, generator)
    return log_w, log_two_cosh(beta * bias).sum()


@torch.no_grad()
def anneal(
    weights: Tensor,
    bias: Tensor,
    betas: Sequence[float] | Tensor,
    *,
    chains: int = 128,
    seed: int = 0,
) -> Tensor:
    """States (chains, D) of low energy: Gibbs sweeps at rising beta, one sweep for each of `betas`.

    Raises ModelError and SettingError as `check_couplings`; SettingError without betas or chains.

    Source: Kirkpatrick, Gelatt & Vecchi (1983), Optimization by simulated annealing.
    """
    schedule = torch.as_tensor(betas).tolist()
    check_couplings(weights, bias)
    check_temperature(torch.as_tensor(betas))
    if not schedule or chains < 1:
        raise SettingError(f"{len(schedule)} betas and {chains} chains: give at least 1 of each.")
    generator = torch.Generator(bias.device).manual_seed(seed)
    x = draw_units(weights.new_zeros(len(bias), chains), 1.0, generator)
    for beta in schedule:
        x = gibbs_sweep(x, weights, bias, beta, generator)
    return x.mT.contiguous()
