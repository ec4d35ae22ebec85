r"""Mean field for energy-based models: every unit by itself, or blocks that are exact within.

For units x in {-1, +1}^D with p(x) = exp(-beta E(x)) / Z and any q,

.. math:: \log Z \ \ge\ -\beta F(q) = E_q[-\beta E(x)] + H(q), \qquad \log Z + \beta F(q) = KL(q\|p)

Source: Saul & Jordan (1996), Exploiting tractable substructures in intractable networks; Wainwright
& Jordan (2008), Graphical models, exponential families, and variational inference, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from guidebook.errors import SettingError

LARGEST_BLOCK = 16


class SpinBlocks(TorchDistribution):
    """Units -1 or +1 in independent blocks, each block with a probability for each of its states.

    Arguments: `blocks`, index tensors that together hold every unit once; `tables`, for each block
    of k units the log probabilities (..., 2^k) of its states, the last unit changing fastest. Event
    shape (D,).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.integer_interval(-1, 1), 1)

    def __init__(self, blocks: Sequence[Tensor], tables: Sequence[Tensor]) -> None:
        self.blocks, self.tables = list(blocks), list(tables)
        units = sum(len(block) for block in blocks)
        super().__init__(tables[0].shape[:-1], torch.Size((units,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SpinBlocks:
        tables = [t.expand(*batch_shape, t.shape[-1]) for t in self.tables]
        return SpinBlocks(self.blocks, tables)

    def log_prob(self, x: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(x.shape[:-1], self.batch_shape)
        total = x.new_zeros(shape)
        for block, table in zip(self.blocks, self.tables, strict=True):
            powers = 2 ** torch.arange(len(block) - 1, -1, -1, device=x.device)
            state = ((x[..., block] > 0).long() * powers).sum(-1).expand(shape).unsqueeze(-1)
            total = total + table.expand(*shape, table.shape[-1]).gather(-1, state).squeeze(-1)
        return total

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own form)
        with torch.no_grad():
            parts = []
            for block, table in zip(self.blocks, self.tables, strict=True):
                parts.append(_states(len(block), table)[_drawn(table, torch.Size(sample_shape))])
            return torch.cat(parts, -1)[..., torch.cat(self.blocks).argsort()]

    @property
    def mean(self) -> Tensor:
        mean = self.tables[0].new_empty(*self.batch_shape, *self.event_shape)
        for block, table in zip(self.blocks, self.tables, strict=True):
            mean[..., block] = table.exp() @ _states(len(block), table)
        return mean

    @property
    def variance(self) -> Tensor:
        return 1 - self.mean.square()

    def entropy(self) -> Tensor:
        """The sum of the blocks' entropies, in nats."""
        each = [-(table.exp() * table.clamp_min(-1e30)).sum(-1) for table in self.tables]
        return torch.stack(each).sum(0)


def _drawn(table: Tensor, shape: torch.Size) -> Tensor:
    """States (shape, ...) drawn with the log probabilities (..., K), by their distribution function.

    Categorical would make a table for every draw inside torch.func.vmap.
    """
    heights = table.exp().cumsum(-1)
    noise = torch.rand(*heights.shape[:-1], shape.numel(), dtype=table.dtype, device=table.device)
    found = torch.searchsorted(heights.contiguous(), noise * heights[..., -1:])
    return found.clamp_max(table.shape[-1] - 1).movedim(-1, 0).reshape(*shape, *table.shape[:-1])


def _states(units: int, like: Tensor) -> Tensor:
    index = torch.arange(2**units, device=like.device).unsqueeze(-1)
    shifts = torch.arange(units - 1, -1, -1, device=like.device)
    return (index >> shifts & 1).to(like.dtype) * 2 - 1


class MeanField(NamedTuple):
    """`q`, batch shape (...); `bound` (...), -beta F(q) <= log Z; `history` (sweeps, ...), its way
    up, of the start that ended highest; `settled`, whether the last sweep raised none by more than
    the tolerance.
    """

    q: SpinBlocks
    bound: Tensor
    history: Tensor
    settled: bool


@torch.no_grad()
def mean_field_fixed_point(
    weights: Tensor,
    bias: Tensor,
    beta: float = 1.0,
    *,
    blocks: int | Sequence[Sequence[int]] = 1,
    sweeps: int = 500,
    tolerance: float = 1e-9,
    restarts: int = 8,
    seed: int = 0,
) -> MeanField:
    r"""The product of blocks q(x) = prod_B q_B(x_B) with the highest bound that was found.

    Each block in turn is set to its best given the means m of the others, so the bound never falls:

    .. math:: q_B(x_B) \propto \exp\left(\beta(\tfrac12 x_B^\top W_{BB} x_B
        + (b_B + W_{B,-B}\, m_{-B})^\top x_B)\right)

    For blocks of one unit this is m_i = tanh(beta a_i). The bound has several maxima: of `restarts`
    starts (the first at the bias alone, the others random) the best is kept, for each element of
    the batch.

    Arguments: `weights` (D, D), `bias` (..., D); `blocks`, a number of consecutive units a block, or
    the units of every block; a batch is a set of rows whose clamped units enter through the bias.

    Raises SettingError for blocks above 16 units or that do not hold each unit once.
    """
    D = bias.shape[-1]
    parts = [torch.tensor(part, device=bias.device) for part in blocks_of(blocks, D)]
    # by NumPy: inside torch.func.vmap torch's own numbers would differ from draw to draw
    noise = np.random.default_rng(seed).uniform(-1, 1, (max(1, restarts), *bias.shape))
    m = torch.from_numpy(noise).to(bias)
    m[0] = (beta * bias).tanh()
    tables = [m.new_empty(0)] * len(parts)
    states = [_states(len(part), bias) for part in parts]
    inner = [0.5 * ((x @ weights[p][:, p]) * x).sum(-1) for x, p in zip(states, parts, strict=True)]
    history: list[Tensor] = []
    settled = False
    while len(history) < sweeps and not settled:
        for k, part in enumerate(parts):
            own = weights[part][:, part]
            field = bias[..., part] + m @ weights[:, part] - m[..., part] @ own
            tables[k] = (beta * (inner[k] + field @ states[k].mT)).log_softmax(-1)
            m[..., part] = tables[k].exp() @ states[k]
        history.append(_bound(weights, bias, beta, parts, tables, inner, m))
        if len(history) > 1:
            gain = (history[-1] - history[-2]).max()
            settled = bool(gain <= tolerance * (1 + history[-1].abs().max()))
    bounds = torch.stack(history)
    best = bounds[-1].argmax(0)
    chosen = [_choose(table, best) for table in tables]
    way = bounds.gather(1, best.expand(len(bounds), 1, *best.shape)).squeeze(1)
    return MeanField(SpinBlocks(parts, chosen), way[-1], way, settled)


def _bound(
    weights: Tensor,
    bias: Tensor,
    beta: float,
    parts: list[Tensor],
    tables: list[Tensor],
    inner: list[Tensor],
    m: Tensor,
) -> Tensor:
    """E_q[-beta E] + H(q): means between the blocks, tables within them."""
    total = beta * ((0.5 * m @ weights + bias) * m).sum(-1)
    for part, table, pairs in zip(parts, tables, inner, strict=True):
        p, mean = table.exp(), m[..., part]
        product = 0.5 * ((mean @ weights[part][:, part]) * mean).sum(-1)
        entropy = -(p * table.clamp_min(-1e30)).sum(-1)
        total = total + beta * (p @ pairs - product) + entropy
    return total


def _choose(table: Tensor, best: Tensor) -> Tensor:
    """table (R, ..., K) at the restart best (...)."""
    index = best[None, ..., None].expand(1, *table.shape[1:])
    return table.gather(0, index).squeeze(0)


def blocks_of(blocks: int | Sequence[Sequence[int]], units: int) -> list[list[int]]:
    """The blocks as lists of units: those given, or runs of `blocks` units, the last one shorter.

    Raises SettingError unless they hold each unit once, and a block has at most 16 of them.
    """
    if isinstance(blocks, int):
        if blocks < 1:
            raise SettingError(f"blocks={blocks}: a block has at least one unit.")
        parts = [list(range(s, min(s + blocks, units))) for s in range(0, units, blocks)]
    else:
        parts = [list(block) for block in blocks]
    if sorted(i for part in parts for i in part) != list(range(units)) or not all(parts):
        raise SettingError(f"The blocks must hold each of the {units} units exactly once.")
    if max(len(part) for part in parts) > LARGEST_BLOCK:
        raise SettingError(
            f"A block of {max(len(part) for part in parts)} units has too many states: at most "
            f"{LARGEST_BLOCK} units a block are enumerated. Cut it into smaller ones."
        )
    return parts
