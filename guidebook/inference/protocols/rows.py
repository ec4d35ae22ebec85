"""NEEDS A DOCSTRING: guidebook.inference.protocols.rows."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class RowPosterior(Protocol):
    """A guide that gives q(z | x) of every row: batch shape (n,), event shape (d,)."""

    site: str
    observed: str

    def posterior(self, x: Tensor) -> Any: ...


@runtime_checkable
class RowGuide(Protocol):
    """A guide that reads `observed` and samples inside the plate `plate`: one site, or several."""

    observed: str
    plate: str
