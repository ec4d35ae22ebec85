r"""Likelihoods p(x | z) of decoder models: what the outputs of a decoder network mean.

A likelihood is a module with

- `width(P)`: how many outputs the decoder needs for a row of P numbers;
- `distribution(output)`: p(x | z) for outputs (..., width), batch shape (...), event shape (P,).

Its `mean` is the decoded row. A row is a vector: images are flattened, channel by channel. Where the
scale is the network's too, outputs come in blocks of P, so that a convolutional decoder gives each
block as channels of its own.
"""

from __future__ import annotations

import math
from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from guidebook.errors import DataError, SettingError


class Likelihood(Protocol):
    """What a decoder model asks of its likelihood; four are implemented below."""

    def width(self, P: int) -> int:
        """The number of outputs of the decoder for rows of P numbers."""
        ...

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """p(x | z) for outputs (..., width(P)): batch shape (...), event shape (P,)."""
        ...


class Bernoulli(nn.Module):
    r"""Independent pixels, x_p ~ Bernoulli(sigmoid(h_p)): the outputs h are logits, width P.

    Grey levels x in [0, 1] are accepted: x log p + (1 - x) log(1 - p) is the average of log p over
    binary pixels drawn with probabilities x. It is then a lower bound of such a log density, not a
    density of x: for evidences, give zeros and ones. Values outside [0, 1] raise DataError.
    """

    def width(self, P: int) -> int:
        """P."""
        return P

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Bernoulli with logits `output`."""
        return GreyBernoulli(logits=output).to_event(1)


class Gaussian(nn.Module):
    r"""x ~ N(h, diag(s)^2) with a scale s that is the same for every row; width P.

    - `scale` a positive number: s is fixed, in the data's units. It sets what squared error costs,
      -|x - h|^2 / (2 s^2), against the Kullback-Leibler term, so it is the knob between precise
      reconstructions and a latent space that samples well: the same as the beta of a beta-VAE,
      beta = s^2 against s = 1.
    - `scale=None`: s is learned (parameter `log_scale`), one for all columns, or with `columns=P`
      one for each. At the optimum s^2 is the mean squared error of the reconstruction.

    Raises SettingError for a scale that is not positive, columns below 1, or both given.

    Source: Rybkin, Daniilidis & Levine (2021), Simple and effective VAE training with calibrated
    decoders (sigma-VAE).
    """

    def __init__(self, scale: float | None = None, *, columns: int | None = None) -> None:
        super().__init__()
        if scale is not None and not 0 < scale < math.inf:
            raise SettingError(
                f"scale={scale} is the standard deviation of x given z: give a positive number, or "
                "None to learn it."
            )
        if columns is not None and (scale is not None or columns < 1):
            raise SettingError(
                f"columns={columns} asks for a learned scale of each column: give the number of "
                "columns, at least 1, and scale=None."
            )
        self.scale = scale
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(() if columns is None else (columns,)))

    def width(self, P: int) -> int:
        """P. Raises SettingError if there are learned scales for another number of columns."""
        if self.scale is None and self.log_scale.shape not in ((), (P,)):
            raise SettingError(
                f"The likelihood has {len(self.log_scale)} scales and the rows {P} columns: give "
                f"columns={P}, or None for one scale."
            )
        return P

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Normal with mean `output`."""
        scale = self.log_scale.exp() if self.scale is None else self.scale
        return dist.Normal(output, scale).to_event(1)


class GaussianPerDatum(nn.Module):
    r"""x ~ N(h_1, diag(floor + softplus(h_2))^2): every number of every row has its own scale.

    Width 2 P: the P means h_1, then the P scales h_2.

    Without a floor this likelihood has no maximum: where h_1(z) passes through a datum exactly, its
    density grows without bound as the scale goes to 0, and so does the ELBO (a code that
    tells the training rows apart is enough). With the floor s_0 no term exceeds
    -log(s_0) - log(2 pi) / 2 a number. `floor`, in the data's units, is the precision at which the
    data are to be believed: half a grey level, the rounding of a measurement.

    Raises SettingError for a floor that is not positive.

    Source: Mattei & Frellsen (2018), Leveraging the exact likelihood of deep latent variable
    models (why it is unbounded, and that a bound on the scales mends it).
    """

    def __init__(self, floor: float = 0.05) -> None:
        super().__init__()
        self.floor = _positive_floor(floor)

    def width(self, P: int) -> int:
        """2 P."""
        return 2 * P

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """Normal with the first half as means and the second as scales."""
        mean, raw = output.chunk(2, -1)
        return dist.Normal(mean, self.floor + softplus(raw)).to_event(1)


