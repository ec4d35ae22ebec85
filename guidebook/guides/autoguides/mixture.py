r"""A mixture of K normals on the unconstrained scale, as Pathfinder leaves them.

.. math:: q(u) = \sum_{k=1}^K w_k\, N(u;\ m_k,\ L_k L_k^\top)

It has no parameters to train: `gb.pathfinder` puts its components where they belong. Its density is
known, so its draws have importance weights like those of any other guide.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import SettingError
from guidebook.guides.autoguides.whitened import Model, Whitened

DRAWS = 4000
MOST_BYTES = 8_000_000_000
"""Of centres and factors."""


class NormalMixture(Whitened):
    """q(u) = sum_k w_k N(m_k, L_k L_k'): `log_shares` (K,), `centers` (K, D), `factors` (K, D, D).

    Raises, when it first runs, SettingError where these fill more than 8 GB.
    """

    family = "normal_mixture"

    def __init__(self, model: Model, components: int = 1) -> None:
        super().__init__(model)
        self.options = {"components": components}

    def _make_parameters(self) -> None:
        K, D = self.options["components"], self.latent_dim
        each = D * (D + 1) * self.center.element_size()
        if K * each > MOST_BYTES:
            raise SettingError(
                f"{K:,} normals of {D:,} dimensions, one a path, are {K * each / 1e9:,.0f} GB of centres and "
                f"factors, and at most 8 GB are held. Give at most paths={MOST_BYTES // each:,}, or use svi "
                "with gb.guides.low_rank."
            )
        eye = torch.eye(D, dtype=self.center.dtype, device=self.center.device)
        zero = self.center.new_zeros
        # parameters that are not trained: they say where the guide is, on which device and how precise
        self.log_shares = nn.Parameter(zero(K), requires_grad=False)
        self.centers = nn.Parameter(zero(K, D), requires_grad=False)
        self.factors = nn.Parameter(eye.expand(K, D, D).clone(), requires_grad=False)

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        """All components at one normal."""
        super().start_at(center, factor)
        whole = torch.diag(self.factor) if self.factor.dim() == 1 else self.factor
        self.place(torch.zeros_like(self.log_shares), *(
            value.expand_as(like).clone()
            for value, like in ((self.center, self.centers), (whole, self.factors))
        ))  # fmt: skip

    def place(self, log_shares: Tensor, centers: Tensor, factors: Tensor) -> None:
        """Takes log w (K,), m (K, D) and lower triangular L (K, D, D)."""
        with torch.no_grad():
            self.log_shares.copy_(log_shares)
            self.centers.copy_(centers)
            self.factors.copy_(factors)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.log_shares),
            dist.MultivariateNormal(self.centers, scale_tril=self.factors),
        )

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        draws = self.get_posterior().sample((DRAWS,))
        return draws.mean(0), draws.std(0)
