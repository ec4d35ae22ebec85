r"""Models whose components can change places: every posterior quantity in one labelling.

A density p that is symmetric under the K! permutations of its components has K! copies of every
mode, and a guide sits in one of them. Draws are therefore put into the order that the model names
(`canonical_order`), where they have the densities

.. math:: p_c(z) = K!\, p(z), \qquad q_c(z) = \sum_{\pi} q(\pi z), \qquad z \text{ in order},

so that weights, evidence and verdicts are those of the labelled posterior: nothing is lost by
sitting in one copy, and components that overlap are not hidden.

Source: Stephens (2000), Dealing with label switching in mixture models.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from guidebook.programs.owned import Owned
from guidebook.programs.potential import Potential

ALL_PERMUTATIONS_UP_TO = 5

Values = dict[str, Tensor]


def exchangeable(model: Any) -> Any:
    """The model if it names the canonical order of its K components, else None."""
    if isinstance(model, Owned):
        model = model.function[0]
    return model if hasattr(model, "canonical_order") else None


def log_labellings(model: Any) -> float:
    """log K! for a model with K exchangeable components, else 0."""
    story = exchangeable(model)
    return math.lgamma(story.K + 1) if story is not None else 0.0


def in_canonical_order(model: Any, values: Mapping[str, Tensor]) -> tuple[Values, float]:
    """Values (..., K, ...) in the model's order, and the share of draws that were moved.

    A model without `canonical_order` has none; its values come back as they are.
    """
    story = exchangeable(model)
    if story is None:
        return dict(values), 0.0
    order = story.canonical_order(values)
    moved = (order != torch.arange(order.shape[-1], device=order.device)).any(-1)
    return permuted(values, order), float(moved.double().mean())


def canonical_positions(potential: Potential, u: Tensor) -> Tensor:
    """Positions (S, D) with their components in the model's order; others as they are."""
    if exchangeable(potential.model) is None:
        return u
    found = potential.constrain(u)
    values = {site.name: found[site.name] for site in potential.sites}
    values, moved = in_canonical_order(potential.model, values)
    return potential.unconstrain(values) if moved else u


def permuted(values: Mapping[str, Tensor], order: Tensor) -> Values:
    """The components of every site taken in this order, (..., K) of indices."""
    found = {}
    for name, value in values.items():
        index = order.reshape(*order.shape, *[1] * (value.dim() - order.dim()))
        found[name] = value.gather(order.dim() - 1, index.expand_as(value))
    return found


def permutations(K: int) -> list[tuple[int, ...]]:
    """All orders of K components; for more than five, none and the exchanges of two.

    Of a guide whose components are apart, only the first has any density; where more than two
    components of many exchange places at once, log q is too small and the weights too large.
    """
    if K <= ALL_PERMUTATIONS_UP_TO:
        return list(itertools.permutations(range(K)))
    orders = [tuple(range(K))]
    for i, j in itertools.combinations(range(K), 2):
        swapped = list(range(K))
        swapped[i], swapped[j] = j, i
        orders.append(tuple(swapped))
    return orders


def log_q_of_labelled(
    log_q: Callable[[Values], Tensor], values: Mapping[str, Tensor], K: int
) -> Tensor:
    """log q_c, (S,), at values (S, K, ...) that are in order, by `log_q` of values."""
    found = []
    for order in permutations(K):
        index = torch.tensor(order, device=next(iter(values.values())).device)
        size = len(next(iter(values.values())))
        found.append(log_q(permuted(values, index.expand(size, K))))
    return torch.stack(found).logsumexp(0)
