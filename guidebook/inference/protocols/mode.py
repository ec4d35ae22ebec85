"""What `svi` asks of a guide that starts at the mode of the posterior, and what any guide may say.

A guide is one that starts at the mode by having the methods below, whatever its class. It is called
once, which makes its parameters and its `sites`; then it is given the Gaussian N(m, L L') at the mode
of log p(x, u), u the flat unconstrained position of these sites (`guidebook.programs.start.mode`).
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from guidebook.guides.autoguides.defaults import Defaults
from guidebook.programs.sites import Site


@runtime_checkable
class StartsAtMode(Protocol):
    """A module over `sites`, in the order of the flat position u (D,), that can be put at a Gaussian."""

    sites: tuple[Site, ...]

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        """Takes m (D,) and L: (D, D) lower triangular, or (D,) the diagonal of a diagonal one."""

    def to(self, device: Any) -> Any:
        """Moves parameters and buffers, as every module does."""


@runtime_checkable
class EndsAtMode(Protocol):
    """A guide that is trained as a point, and whose users expect the Gaussian of the curvature there."""

    def laplace_approximation(self, *args: Any, **kwargs: Any) -> Any:
        """The Gaussian, as a guide (pyro.infer.autoguide.AutoLaplaceApproximation)."""


def defaults_of(guide: Any) -> Defaults:
    """`guide.defaults` where the guide has them, and the defaults of any Pyro guide otherwise."""
    given = getattr(guide, "defaults", None)
    return given if isinstance(given, Defaults) else Defaults()
