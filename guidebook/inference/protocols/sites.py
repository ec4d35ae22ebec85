"""NEEDS A DOCSTRING: guidebook.inference.protocols.sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from guidebook.guides.conjugate.sites import Sites


@runtime_checkable
class HasSites(Protocol):
    """What `ep` asks of a guide; `guidebook.guides.conjugate.sites` has those of the shelf.

    `sites(**data)` gives prior and tilted moments; `hold` takes the result; `position` gives theta
    (S, D) from values of the guide's latent sites, each (S, *shape).
    """

    def sites(self, **data: Any) -> Sites: ...

    def hold(
        self, site_precision: Tensor, site_shift: Tensor, loc: Tensor, covariance: Tensor
    ) -> None: ...

    def position(self, values: Mapping[str, Tensor]) -> Tensor: ...
