r"""A normal prior times factors of one linear form each, which `ep` replaces by normal sites.

.. math:: p(\theta, x) = N(\theta; m_0, V_0) \prod_i t_i(a_i^\top \theta), \qquad
    q(\theta) \propto N(\theta; m_0, V_0) \prod_i
    \exp\left(-\tfrac12 \tau_i (a_i^\top \theta)^2 + \nu_i\, a_i^\top \theta\right)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from guidebook.guides.conjugate.sites import Sites


@runtime_checkable
class HasSites(Protocol):
    """What `ep` asks of a guide; `guidebook.guides.conjugate.sites` has those of the shelf."""

    def sites(self, **data: Any) -> Sites:
        """The prior, the directions a_i and the moments of the tilted distributions."""
        ...

    def hold(
        self, site_precision: Tensor, site_shift: Tensor, loc: Tensor, covariance: Tensor
    ) -> None:
        """Take tau (n,), nu (n, k), and the N(loc, covariance) that they make with the prior."""
        ...

    def position(self, values: Mapping[str, Tensor]) -> Tensor:
        """theta (S, D) of values of the latent sites, each (S, *shape)."""
        ...


REMEDY = (
    "Use gb.guides.ProbitSites, LogisticSites or ClutterSites with their models, or svi or laplace "
    "with this one."
)
