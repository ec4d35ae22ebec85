"""Factor analysis: a linear Gaussian decoder in which every column has a noise of its own."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from guidebook.errors import ModelError, SettingError
from guidebook.programs.plate import rows


class FactorAnalysis(PyroModule):
    r"""Linear Gaussian decoder with diagonal noise.

    .. math:: z_i \sim N(0, I_d), \qquad
        x_i \mid z_i \sim N(W z_i + b,\ \mathrm{diag}(\sigma_1^2, \dots, \sigma_P^2))

    Parameters: `weight` W (P, d), `bias` b (P,), `log_scale` = (log sigma_1, ..., log sigma_P).
    Sites, in plate `row`: `z` (n, d) and `x` (n, P).

    The evidence is N(b, W W' + diag(sigma^2)). Rescaling a column of x rescales its row of W and
    its sigma and changes nothing else, so the units of the columns do not matter, as they do in
    probabilistic PCA (`guidebook.models.decoders.latent.LinearVAE`), where all sigma are one. W is
    identified up to a rotation of the latent space. Posterior and EM:
    `guidebook.guides.conjugate.factor.FactorPosterior`.

    Arguments: `P`, the width of the data; `latent_dim` d. Raises SettingError unless 1 <= d and 1
    <= P.

    Source: Rubin & Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47.
    """

    def __init__(self, P: int, latent_dim: int) -> None:
        super().__init__()
        if P < 1 or latent_dim < 1:
            raise SettingError(f"P={P} and latent_dim={latent_dim} must each be at least 1.")
        self.latent_dim = latent_dim
        self.weight = nn.Parameter(torch.randn(P, latent_dim) / math.sqrt(latent_dim))
        self.bias = nn.Parameter(torch.zeros(P))
        self.log_scale = nn.Parameter(torch.zeros(P))

    def decode(self, z: Tensor) -> Tensor:
        """The mean W z + b in data space: (..., d) to (..., P)."""
        return z @ self.weight.mT + self.bias

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z` and `x`.

        Arguments: `x` (n, P), or None to simulate; `size`, the number of rows of the whole data set
        when x is a mini-batch, or the number of rows to simulate (1 where it is not given).
        Returns x (n, P). Raises ModelError if size is smaller than n, or than 1.
        """
        if size is not None and size < 1:
            raise ModelError(f"size={size}: simulate at least one row.")
        present = (size or 1) if x is None else len(x)
        with rows(present, size, self.bias.device):
            standard = dist.Normal(self.weight.new_zeros(self.latent_dim), 1.0)
            z = pyro.sample("z", standard.to_event(1))
            likelihood = dist.Normal(self.decode(z), self.log_scale.exp()).to_event(1)
            return pyro.sample("x", likelihood, obs=x)
