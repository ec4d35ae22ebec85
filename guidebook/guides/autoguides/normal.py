r"""Normals on the unconstrained scale, in units of the posterior at its mode.

.. math:: q(u) = N(m + L\, \mathrm{loc},\ \Sigma), \qquad \Sigma = \begin{cases}
    \mathrm{diag}(d\, s)^2 & \text{mean field} \\
    (L\, \mathrm{diag}(s)\, C)(L\, \mathrm{diag}(s)\, C)^\top & \text{full rank} \\
    \mathrm{diag}(d\, s)\,(F F^\top + I)\,\mathrm{diag}(d\, s) & \text{low rank} \end{cases}

with m, L, d as in `guidebook.guides.autoguides.whitened`, loc and s (D,), C lower triangular with a unit
diagonal, F (D, rank). Sources: Kucukelbir et al. 2017, "Automatic differentiation variational
inference"; Ong, Nott and Smith 2018, "Gaussian variational approximation with a factor covariance
structure".
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from torch import Tensor, nn

from guidebook.guides.autoguides.whitened import Model, Whitened
from guidebook.programs.sites import Site


class MeanField(Whitened, AutoDiagonalNormal):
    """q(u) = N(m + L loc, diag(d * scale)^2). Kucukelbir et al. 2017, section 2.4."""

    family = "mean_field"

    def __init__(self, model: Model) -> None:
        super().__init__(model, init_scale=1.0)

    def _make_parameters(self) -> None:
        super()._make_parameters()
        self.scale = pyro.nn.PyroParam(torch.ones_like(self.loc), self.scale_constraint)

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        super().start_at(center, factor)
        self.register_buffer("unit", self.conditional_sd())

    def restore(self, sites: tuple[Site, ...], like: Tensor) -> None:
        super().restore(sites, like)
        self.register_buffer("unit", torch.ones_like(self.center))

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.Normal(*self._loc_scale()).to_event(1)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), self.unit * self.scale


class FullRank(Whitened, AutoMultivariateNormal):
    """q(u) = N(m + L loc, (L S)(L S)'), S = diag(scale) scale_tril. Kucukelbir et al. 2017."""

    family = "full_rank"

    def __init__(self, model: Model) -> None:
        super().__init__(model, init_scale=1.0)

    def _make_parameters(self) -> None:
        super()._make_parameters()
        eye = torch.eye(self.latent_dim, dtype=self.loc.dtype, device=self.loc.device)
        self.scale = pyro.nn.PyroParam(torch.ones_like(self.loc), self.scale_constraint)
        self.scale_tril = pyro.nn.PyroParam(eye, self.scale_tril_constraint)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.MultivariateNormal(self.shifted(), scale_tril=self._tril())

    def _tril(self) -> Tensor:
        scale_tril = self.scale[:, None] * self.scale_tril
        return (
            self.factor[:, None] * scale_tril
            if self.factor.dim() == 1
            else self.factor @ scale_tril
        )

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), self._tril().square().sum(-1).sqrt()


class LowRank(Whitened, AutoLowRankMultivariateNormal):
    """q(u) = N(m + L loc, d (F F' + I) d * s^2). Ong, Nott and Smith 2018."""

    family = "low_rank"
    rank: int | None

    def __init__(self, model: Model, rank: int | None = None) -> None:
        super().__init__(model, init_scale=1.0, rank=rank)
        self.options = {"rank": rank}

    def _make_parameters(self) -> None:
        super()._make_parameters()
        if self.rank is None:
            self.rank = max(1, round(self.latent_dim**0.5))
        self.rank = min(self.rank, self.latent_dim)
        self.register_buffer("unit", torch.ones_like(self.center))
        self.scale = pyro.nn.PyroParam(torch.ones_like(self.loc), self.scale_constraint)
        # not zero: F = 0 is a saddle of the ELBO
        ramp = torch.arange(1, self.latent_dim * self.rank + 1, device=self.loc.device)
        self.cov_factor = nn.Parameter(0.1 * torch.cos(ramp.to(self.loc)).view(-1, self.rank))

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        """Also sets F and s from the leading directions of the covariance, in units of d."""
        super().start_at(center, factor)
        self.unit = self.conditional_sd()
        if self.factor.dim() == 1:
            return
        scaled = self.factor / self.unit[:, None]
        values, vectors = torch.linalg.eigh(scaled @ scaled.T)
        rank = self.cov_factor.shape[1]
        lead = (values[-rank:] - 1).clamp(min=1e-2).sqrt()
        with torch.no_grad():
            self.cov_factor.copy_(vectors[:, -rank:] * lead)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        scale = self.unit * self.scale
        return dist.LowRankMultivariateNormal(
            self.shifted(), self.cov_factor * scale[:, None], scale.square()
        )

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), self.unit * self.scale * (
            self.cov_factor.square().sum(-1) + 1
        ).sqrt()
