"""Decoder models: a local latent vector for every row, and a map from it to the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from guidebook.errors import DataError, ModelError, SettingError
from guidebook.models.networks import mlp
from guidebook.models.rows import rows


class LinearVAE(PyroModule):
    r"""Linear Gaussian decoder: probabilistic principal component analysis.

    .. math:: z_i \sim N(0, I_d), \qquad x_i \mid z_i \sim N(W z_i + b,\ \sigma^2 I_P)

    Parameters: `weight` W (P, d), `bias` b (P,), `log_scale` = log sigma (scalar). Sites, in plate
    `row`: `z` (n, d) and `x` (n, P).

    The posterior N(M^{-1} W'(x - b), sigma^2 M^{-1}), M = W'W + sigma^2 I, and the evidence
    N(b, WW' + sigma^2 I) are known: `guidebook.guides.conjugate.LinearGaussianPosterior`. W is
    identified up to a rotation of the latent space.

    Arguments: `P`, the width of the data; `latent_dim` d. Raises SettingError unless 1 <= d and 1
    <= P.

    Source: Tipping & Bishop (1999), Probabilistic principal component analysis; as the linear case
    of a variational autoencoder: Lucas, Tucker, Grosse & Norouzi (2019), Don't blame the ELBO!
    """

    def __init__(self, P: int, latent_dim: int) -> None:
        super().__init__()
        _check_widths(P, latent_dim)
        self.latent_dim = latent_dim
        self.weight = nn.Parameter(torch.randn(P, latent_dim) / math.sqrt(latent_dim))
        self.bias = nn.Parameter(torch.zeros(P))
        self.log_scale = nn.Parameter(torch.zeros(()))

    @classmethod
    def maximum_likelihood(cls, x: Tensor, latent_dim: int) -> LinearVAE:
        r"""The model at its maximum of likelihood for `x` (n, P), which has a closed form.

        With the eigenvalues l_1 >= ... >= l_P and vectors U of the covariance of x (dividing by n),

        .. math:: \sigma^2 = \frac{1}{P - d} \sum_{j > d} l_j, \qquad
            W = U_d (L_d - \sigma^2 I)^{1/2}, \qquad b = \bar x

        Raises DataError if there are no more than d rows or no more than d columns, or if the rows
        lie in d dimensions, so that sigma would be 0.

        Source: Tipping & Bishop (1999), equations 7 and 8.
        """
        n, P = x.shape
        if min(n, P) <= latent_dim:
            raise DataError(f"x has the shape {(n, P)}: {latent_dim} latents need more of both.")
        mean = x.mean(0)
        centred = (x - mean).double()
        values, vectors = torch.linalg.eigh(centred.mT @ centred / n)
        variance = values[: P - latent_dim].mean()
        if not variance > 1e-12 * values[-1]:
            raise DataError(
                f"x lies in {latent_dim} dimensions or fewer, so sigma would be 0: take fewer "
                "latents."
            )
        scaled = vectors * (values - variance).clamp_min(0).sqrt()
        model = cls(P, latent_dim).to(x)
        with torch.no_grad():
            model.weight.copy_(scaled[:, P - latent_dim :].flip(-1))
            model.bias.copy_(mean)
            model.log_scale.copy_(0.5 * variance.log())
        return model

    def decode(self, z: Tensor) -> Tensor:
        """The mean W z + b in data space: (..., d) to (..., P)."""
        return z @ self.weight.mT + self.bias

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z` and `x`. See `VAE.forward` for the arguments."""
        n, size = _row_count(x, size)
        with rows(n, size, self.bias.device):
            z = pyro.sample("z", _standard_normal(self.weight, self.latent_dim))
            likelihood = dist.Normal(self.decode(z), self.log_scale.exp()).to_event(1)
            return pyro.sample("x", likelihood, obs=x)


class VAE(PyroModule):
    r"""Neural decoder: the generative half of a variational autoencoder.

    .. math:: z_i \sim N(0, I_d), \qquad x_i \mid z_i \sim p(x \mid f(z_i))

    with f a multilayer perceptron and, for `likelihood="bernoulli"`, pixels that are independently
    Bernoulli with logits f(z); for `"gaussian"`, x_i ~ N(f(z_i), s^2 I_P).

    Grey levels x in [0, 1] are accepted by the Bernoulli likelihood: x log p + (1 - x) log(1 - p)
    is the average of log p over binary pixels drawn with probabilities x. It is then a lower bound
    of such a log density, not a density of x: for evidences, give zeros and ones.

    Parameters: `decoder`, and `log_scale` = log s (scalar) where s is learned. Sites, in plate
    `row`: `z` (n, d) and `x` (n, P).

    Arguments: `P`, the width of the data; `latent_dim` d; `hidden`, the widths of the hidden
    layers; `likelihood`; `scale`, the standard deviation s of the Gaussian likelihood in the data's
    units, None to learn one for all columns. Raises SettingError for values out of range.

    Source: Kingma & Welling (2014), Auto-encoding variational Bayes; Rezende, Mohamed & Wierstra
    (2014), Stochastic backpropagation and approximate inference in deep generative models.
    """

    def __init__(
        self,
        P: int,
        latent_dim: int,
        hidden: Sequence[int] = (400,),
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        scale: float | None = None,
    ) -> None:
        super().__init__()
        _check_widths(P, latent_dim)
        if likelihood not in ("bernoulli", "gaussian"):
            raise SettingError(
                f"There is no likelihood {likelihood!r}: give 'bernoulli' or 'gaussian'."
            )
        if scale is not None and (likelihood == "bernoulli" or not 0 < scale < math.inf):
            raise SettingError(
                f"scale={scale} is the standard deviation of the Gaussian likelihood: give a "
                "positive number with likelihood='gaussian', or None."
            )
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.scale = scale
        self.decoder = mlp((latent_dim, *hidden, P))
        if likelihood == "gaussian" and scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))

    def decode(self, z: Tensor) -> Tensor:
        """The mean of x given z in data space: (..., d) to (..., P); probabilities if Bernoulli."""
        output: Tensor = self.decoder(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z` and `x`.

        Arguments: `x` (n, P), or None to simulate; `size`, the number of rows of the whole data set
        when x is a mini-batch, or the number of rows to simulate (1 where it is not given).
        Returns x (n, P). Raises ModelError if size is smaller than n.
        """
        n, size = _row_count(x, size)
        decoder = self.decoder  # once: each access from here registers all its parameters with Pyro
        weight = next(decoder.parameters())
        with rows(n, size, weight.device):
            z = pyro.sample("z", _standard_normal(weight, self.latent_dim))
            return pyro.sample("x", self._likelihood(decoder(z)).to_event(1), obs=x)

    def _likelihood(self, output: Tensor) -> dist.TorchDistribution:
        if self.likelihood == "bernoulli":
            return GreyBernoulli(logits=output)
        scale = self.log_scale.exp() if self.scale is None else self.scale
        return dist.Normal(output, scale)


class GreyBernoulli(dist.Bernoulli):
    """Bernoulli whose `log_prob` also takes grey levels in [0, 1], and still refuses all else.

    Samples are zeros and ones.
    """

    support = constraints.unit_interval
    has_enumerate_support = False


def _standard_normal(like: Tensor, latent_dim: int) -> dist.TorchDistribution:
    return dist.Normal(like.new_zeros(latent_dim), 1.0).to_event(1)


def _row_count(x: Tensor | None, size: int | None) -> tuple[int, int | None]:
    if x is not None:
        return len(x), size
    if size is not None and size < 1:
        raise ModelError(f"size={size}: simulate at least one row.")
    return size or 1, None


def _check_widths(P: int, latent_dim: int) -> None:
    if P < 1 or latent_dim < 1:
        raise SettingError(f"P={P} and latent_dim={latent_dim} must each be at least 1.")
