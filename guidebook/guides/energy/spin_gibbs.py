r"""Gibbs sampling of units -1 and +1 from their local fields, all chains at once.

.. math:: p(x_i = +1 \mid x_{-i}) = 1 / (1 + \exp(-2 \beta a_i)), \qquad a = W x + b

Source: Geman & Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian
restoration of images; Hinton & Sejnowski (1986), Learning and relearning in Boltzmann machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.errors import DataError
from guidebook.guides.energy.blocks import Machine, check_hidden, clamped_rows


@torch.no_grad()
def gibbs_sweep(
    x: Tensor,
    weights: Tensor,
    bias: Tensor,
    beta: Tensor | float,
    generator: torch.Generator,
    *,
    first: int = 0,
    block: int = 64,
) -> Tensor:
    """Every unit from `first` on, in order, drawn from its complete conditional, in all chains.

    Arguments: x (D, C), one column a chain (a unit's states lie together); weights (D, D), bias (D,)
    or (D, C); beta, a number or (C,). Returns a new x.

    The fields of `block` units at a time come from one matrix product, and what changes within the
    block is added to them: the same sweep as unit by unit, at the speed of a product.
    """
    x, weights = x.clone(), weights.detach()
    D, C = x.shape
    noise = torch.rand(D - first, C, generator=generator, dtype=x.dtype, device=x.device)
    # p = 1 / (1 + exp(-2 beta a)) > u  is  a > logit(u) / (2 beta); at beta = 0 a fair coin
    threshold = noise.logit_().div_(2 * torch.as_tensor(beta, dtype=x.dtype, device=x.device))
    bias = bias if bias.dim() == 2 else bias.unsqueeze(-1)
    change = x.new_empty(min(block, D - first), C)
    for start in range(first, D, block):
        stop = min(start + block, D)
        excess = weights[start:stop] @ x
        excess += bias[start:stop] - threshold[start - first : stop - first]
        own = weights[start:stop, start:stop]
        if x.device.type == "cpu":  # the same memory: a call of NumPy costs a third of one of torch
            _one_after_the_other(
                x[start:stop].numpy(), excess.numpy(), own.numpy(), change.numpy(), np.copysign
            )
        else:
            _one_after_the_other(x[start:stop], excess, own, change, torch.copysign)
    return x


def _one_after_the_other(x: Any, excess: Any, own: Any, change: Any, copysign: Any) -> None:
    """Draws the units of a block in place; `excess` is a - threshold before the block changed."""
    one = abs(x[0])
    for i in range(len(x)):
        now = excess[i]
        if i:
            now = now + own[i, :i] @ change[:i]
        new = copysign(one, now)
        change[i] = new - x[i]
        x[i] = new


def draw_units(field: Tensor, beta: Tensor | float, generator: torch.Generator) -> Tensor:
    """Independent units -1 or +1 in the fields a (...): p(+1) = 1 / (1 + exp(-2 beta a))."""
    noise = torch.rand(field.shape, generator=generator, dtype=field.dtype, device=field.device)
    return torch.where((2 * beta * field).sigmoid() > noise, 1.0, -1.0).to(field.dtype)


class SpinGibbs(nn.Module):
    """Gibbs sampling of a Boltzmann machine: the structure that the engine `gibbs` asks for.

    With v given its units are clamped and h (chains, n, H) is drawn given each row; without v the
    whole machine runs free, with v and h (chains, n, V), (chains, n, H) in the state, n = 1 or the
    data's `size`. A restricted machine draws a layer at a time, any other unit by unit.

    Arguments: `machine`; `clamped`, whether v will be given: it decides which `sites` are reported.
    Raises GuideError for a clamped machine without hidden units; DataError where v is given and
    should not be, or the other way round.
    """

    def __init__(self, machine: Machine, *, clamped: bool = True) -> None:
        super().__init__()
        if clamped:
            check_hidden(machine)
        self._machine = (machine,)
        self.clamped = clamped and machine.visible > 0
        there = {"v": machine.visible > 0 and not self.clamped, "h": machine.hidden > 0}
        self.sites = tuple(name for name, kept in there.items() if kept)
        self._read: tuple[Any, Tensor] | None = None

    def initial(
        self, data: Mapping[str, Any], chains: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A random state of every chain."""
        machine = self._machine[0]
        v = self._given(data)
        n = len(v) if v is not None else int(data.get("size") or 1)
        zeros = {
            "v": machine.bias.new_zeros(chains, n, machine.visible).detach(),
            "h": machine.bias.new_zeros(chains, n, machine.hidden).detach(),
        }
        return {name: draw_units(zeros[name], 1.0, generator) for name in self.sites}

    @torch.no_grad()
    def sweep(
        self, state: Mapping[str, Tensor], data: Mapping[str, Any], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Every unit that is not clamped drawn once, given all others."""
        machine, V = self._machine[0], self._machine[0].visible
        W, b = self._weights(), machine.bias
        v = self._given(data)
        if machine.restricted and V and machine.hidden:
            seen = state["v"] if v is None else v
            if v is None:
                seen = draw_units(b[:V] + state["h"] @ W[V:, :V], machine.beta, generator)
            shape = state["h"].shape
            field = (b[V:] + seen @ W[:V, V:]).expand(shape)
            h = draw_units(field, machine.beta, generator)
            return {"h": h} if v is not None else {"v": seen, "h": h}
        lead = state[self.sites[0]].shape[:-1]
        parts = [state["v"]] if "v" in state else []
        parts += [v.expand(*lead, V)] if v is not None else []
        parts += [state["h"]] if "h" in state else []
        x = torch.cat(parts, -1).flatten(0, 1).mT.contiguous()
        x = gibbs_sweep(x, W, b, machine.beta, generator, first=0 if v is None else V)
        x = x.mT.reshape(*lead, -1)
        return {name: x[..., :V] if name == "v" else x[..., V:] for name in self.sites}

    def _weights(self) -> Tensor:
        """The machine's weights, made anew only when its parameters have changed."""
        machine: Any = self._machine[0]
        parameters = machine.parameters() if isinstance(machine, nn.Module) else ()
        stamp = [(p.data_ptr(), p._version) for p in parameters]
        if self._read is None or not stamp or self._read[0] != stamp:
            self._read = (stamp, machine.weights.detach())
        return self._read[1]

    def _given(self, data: Mapping[str, Any]) -> Tensor | None:
        v = data.get("v")
        if self.clamped:
            return clamped_rows(self._machine[0], v)
        if v is not None:
            raise DataError(
                "v is given, but this guide samples the visible units too: use SpinGibbs(machine), "
                "which fixes them at v, or leave v out."
            )
        return None
