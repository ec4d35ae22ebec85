"""Two layers of local latents: a neural prior for the codes of a decoder model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn.functional import softplus

from guidebook.errors import SettingError
from guidebook.models.decoders.latent import as_likelihood, check_decoder, normal_prior, row_count
from guidebook.models.decoders.likelihoods import Likelihood, as_rows
from guidebook.models.decoders.networks import mlp
from guidebook.programs.plate import rows

SCALE_FLOOR = 1e-3
"""The least standard deviation of z_1 given z_2: without one a layer could copy the other."""


class HierarchicalVAE(PyroModule):
    r"""Neural decoder with two stochastic layers.

    .. math:: z_{2,i} \sim N(0, I_{d_2}), \qquad
        z_{1,i} \mid z_{2,i} \sim N(m(z_{2,i}), \mathrm{diag}\, s(z_{2,i})^2), \qquad
        x_i \mid z_{1,i} \sim p(x \mid f(z_{1,i}))

    m and s = 0.001 + softplus(.) are the two halves of the output of the network `middle`, f is the
    network `decoder`, and p a likelihood, as in `guidebook.models.decoders.latent.VAE`. Given z_1, the upper
    layer is independent of x, so the posterior is p(z_1 | x) p(z_2 | z_1), and a guide of that form
    (`guidebook.guides.amortized.layers.AmortizedLayers`) loses nothing by its form.

    Sites, in plate `row`: `z_2` (n, d_2), `z_1` (n, d_1) and `x` (n, P).

    Arguments: `P`, the numbers in a row of the data; `latent_dims` (d_1, d_2), the layer next to
    the data first; `hidden`, the widths of the hidden layers of `decoder`, and of `middle` where
    `middle_hidden` gives none of its own; `likelihood` and `scale` as in `VAE`; `decoder`, a network
    in place of the perceptron. Raises SettingError for values out of range. When called: DataError
    for integers, rows of other widths and values outside the likelihood's support.

    Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, section 5 (two
    stochastic layers); Sonderby, Raiko, Maaloe, Sonderby & Winther (2016), Ladder variational
    autoencoders.
    """

    def __init__(
        self,
        P: int,
        latent_dims: tuple[int, int],
        hidden: Sequence[int] = (400,),
        likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
        scale: float | None = None,
        *,
        middle_hidden: Sequence[int] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if P < 1 or len(latent_dims) != 2 or min(latent_dims) < 1:
            raise SettingError(
                f"P={P} must be at least 1 and latent_dims={latent_dims} two numbers of at least 1: "
                "the layer next to the data first."
            )
        lower, upper = latent_dims
        self.P = P
        self.latent_dims = (lower, upper)
        self.likelihood = as_likelihood(likelihood, scale)
        width = self.likelihood.width(P)
        self.decoder = mlp((lower, *hidden, width)) if decoder is None else decoder
        if decoder is not None:
            check_decoder(decoder, lower, width)
        between = hidden if middle_hidden is None else middle_hidden
        self.middle = mlp((upper, *between, 2 * lower))

    def decode(self, z_1: Tensor) -> Tensor:
        """The mean of x given the lower layer, in data space: (..., d_1) to (..., P)."""
        mean: Tensor = self.likelihood.distribution(self.decoder(z_1)).mean
        return mean

    def layer(self, z_2: Tensor) -> dist.TorchDistribution:
        """p(z_1 | z_2) for z_2 (..., d_2): batch shape (...), event shape (d_1,)."""
        return _layer(self.middle(z_2))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z_2`, `z_1` and `x`. See `VAE.forward` for the arguments."""
        x = None if x is None else as_rows(x, self.P)
        n, size = row_count(x, size)
        decoder, middle = self.decoder, self.middle  # once: each access registers all parameters
        weight = next(decoder.parameters())
        with rows(n, size, weight.device):
            z_2 = pyro.sample("z_2", normal_prior(weight, self.latent_dims[1], 1.0))
            z_1 = pyro.sample("z_1", _layer(middle(z_2)))
            return pyro.sample("x", self.likelihood.distribution(decoder(z_1)), obs=x)


def _layer(output: Tensor) -> dist.TorchDistribution:
    mean, raw = output.chunk(2, -1)
    return dist.Normal(mean, SCALE_FLOOR + softplus(raw)).to_event(1)
