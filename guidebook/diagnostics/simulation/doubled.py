r"""A model of two data sets that share their latents, for posterior simulation-based calibration.

.. math:: p(z, y, y') = p(z)\, p(y \mid z)\, p(y' \mid z)

The model is run twice: the second run takes the latents of the first, adds no density of theirs, and its
observed sites stand beside those of the first. Nothing need be known of plates or of how data are
stacked; every latent, local ones too, has the posterior of both data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from guidebook.guides.autoguides.whitened import Whitened

AGAIN = "_replicated"
"""What the second data set's arguments and sites have after their names."""


def again(data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The observed arguments of a second data set under the names that `Doubled` gives them."""
    return {f"{name}{AGAIN}": value for name, value in data.items()}


class Doubled(nn.Module):
    """model(**data) together with model(**data) at other observed arguments (names + AGAIN)."""

    def __init__(self, model: Callable[..., Any], observed: Iterable[str]) -> None:
        super().__init__()
        self.observed = tuple(observed)
        self.module = model if isinstance(model, nn.Module) else None
        self.function = [model]  # in a list: a module has been registered above

    def forward(self, **data: Any) -> Any:
        model = self.module if self.module is not None else self.function[0]
        second = {name: data.pop(f"{name}{AGAIN}") for name in self.observed}
        first = _Remembered()
        with first:
            result = model(**data)
        with _SameLatents(first.values):
            model(**{**data, **second})
        return result


class _Remembered(Messenger):
    """Keeps the value of every latent site."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            self.values[msg["name"]] = msg["value"]


class _SameLatents(Messenger):
    """Latent sites take these values and are hidden from all handlers outside; observed ones are renamed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = self.values[msg["name"]], True, True
        elif site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            msg["stop"] = True
        else:
            msg["name"] += AGAIN


class Narrowed(nn.Module):
    """A guide for the doubled model: called without the second data set's arguments."""

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, **data: Any) -> Any:
        return self.guide(**_first_of(data))


def guide_of(guide: Any, doubled: Doubled) -> Any:
    """The guide for the doubled model: of gb.guides a fresh one of the same family."""
    if isinstance(guide, Whitened):
        return type(guide)(doubled, **dict(guide.options))
    if isinstance(guide, nn.Module):
        return Narrowed(guide)

    def narrowed(
        **data: Any,
    ) -> Any:  # a function, whose pyro.param statements an engine looks after
        return guide(**_first_of(data))

    return narrowed


def _first_of(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if not name.endswith(AGAIN)}
