r"""Amortised guides: q(z | x) = \prod_i q(z_i | x_i), one distribution for each row of the data."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class RowPosterior(Protocol):
    """A guide with q(z_i | x_i) as a distribution, for the latent `site` given the rows `observed`."""

    site: str
    observed: str

    def posterior(self, x: Tensor) -> Any:
        """q(z | x) of the rows x (n, ...): batch shape (n,), event shape (d,)."""
        ...


@runtime_checkable
class RowGuide(Protocol):
    """A guide that reads the rows `observed` and samples, inside the plate `plate`, one site or more."""

    observed: str
    plate: str
