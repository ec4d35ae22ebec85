r"""Sums over all states of units -1 and +1, for up to 20 units.

The energies of all states are a table over two halves of the units, so that no array is larger than
the number of states: with x = (a, c),

.. math:: -E(a, c) = -E_A(a) - E_C(c) + a^\top W_{AC}\, c
"""

from __future__ import annotations

import torch
from torch import Tensor

from guidebook.errors import ModelError

MOST_UNITS = 20
"""Enumerated: 2^20 states are 8 MB in float64; every further unit doubles them."""


def configurations(units: int, like: Tensor) -> Tensor:
    """All 2^units states, shape (2^units, units), the last unit changing fastest.

    >>> configurations(2, torch.zeros(())).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]

    Raises ModelError above 20 units.
    """
    if units > MOST_UNITS:
        raise ModelError(
            f"{units} units have 2^{units} states, and at most {MOST_UNITS} units are enumerated. "
            "Estimate log Z by annealed_importance_sampling and give it as log_normaliser; sample "
            "by gibbs."
        )
    index = torch.arange(2**units, device=like.device).unsqueeze(-1)
    bits = index >> torch.arange(units - 1, -1, -1, device=like.device) & 1
    return bits.to(like.dtype) * 2 - 1


def index_of(x: Tensor) -> Tensor:
    """The row of `configurations` at which x (..., D) stands, shape (...)."""
    powers = 2 ** torch.arange(x.shape[-1] - 1, -1, -1, device=x.device)
    return ((x > 0).long() * powers).sum(-1)


def log_weights(
    weights: Tensor, bias: Tensor, beta: Tensor | float = 1.0, first: int | None = None
) -> Tensor:
    """-beta E of all states as a table (..., 2^k, 2^(D-k)), the first k units over its rows.

    `first` is k, half of the units where it is not given. Flattened, the table is in the order of
    `configurations`. Raises ModelError above 20 units.
    """
    D = bias.shape[-1]
    if D > MOST_UNITS:
        configurations(D, bias)  # raises
    k = D // 2 if first is None else first
    a, c = configurations(k, bias), configurations(D - k, bias)
    upper, lower = weights[..., :k, :k], weights[..., k:, k:]
    within_a = 0.5 * ((a @ upper) * a).sum(-1) + bias[..., :k] @ a.mT
    within_c = 0.5 * ((c @ lower) * c).sum(-1) + bias[..., k:] @ c.mT
    across = a @ weights[..., :k, k:] @ c.mT
    scale = torch.as_tensor(beta, dtype=bias.dtype, device=bias.device)[..., None, None]
    return scale * (within_a.unsqueeze(-1) + within_c.unsqueeze(-2) + across)


def enumerate_log_normaliser(weights: Tensor, bias: Tensor, beta: Tensor | float = 1.0) -> Tensor:
    """log Z by summing over all states; batched over weights (..., D, D) and bias (..., D).

    Its gradient by autodiff is beta times the moments. Raises ModelError above 20 units.
    """
    return log_weights(weights, bias, beta).flatten(-2).logsumexp(-1)


def enumerate_moments(
    weights: Tensor, bias: Tensor, beta: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """E[x] (..., D) and E[x x'] (..., D, D) by summing over all states.

    Raises ModelError above 20 units.
    """
    return table_moments(log_weights(weights, bias, beta), bias)


def table_moments(table: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """E[x] and E[x x'] from the table that `log_weights` makes for units with this bias."""
    p = table.flatten(-2).softmax(-1).reshape(table.shape)
    k = table.shape[-2].bit_length() - 1
    a, c = configurations(k, bias), configurations(bias.shape[-1] - k, bias)
    p_a, p_c = p.sum(-1), p.sum(-2)
    across = a.mT @ p @ c
    top = torch.cat([(a.mT * p_a.unsqueeze(-2)) @ a, across], -1)
    bottom = torch.cat([across.mT, (c.mT * p_c.unsqueeze(-2)) @ c], -1)
    return torch.cat([p_a @ a, p_c @ c], -1), torch.cat([top, bottom], -2)
