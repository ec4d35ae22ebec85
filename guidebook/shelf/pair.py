"""What a line of the catalogue says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch import Tensor

from guidebook.inference.fits.fit import Fit
from guidebook.scope import random_state

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared
    from guidebook.reports.elements.section import Section

T = TypeVar("T")
Model = Callable[..., Any]
Guide = Callable[..., Any]
Truth = Literal["exact", "NUTS", "Gibbs", "importance-weighted bound", "no posterior"]
Way = tuple[Callable[..., Fit], Callable[[Model], Guide]]
"""An engine, and the guide with the structure that it asks for."""


@dataclass(frozen=True)
class Pair:
    """One line of the shelf.

    - `name`, `summary` (one sentence), `source` (author, year, title).
    - `model()` gives the model; networks start from the same weights at every call.
    - `guides`: from cheap to rich, name to a function of the model that gives the guide.
    - `engines`: other ways than `svi` to the same posterior: name to the engine and a function of the
      model that gives the guide with the structure that the engine asks for.
    - `trained(model, data, settings)`: the model with its parameters learned, for a model that has
      any and whose posterior is known; None: with the guide that is the posterior, by `svi`.
    - `data()` gives the model's keyword arguments; `held_out()` the same for rows kept apart.
    - `truth`: how the right answer is known ("no posterior": the guides are points);
      `exact(model)` gives the guide that is the posterior.
    - `settings`: keyword arguments for `svi`.
    - `labels()` and `held_out_labels()`: a class of each row, for pictures only; `image_shape`: the
      shape of one row as a picture.
    - `sections`: what its page shows besides: functions of the comparison that return a `Section`,
      or None.
    """

    name: str
    summary: str
    model: Callable[[], Model]
    guides: Mapping[str, Callable[[Model], Guide]]
    data: Callable[[], dict[str, Tensor]]
    truth: Truth
    source: str
    exact: Callable[[Model], Guide] | None = None
    engines: Mapping[str, Way] = field(default_factory=lambda: MappingProxyType({}))
    trained: Callable[[Model, Mapping[str, Any], Mapping[str, Any]], Model] | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    held_out: Callable[[], dict[str, Tensor]] | None = None
    labels: Callable[[], Tensor] | None = None
    held_out_labels: Callable[[], Tensor] | None = None
    image_shape: tuple[int, int] | None = None
    sections: tuple[Callable[[Compared], Section | None], ...] = ()


def seeded(make: Callable[[], T]) -> T:
    """Networks with the same first weights at every call; torch's own generator stays as it was."""
    with random_state(0):
        return make()
