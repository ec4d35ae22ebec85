r"""Correlations of a Boltzmann machine's units, in the data and in the model: the two learning terms.

.. math:: \frac{\partial}{\partial W_{ij}} \frac1n \sum_n \log p(v_n) = \beta \left(
    \langle x_i x_j \rangle_{\text{data}} - \langle x_i x_j \rangle_{\text{model}} \right)

Source: Ackley, Hinton & Sejnowski (1985), A learning algorithm for Boltzmann machines.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.guides.energy.spin_gibbs import draw_units, gibbs_sweep
from guidebook.models.energy.boltzmann import BoltzmannMachine, layer_table, summed_out
from guidebook.models.energy.energy import Boltzmann
from guidebook.models.energy.enumeration import (
    MOST_UNITS,
    configurations,
    enumerate_moments,
    log_weights,
    table_moments,
)

Moments = tuple[Tensor, Tensor]
"""E[x] (D,) and E[x x'] (D, D)."""


ENUMERATED_HIDDEN = 12
"""Hidden units coupled among themselves that are summed out exactly for every row; beyond, mean
field."""
FRESH_CHAINS, FRESH_SWEEPS = 1000, 100
"""Those that measure the gradient at the end, where it cannot be enumerated."""


class Correlations:
    """A machine's parameters, and the gradient of its mean log likelihood at them."""

    def __init__(
        self,
        machine: BoltzmannMachine,
        term: str,
        sweeps: int,
        weight_decay: float,
        generator: torch.Generator,
    ) -> None:
        self.machine, self.generator = machine, generator
        self.term, self.sweeps, self.weight_decay = term, sweeps, weight_decay
        self.visible, self.hidden, self.beta = machine.visible, machine.hidden, machine.beta
        self.restricted = machine.restricted
        self.pairs = machine.pairs
        self.parameters = [machine.couplings.data, machine.bias.data]  # the machine's own memory
        self.seen, self.unseen = slice(0, self.visible), slice(self.visible, None)

    @torch.no_grad()
    def gradient(self, v: Tensor, state: Tensor) -> tuple[list[Tensor], float, Tensor]:
        """The slope in couplings and bias, the objective of these rows, the chains after it."""
        joint = self.joint()
        data = self._data_moments(joint, v)
        if self.term == "enumeration":
            model, log_z = self._enumerated(joint)
            loss = (log_z - self._log_weight(joint, v)).sum()
        else:
            loss = self._pseudo_loss(joint, v)
            if self.term == "gibbs":
                state = self.coin_flips(len(state))
            start = self._from_rows(joint, v) if self.term == "cd" else state
            state = self._advance(joint, start, self.sweeps)
            model = self._smoothed(joint, state)
        return self._slope(data, model), float(loss), state

    def joint(self) -> Boltzmann:
        """The distribution of all units, not normalised."""
        couplings, bias = self.parameters
        W = bias.new_zeros(len(bias), len(bias))
        W[self.pairs[0], self.pairs[1]] = couplings
        return Boltzmann(W + W.mT, bias, self.beta, 0.0, validate_args=False)

    def move(
        self, slope: list[Tensor], velocity: list[Tensor], rate: float, momentum: float
    ) -> None:
        """One step uphill, in place."""
        for parameter, speed, part in zip(self.parameters, velocity, slope, strict=True):
            speed.mul_(momentum).add_(part)
            parameter.add_(speed, alpha=rate)

    @torch.no_grad()
    def distance(self, v: Tensor, few: bool) -> float:
        """The largest part of the gradient, by enumeration or by chains started afresh.

        Persistent chains that stopped mixing, and those of contrastive divergence that never leave
        the data, agree with the data whatever the model has become; new ones do not.
        """
        joint = self.joint()
        if few:
            model, _ = self._enumerated(joint)
        else:
            x = self._advance(joint, self.coin_flips(FRESH_CHAINS), FRESH_SWEEPS)
            model = self._smoothed(joint, x)
        return largest(self._slope(self._data_moments(joint, v), model))

    def coin_flips(self, chains: int) -> Tensor:
        """States (chains, D) at random."""
        bias = self.parameters[1]
        return draw_units(bias.new_zeros(chains, len(bias)), 1.0, self.generator)

    def _slope(self, data: Moments, model: Moments) -> list[Tensor]:
        one, other = self.pairs
        couplings = self.beta * (data[1] - model[1])[one, other]
        return [
            couplings - self.weight_decay * self.parameters[0],
            self.beta * (data[0] - model[0]),
        ]

    def _data_moments(self, joint: Boltzmann, v: Tensor) -> Moments:
        """Visible units as observed, hidden ones from p(h | v) of each row."""
        W, b, V = joint.weights, joint.bias, self.visible
        if not self.hidden:
            return v.mean(0), v.mT @ v / len(v)
        field = b[V:] + v @ W[:V, V:]
        inner = None
        if self.restricted:  # no couplings among hidden units, so no moments of their pairs
            h = (self.beta * field).tanh()
        elif self.hidden <= ENUMERATED_HIDDEN:
            h, pairs = enumerate_moments(W[V:, V:], field, self.beta)
            inner = pairs.mean(0)
        else:
            h = BlockMeanField(self.machine, restarts=1).approximation(v).q.mean
        x = torch.cat([v, h], -1)
        second = x.mT @ x / len(x)
        if inner is not None:
            second[V:, V:] = inner
        return x.mean(0), second

    def _enumerated(self, joint: Boltzmann) -> tuple[Moments, Tensor]:
        """The model's moments and log Z."""
        W, b = joint.weights, joint.bias
        if not self.restricted:
            table = log_weights(W, b, self.beta)
            return table_moments(table, b), table.flatten(-2).logsumexp(-1)
        small, large = self.seen, self.unseen
        if self.hidden <= self.visible:
            small, large = large, small
        units = min(self.visible, self.hidden)
        x = configurations(units, b)
        table = layer_table(units, small, large, joint)
        p = table.softmax(0)
        other = (self.beta * (b[large] + x @ W[small, large])).tanh()
        first, second = torch.zeros_like(b), torch.zeros_like(W)
        first[small], first[large] = p @ x, p @ other
        across = (p.unsqueeze(-1) * x).mT @ other
        second[small, large], second[large, small] = across, across.mT
        return (first, second), table.logsumexp(0)

    def _advance(self, joint: Boltzmann, x: Tensor, sweeps: int) -> Tensor:
        """x (C, D) after so many free sweeps."""
        W, b, V, beta = joint.weights, joint.bias, self.visible, self.beta
        if not self.restricted:
            x = x.mT.contiguous()
            for _ in range(sweeps):
                x = gibbs_sweep(x, W, b, beta, self.generator)
            return x.mT
        v, h = x[:, :V], x[:, V:]
        for _ in range(sweeps):
            v = draw_units(b[:V] + h @ W[V:, :V], beta, self.generator)
            h = draw_units(b[V:] + v @ W[:V, V:], beta, self.generator)
        return torch.cat([v, h], -1)

    def _smoothed(self, joint: Boltzmann, x: Tensor) -> Moments:
        """Moments of x (C, D); where it is known, with E[h | v] for h: less noise, the same mean."""
        if self.restricted:
            V = self.visible
            field = joint.bias[V:] + x[:, :V] @ joint.weights[:V, V:]
            x = torch.cat([x[:, :V], (self.beta * field).tanh()], -1)
        return x.mean(0), x.mT @ x / len(x)

    def _from_rows(self, joint: Boltzmann, v: Tensor) -> Tensor:
        field = joint.bias[self.unseen] + v @ joint.weights[self.seen, self.unseen]
        return torch.cat([v, draw_units(field, self.beta, self.generator)], -1)

    def _log_weight(self, joint: Boltzmann, v: Tensor) -> Tensor:
        return summed_out(v, self.seen, self.unseen, joint, self.restricted)

    def _pseudo_loss(self, joint: Boltzmann, v: Tensor) -> Tensor:
        """- log pseudo-likelihood: of every unit, or estimated by one unit of every row."""
        if not self.hidden:
            field = v @ joint.weights + joint.bias
            return -F.logsigmoid(2 * self.beta * v * field).sum()
        if not self.restricted and self.hidden > ENUMERATED_HIDDEN:
            return torch.zeros(())  # not known for so many coupled hidden units
        unit = torch.randint(v.shape[1], (len(v), 1), generator=self.generator, device=v.device)
        flipped = v.scatter(1, unit, -v.gather(1, unit))
        gain = self._log_weight(joint, v) - self._log_weight(joint, flipped)
        return -v.shape[1] * F.logsigmoid(gain).sum()


def largest(slope: list[Tensor]) -> float:
    """The largest part of a slope, in size."""
    return max(float(part.abs().max()) for part in slope if part.numel())


def few_enough(machine: BoltzmannMachine) -> bool:
    """Whether the states of a machine, or of its smaller layer, can be enumerated."""
    V, H = machine.visible, machine.hidden
    return min(V, H) <= MOST_UNITS if machine.restricted else V + H <= MOST_UNITS
