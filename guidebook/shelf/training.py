"""How a pair's model learns its parameters, where its exact posterior needs them first."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.guides.exact.quadrature import POINTS, QuadraturePosterior
from guidebook.inference.boltzmann import boltzmann_learning
from guidebook.inference.em import em

Model = Callable[..., Any]


def by_em(model: Model, data: Mapping[str, Any], settings: Mapping[str, Any]) -> Model:
    """The maximum of likelihood of a linear factor model."""
    shared = {name: settings[name] for name in ("seed", "device") if name in settings}
    learned = em(model, FactorPosterior(model), data, **shared).model
    assert learned is not None
    return learned


def by_correlations(model: Any, data: Mapping[str, Any], settings: Mapping[str, Any]) -> Model:
    """A Boltzmann machine whose correlations are those of the data."""
    known = {n: settings[n] for n in ("seed", "weight_decay", "steps") if n in settings}
    learned = boltzmann_learning(model, data, **known).model
    assert learned is not None
    return learned


ASIDE = 5
"""Of so many rows one is held out."""
ITERATIONS, PATIENCE, ROUNDS = 5, 5, 60
"""Of L-BFGS in a round; rounds without a higher evidence of the rows held out; rounds at most."""
EXACT = 0.01
"""Nats by which the evidence of a row by quadrature may be wrong."""


def by_evidence(model: Any, data: Mapping[str, Any], settings: Mapping[str, Any]) -> Model:
    """A decoder with the highest evidence of rows that it does not learn from, one in five, of those whose
    posteriors are known by quadrature.

    The evidence of the other rows, sum_i log p(x_i), is climbed by L-BFGS. Without an end it climbs for ever:
    a network that is flexible enough gives each row a posterior narrower than any grid.

    Source: Prechelt (1998), Early stopping, but when?
    """
    learned = copy.deepcopy(model).to(settings.get("device") or "cpu")
    quadrature = QuadraturePosterior(learned, points=POINTS[learned.latent_dim] // 2)
    x = data[quadrature.observed].to(next(learned.parameters()))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(settings.get("seed", 0)))
    aside, rest = x[order[: len(x) // ASIDE]], x[order[len(x) // ASIDE :]]
    highest, best, since = -math.inf, copy.deepcopy(learned.state_dict()), 0
    climb = _climb(learned, lambda: quadrature.log_evidence(rest).sum())
    for _ in range(ROUNDS):
        climb()
        with torch.no_grad():
            found = float(quadrature.log_evidence(aside).sum())
            exact = bool((QuadraturePosterior(learned).log_evidence_error(x) < EXACT).all())
        since += 1
        if exact and found > highest:
            highest, best, since = found, copy.deepcopy(learned.state_dict()), 0
        if since == PATIENCE or not exact:
            break
    learned.load_state_dict(best)
    return learned


def _climb(model: nn.Module, objective: Callable[[], Tensor]) -> Callable[[], None]:
    """A function that takes some iterations of L-BFGS towards the largest value of the objective."""
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        negative = -objective()
        negative.backward()
        return negative.detach()

    def climb() -> None:
        with torch.enable_grad():
            optimiser.step(loss)

    return climb
