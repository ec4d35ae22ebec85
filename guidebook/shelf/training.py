"""How a pair's model learns its parameters, where its exact posterior needs them first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from guidebook.guides.conjugate.factor import FactorPosterior
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
