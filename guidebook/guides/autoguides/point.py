"""A point on the unconstrained scale: its objective is log p(x, z), and its optimum the mode of z."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from guidebook.guides.autoguides.whitened import Whitened
from guidebook.programs.sites import Site


class Point(Whitened):
    """A point: q(u) = delta(u - m - L loc), without Jacobian, so the ELBO is log p(x, z)."""

    family = "delta"
    kind = "point"

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.Delta(self.shifted(), event_dim=1)

    def constrained(self, u: Tensor, data: dict[str, Any]) -> list[tuple[Site, Tensor, Tensor]]:
        return [(s, v, torch.zeros_like(d)) for s, v, d in super().constrained(u, data)]

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), torch.zeros_like(self.center)
