"""Decoder models: a local latent vector for every row, and a map from it to the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from guidebook.errors import DataError, ModelError, SettingError
from guidebook.models.decoders.likelihoods import Bernoulli, Gaussian, Likelihood, as_rows
from guidebook.models.decoders.networks import mlp
from guidebook.programs.plate import rows


class LinearVAE(PyroModule):
    r"""Linear Gaussian decoder: probabilistic principal component analysis.

    .. math:: z_i \sim N(0, I_d), \qquad x_i \mid z_i \sim N(W z_i + b,\ \sigma^2 I_P)

    Parameters: `weight` W (P, d), `bias` b (P,), `log_scale` = log sigma (scalar). Sites, in plate
    `row`: `z` (n, d) and `x` (n, P).

    The posterior N(M^{-1} W'(x - b), sigma^2 M^{-1}), M = W'W + sigma^2 I, and the evidence
    N(b, WW' + sigma^2 I) are known: `guidebook.guides.exact.conjugate.LinearGaussianPosterior`. W is
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
            raise DataError(
                f"x has the shape {(n, P)}: {latent_dim} latents need more than {latent_dim} rows and "
                f"more than {latent_dim} columns."
            )
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

    def prior(self) -> dist.TorchDistribution:
        """p(z): batch shape (), event shape (d,)."""
        return normal_prior(self.weight, self.latent_dim, 1.0)

    def observation(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z) for z (..., d): batch shape (...), event shape (P,)."""
        return dist.Normal(self.decode(z), self.log_scale.exp()).to_event(1)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z` and `x`. See `VAE.forward` for the arguments."""
        n, size = row_count(x, size)
        with rows(n, size, self.bias.device):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observation(z), obs=x)


class VAE(PyroModule):
    r"""Neural decoder: the generative half of a variational autoencoder.

    .. math:: z_i \sim N(0, \sigma_0^2 I_d), \qquad x_i \mid z_i \sim p(x \mid f(z_i))

    with f a network, by default a multilayer perceptron, and p a likelihood of
    `guidebook.models.decoders.likelihoods`. For `likelihood="bernoulli"` pixels are independently Bernoulli
    with logits f(z), and grey levels in [0, 1] are taken as averages of zeros and ones; for
    `"gaussian"`, x_i ~ N(f(z_i), s^2 I_P); any other `Likelihood` is given as a module.

    Sites, in plate `row`: `z` (n, d) and `x` (n, P). Images (n, C, H, W) are taken as rows of P = C
    H W numbers. Parameters: those of `decoder` and of `likelihood`, which may learn a scale.

    Arguments:

    - `P`, the numbers in a row of the data; `latent_dim` d;
    - `hidden`, the widths of the perceptron's hidden layers;
    - `likelihood`; `scale`, the standard deviation s of the "gaussian" one in the data's units, None
      to learn one for all columns;
    - `prior_scale` sigma_0; None is a flat prior, of log density 0 everywhere, under which the
      maximum of the ELBO of a point code is that of the likelihood: a deterministic autoencoder. A
      flat prior cannot be sampled; simulated codes are then N(0, I), a convention and not the model;
    - `decoder`, a network from (..., d) to (..., width) in place of the perceptron, such as
      `guidebook.models.decoders.networks.ConvDecoder`; `hidden` is then not used.

    With d of 1 or 2 evidence and posterior are known to rounding, by quadrature:
    `guidebook.guides.exact.quadrature.QuadraturePosterior`.

    Raises SettingError for values out of range and for a decoder of other widths. When called:
    DataError for integers, rows of other widths and values outside the likelihood's support.

    Source: Kingma & Welling (2014), Auto-encoding variational Bayes; Rezende, Mohamed & Wierstra
    (2014), Stochastic backpropagation and approximate inference in deep generative models.
    """

    def __init__(
        self,
        P: int,
        latent_dim: int,
        hidden: Sequence[int] = (400,),
        likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
        scale: float | None = None,
        *,
        prior_scale: float | None = 1.0,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _check_widths(P, latent_dim)
        check_prior_scale(prior_scale)
        self.P = P
        self.latent_dim = latent_dim
        self.prior_scale = prior_scale
        self.likelihood = as_likelihood(likelihood, scale)
        width = self.likelihood.width(P)
        self.decoder = mlp((latent_dim, *hidden, width)) if decoder is None else decoder
        if decoder is not None:
            check_decoder(decoder, latent_dim, width)

    def prior(self) -> dist.TorchDistribution:
        """p(z): batch shape (), event shape (d,)."""
        return normal_prior(next(self.decoder.parameters()), self.latent_dim, self.prior_scale)

    def observation(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z) for z (..., d): batch shape (...), event shape (P,)."""
        return self.likelihood.distribution(self.decoder(z))

    def decode(self, z: Tensor) -> Tensor:
        """The mean of x given z in data space: (..., d) to (..., P); probabilities if Bernoulli."""
        mean: Tensor = self.observation(z).mean
        return mean

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z` and `x`.

        Arguments: `x` (n, P) or (n, C, H, W), or None to simulate; `size`, the number of rows of the
        whole data set when x is a mini-batch, or the number of rows to simulate (1 where it is not
        given). Returns x (n, P). Raises ModelError if size is smaller than n.
        """
        x = None if x is None else as_rows(x, self.P)
        n, size = row_count(x, size)
        decoder = self.decoder  # once: each access from here registers all its parameters with Pyro
        weight = next(decoder.parameters())
        with rows(n, size, weight.device):
            z = pyro.sample("z", normal_prior(weight, self.latent_dim, self.prior_scale))
            return pyro.sample("x", self.likelihood.distribution(decoder(z)), obs=x)


def as_likelihood(likelihood: str | Likelihood, scale: float | None) -> Any:
    """The likelihood module of this name, or the module that was given.

    Raises SettingError for another name, or a scale where no Gaussian of that name takes it.
    """
    if likelihood == "gaussian":
        return Gaussian(scale)
    if scale is not None:
        raise SettingError(
            f"scale={scale} is the standard deviation of the Gaussian likelihood: give it with "
            "likelihood='gaussian', or None."
        )
    if likelihood == "bernoulli":
        return Bernoulli()
    if not isinstance(likelihood, nn.Module) or not hasattr(likelihood, "distribution"):
        raise SettingError(
            f"There is no likelihood {likelihood!r}: give 'bernoulli', 'gaussian', or a module of "
            "guidebook.models.decoders.likelihoods, such as GaussianPerDatum()."
        )
    return likelihood


def check_decoder(decoder: nn.Module, latent_dim: int, width: int) -> None:
    """Raises SettingError unless the network takes (..., latent_dim) to (..., width)."""
    parameter = next(decoder.parameters(), None)
    if parameter is None:
        raise SettingError("The decoder has no parameters: give a network that can be trained.")
    mode = decoder.training
    decoder.eval()
    try:
        with torch.no_grad():
            found = decoder(parameter.new_zeros(2, latent_dim)).shape
    except RuntimeError as error:
        raise SettingError(
            f"The decoder does not take latents (..., {latent_dim}): {str(error).splitlines()[0]}. "
            "Give it the input width latent_dim."
        ) from error
    finally:
        decoder.train(mode)
    if found != (2, width):
        raise SettingError(
            f"The decoder maps (2, {latent_dim}) to {tuple(found)}, and this likelihood needs "
            f"(2, {width}): give its last layer {width} outputs, flat."
        )


def check_prior_scale(prior_scale: float | None) -> None:
    """Raises SettingError unless it is None or positive and finite."""
    if prior_scale is not None and not 0 < prior_scale < math.inf:
        raise SettingError(
            f"prior_scale={prior_scale} is the standard deviation of the prior of z: give a positive "
            "number, or None for a flat prior."
        )


def normal_prior(like: Tensor, latent_dim: int, scale: float | None) -> dist.TorchDistribution:
    """N(0, scale^2 I); flat for None: log density 0, and samples of N(0, I) all the same."""
    if scale is None:
        return dist.Normal(like.new_zeros(latent_dim), 1.0).to_event(1).mask(False)
    return dist.Normal(like.new_zeros(latent_dim), scale).to_event(1)


def row_count(x: Tensor | None, size: int | None) -> tuple[int, int | None]:
    """How many rows there are or are to be simulated, and the `size` for their plate.

    Raises ModelError where fewer than one row is to be simulated.
    """
    if x is not None:
        return len(x), size
    if size is not None and size < 1:
        raise ModelError(f"size={size}: simulate at least one row.")
    return size or 1, None


def _check_widths(P: int, latent_dim: int) -> None:
    if P < 1 or latent_dim < 1:
        raise SettingError(f"P={P} and latent_dim={latent_dim} must each be at least 1.")
