"""The amortised guide of two stochastic layers: from the data upwards, one encoder a layer."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from guidebook.errors import GuideError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.programs.plate import rows

Covariance = Literal["diagonal", "full"]


class AmortizedLayers(PyroModule):
    r"""q(z_1 | x) q(z_2 | z_1), each normal, its parameters the outputs of an encoder.

    .. math:: q(z_{1,i}, z_{2,i} \mid x_i) = N(m_1(x_i), L_1(x_i) L_1(x_i)^\top)\,
        N(m_2(z_{1,i}), L_2(z_{1,i}) L_2(z_{1,i})^\top)

    The form is that of the posterior of `guidebook.models.decoders.hierarchical_latent.HierarchicalVAE`.

    Arguments: `encoders`, two networks: x (B, ...) to (B, `encoder_width(d_1)`), and z_1 (..., d_1)
    to (..., `encoder_width(d_2)`); `latent_dims` (d_1, d_2); `covariance`, "diagonal" or "full", of
    both, or one for each; `sites`, `observed` and `plate`, the model's names. Raises GuideError for
    settings out of range; when called, for encoders of other widths and missing data.

    Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, section 5.
    """

    def __init__(
        self,
        encoders: tuple[nn.Module, nn.Module],
        latent_dims: tuple[int, int],
        *,
        covariance: Covariance | tuple[Covariance, Covariance] = "diagonal",
        sites: tuple[str, str] = ("z_1", "z_2"),
        observed: str = "x",
        plate: str = "row",
    ) -> None:
        super().__init__()
        if not len(encoders) == len(latent_dims) == len(sites) == 2:
            raise GuideError(
                "Give two encoders, two latent_dims and two sites, the layer next to the data first."
            )
        kinds = (covariance, covariance) if isinstance(covariance, str) else covariance
        lower, upper = (
            AmortizedNormal(e, d, covariance=c, site=s, observed=observed, plate=plate)
            for e, d, c, s in zip(encoders, latent_dims, kinds, sites, strict=True)
        )
        self.lower = lower
        self.upper = upper
        self.sites = sites
        self.observed = observed
        self.plate = plate

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """q(z_1 | x) for x (B, ...): batch shape (B,), event shape (d_1,)."""
        return self.lower.posterior(x)

    def upper_posterior(self, z_1: Tensor) -> dist.TorchDistribution:
        """q(z_2 | z_1) for z_1 (..., d_1): batch shape (...), event shape (d_2,)."""
        return self.upper.posterior(z_1, leading=torch.Size(z_1.shape[:-1]))

    def forward(
        self, x: Tensor | None = None, size: int | None = None, **other: Any
    ) -> tuple[Tensor, Tensor]:
        """Sample both layers given the observed data; takes the model's keywords.

        Arguments as `AmortizedNormal.forward`. Returns z_1 (B, d_1) and z_2 (B, d_2).
        """
        data = other.get(self.observed) if x is None else x
        if not isinstance(data, Tensor):
            raise GuideError(
                f"The guide reads the data {self.observed!r}, which it was not given: pass "
                f"{self.observed}=tensor, or name another keyword by observed=..."
            )
        with rows(len(data), size, data.device, self.plate):
            z_1 = pyro.sample(self.sites[0], self.posterior(data))
            z_2 = pyro.sample(self.sites[1], self.upper_posterior(z_1))
        return z_1, z_2