class LowRankGaussian(nn.Module):
    r"""x ~ N(m, F F' + diag(s)^2) with full covariance, of low rank and a diagonal.

    .. math:: m = h_1, \qquad s = s_0 + \mathrm{softplus}(h_2), \qquad
        F = (h_3, \dots, h_{2 + r}) / \sqrt r

    Width (2 + r) P, in blocks of P: mean, scales, then the r columns of F (P, r). Neighbouring
    pixels err together, which independent noise cannot say. Densities cost O(P r^2) by the
    determinant lemma, |F F' + D| = |I + F' D^{-1} F| |D|, and the Woodbury identity: no P x P matrix.

    `rank` r, at least 1; `floor` s_0 bounds the density as in `GaussianPerDatum`. Raises
    SettingError for either out of range.

    Source: Dorta, Vicente, Agapito, Campbell & Simpson (2018), Structured uncertainty prediction
    networks (covariances of p(x | z)); Petersen & Pedersen (2012), The matrix cookbook, 3.2.2.
    """

    def __init__(self, rank: int = 4, floor: float = 0.05) -> None:
        super().__init__()
        if rank < 1:
            raise SettingError(f"rank={rank} must be at least 1; rank 0 is GaussianPerDatum.")
        self.rank = rank
        self.floor = _positive_floor(floor)

    def width(self, P: int) -> int:
        """(2 + rank) P."""
        return (2 + self.rank) * P

    def distribution(self, output: Tensor) -> dist.TorchDistribution:
        """LowRankMultivariateNormal from the blocks of the output."""
        blocks = output.unflatten(-1, (2 + self.rank, -1))
        scale = self.floor + softplus(blocks[..., 1, :])
        factor = blocks[..., 2:, :].mT / math.sqrt(self.rank)
        return dist.LowRankMultivariateNormal(blocks[..., 0, :], factor, scale.square())


class GreyBernoulli(dist.Bernoulli):
    """Bernoulli whose `log_prob` also takes grey levels in [0, 1], and still refuses all else.

    Samples are zeros and ones.
    """

    support = constraints.unit_interval
    has_enumerate_support = False

    def _validate_sample(self, value: Tensor) -> None:
        # Reached only with validation on, so never inside a recorded step.
        if not bool(((value >= 0) & (value <= 1)).all()):
            raise DataError(
                f"x has values from {float(value.min()):.4g} to {float(value.max()):.4g}, outside "
                "the support [0, 1] of the Bernoulli likelihood: divide by the largest grey level "
                "(255 for bytes), or take a Gaussian likelihood."
            )
        super()._validate_sample(value)


def as_rows(x: Tensor, P: int) -> Tensor:
    """Rows of P numbers, (n, P), from rows of any shape that holds as many: images (n, C, H, W).

    Raises DataError for integers, and for rows that do not hold P numbers.
    """
    if not x.is_floating_point():
        raise DataError(
            f"x holds integers ({x.dtype}): give floating point numbers, x.float() for zeros and "
            "ones, x.float() / 255 for bytes."
        )
    held = math.prod(x.shape[1:])
    if x.dim() < 2 or held != P:
        raise DataError(
            f"x has the shape {tuple(x.shape)}, {held} numbers a row, and the model decodes rows of "
            f"{P}: check the channels, height and width of the images, or the model's P."
        )
    return x.reshape(len(x), P)


def _positive_floor(floor: float) -> float:
    if not 0 < floor < math.inf:
        raise SettingError(
            f"floor={floor} must be positive: without one the likelihood is unbounded, since a scale "
            "that goes to 0 where a datum is met exactly has an infinite density."
        )
    return floor
