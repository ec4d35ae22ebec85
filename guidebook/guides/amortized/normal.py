"""Amortised guides: one encoder network gives every row its own posterior."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus

from guidebook.errors import DataError, GuideError
from guidebook.programs.plate import rows

SCALE_FLOOR = 1e-6
"""Added to every standard deviation: keeps log q finite when softplus underflows."""


class Names(TypedDict, total=False):
    """The keywords that every amortised guide takes: names in the model."""

    site: str
    observed: str
    plate: str


class AmortizedPosterior(PyroModule):
    """What every amortised guide shares: an encoder, and the site it fills for each row.

    A family defines `posterior(x)`, q(z | x) with batch shape (B,) and event shape (d,), from
    `outputs(x)`, the encoder's outputs (B, width).

    Arguments: `encoder` maps x (B, ...) to (B, width), any `nn.Module`; `latent_dim` d; `width`;
    `site`, the name of the model's latent site, with event shape (d,); `observed`, the keyword of
    the data that the encoder reads; `plate`, the name of the model's plate over rows.

    Raises GuideError for a `latent_dim` below 1; when called, for an encoder of another width and
    for missing data.
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        width: int,
        *,
        site: str = "z",
        observed: str = "x",
        plate: str = "row",
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise GuideError(f"latent_dim={latent_dim} must be at least 1.")
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.width = width
        self.site = site
        self.observed = observed
        self.plate = plate

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x) for x (B, ...): batch shape (B,), event shape (d,)."""
        raise NotImplementedError

    def outputs(self, x: Tensor, leading: torch.Size | None = None) -> Tensor:
        """The encoder's outputs (B, width) for x (B, ...), checked; `leading` in place of (B,).

        Raises DataError for integers, GuideError if the encoder does not give `self.width` outputs
        for each row.
        """
        check_floating(x, self.observed)
        output: Tensor = self.encoder(x)
        needed = (*(x.shape[:1] if leading is None else leading), self.width)
        if output.shape != needed:
            raise GuideError(
                f"The encoder maps x {tuple(x.shape)} to {tuple(output.shape)}, but {self._family()} "
                f"needs {needed}: give the encoder's last layer {self.width} outputs."
            )
        return output

    def _family(self) -> str:
        return f"{type(self).__name__} with latent_dim={self.latent_dim}"

    def forward(self, x: Tensor | None = None, size: int | None = None, **other: Any) -> Tensor:
        """Sample the latent site given the observed data; takes the model's keywords.

        Arguments: the data under the keyword `observed`; `size`, the number of rows of the whole
        data set when the data are a mini-batch (the rest of the keywords are ignored). Returns z
        (B, d).
        """
        data = other.get(self.observed) if x is None else x
        if not isinstance(data, Tensor):
            raise GuideError(
                f"The guide of {self.site!r} reads the data {self.observed!r}, which it was not "
                f"given: pass {self.observed}=tensor, or name another keyword by observed=..."
            )
        with rows(len(data), size, data.device, self.plate):
            return pyro.sample(self.site, self.posterior(data))


def check_floating(x: Tensor, observed: str) -> None:
    """Raises DataError for integers, which no encoder reads."""
    if not x.is_floating_point():
        raise DataError(
            f"{observed!r} holds integers ({x.dtype}), which the encoder cannot read: give floating "
            "point numbers, x.float() for zeros and ones, x.float() / 255 for bytes."
        )


class AmortizedNormal(AmortizedPosterior):
    r"""q(z | x) normal, its parameters the outputs of an encoder.

    .. math:: q(z_i \mid x_i) = N(m(x_i),\ L(x_i) L(x_i)^\top)

    With h(x) the encoder's output, d = `latent_dim` and floor = 1e-6:

    - `covariance="diagonal"`: h has width 2 d; m = h[:d], L = diag(softplus(h[d:]) + floor).
    - `covariance="full"`: h has width d + d (d + 1) / 2; m = h[:d], the next d outputs give the
      diagonal of L as above, the rest its strictly lower triangle, row by row.

    Arguments: `encoder` maps x (B, ...) to (B, width), any `nn.Module`; `latent_dim` d;
    `covariance`; `site`, the name of the model's latent site, with event shape (d,); `observed`, the
    keyword of the data that the encoder reads; `plate`, the name of the model's plate over rows.

    Raises GuideError for another `covariance` or a `latent_dim` below 1; when called, for an
    encoder of another width and for missing data.

    Source: Kingma & Welling (2014), Auto-encoding variational Bayes; full covariance: Kingma &
    Welling (2019), An introduction to variational autoencoders, section 2.5.1.
    """

    tril: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        *,
        covariance: Literal["diagonal", "full"] = "diagonal",
        site: str = "z",
        observed: str = "x",
        plate: str = "row",
    ) -> None:
        if covariance not in ("diagonal", "full"):
            raise GuideError(f"There is no covariance {covariance!r}: give 'diagonal' or 'full'.")
        width = encoder_width(latent_dim, covariance)
        super().__init__(encoder, latent_dim, width, site=site, observed=observed, plate=plate)
        self.covariance = covariance
        self.register_buffer("tril", tril_index(latent_dim), persistent=False)

    def posterior(self, x: Tensor, leading: torch.Size | None = None) -> dist.TorchDistribution:
        """q(z | x) for x (B, ...): batch shape (B,), or `leading`; event shape (d,).

        Raises GuideError if the encoder's output does not have the width `self.width`.
        """
        d, output = self.latent_dim, self.outputs(x, leading)
        if self.covariance == "diagonal":
            return dist.Normal(output[..., :d], positive(output[..., d:])).to_event(1)
        tril = lower_triangle(output[..., d:], self.tril)
        return dist.MultivariateNormal(output[..., :d], scale_tril=tril)

    def _family(self) -> str:
        return f"a normal with latent_dim={self.latent_dim} and covariance={self.covariance!r}"


def encoder_width(latent_dim: int, covariance: Literal["diagonal", "full"] = "diagonal") -> int:
    """The number of outputs an encoder needs: 2 d, or d + d (d + 1) / 2 for full covariance."""
    if covariance == "diagonal":
        return 2 * latent_dim
    return latent_dim + latent_dim * (latent_dim + 1) // 2


def positive(output: Tensor) -> Tensor:
    """Standard deviations from outputs of a network: softplus(output) + 1e-6."""
    return softplus(output) + SCALE_FLOOR


def lower_triangle(output: Tensor, index: Tensor) -> Tensor:
    """L (..., d, d) from outputs (..., d (d + 1) / 2): its diagonal, then row by row below.

    `index` is `tril_index(d)`.
    """
    # A gather, not an assignment: it can be vectorised and recorded. The last entry is the 0
    # that fills the upper triangle.
    d = len(index)
    zero = torch.zeros_like(output[..., :1])
    entries = torch.cat([positive(output[..., :d]), output[..., d:], zero], -1)
    return entries[..., index]


def tril_index(d: int) -> Tensor:
    """Where the entry (i, j) of L lies in [diagonal, strictly lower triangle, 0]: (d, d)."""
    index = torch.full((d, d), d + d * (d - 1) // 2)
    index.diagonal().copy_(torch.arange(d))
    row, column = torch.tril_indices(d, d, offset=-1)
    index[row, column] = torch.arange(d, d + len(row))
    return index
