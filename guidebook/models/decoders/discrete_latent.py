"""A decoder of categorical latents: few enough states that everything about them is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from guidebook.errors import ModelError, SettingError
from guidebook.models.decoders.likelihoods import GreyBernoulli, as_rows
from guidebook.models.decoders.networks import mlp
from guidebook.programs.plate import rows

MOST_STATES = 65_536


class DiscreteVAE(PyroModule):
    r"""A variational autoencoder whose latents are L categorical variables of K values each.

    .. math:: z_{il} \sim \mathrm{Categorical}(1/K, \dots, 1/K), \qquad
        x_i \mid z_i \sim \mathrm{Bernoulli}(\mathrm{sigmoid}(f(z_i)))

    z is one-hot, and f reads it flattened, so it takes any point of the product of simplices: what
    relaxed draws ask of it. `x` in [0, 1]; grey levels are taken as averages of zeros and ones.

    Parameters: `decoder`. Sites, in plate `row`: `z` (n, L, K), event dimension 2, and `x` (n, P).

    Arguments: `P`, the width of the data; `latents` L; `categories` K; `hidden`, the widths of the
    hidden layers. Raises SettingError for a width or L below 1, K below 2.

    Source: Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax.
    """

    def __init__(
        self, P: int, latents: int, categories: int, hidden: Sequence[int] = (200,)
    ) -> None:
        super().__init__()
        if P < 1 or latents < 1 or categories < 2:
            raise SettingError(
                f"P={P}, latents={latents} and categories={categories}: give at least one pixel, one "
                "latent and two categories."
            )
        self.P = P
        self.latents = latents
        self.categories = categories
        self.decoder = mlp((latents * categories, *hidden, P))

    def decode(self, z: Tensor) -> Tensor:
        """The probabilities of the pixels given z: (..., L, K) to (..., P)."""
        output: Tensor = self.decoder(z.flatten(-2))
        return output.sigmoid()

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample `z` and `x`; arguments and errors as `guidebook.models.decoders.latent.VAE`."""
        if x is None and size is not None and size < 1:
            raise ModelError(f"size={size}: simulate at least one row.")
        x = None if x is None else as_rows(x, self.P)
        n, size = (size or 1, None) if x is None else (len(x), size)
        decoder = self.decoder  # once: each access registers all its parameters with Pyro
        weight = next(decoder.parameters())
        with rows(n, size, weight.device):
            logits = weight.new_zeros(self.latents, self.categories)
            z = pyro.sample("z", dist.OneHotCategorical(logits=logits).to_event(1))
            output = decoder(z.flatten(-2))
            return pyro.sample("x", GreyBernoulli(logits=output).to_event(1), obs=x)

    def states(self) -> Tensor:
        """All values of z, (K^L, L, K), the last latent changing fastest.

        Raises ModelError above 65,536 of them.
        """
        count = self.categories**self.latents
        if count > MOST_STATES:
            raise ModelError(
                f"{self.latents} latents of {self.categories} values have {count:,} states, and at "
                f"most {MOST_STATES:,} are enumerated: use an importance-weighted bound instead."
            )
        weight = next(self.decoder.parameters())
        choices = [torch.arange(self.categories, device=weight.device)] * self.latents
        index = torch.cartesian_prod(*choices).reshape(count, self.latents)
        return torch.eye(self.categories, dtype=weight.dtype, device=weight.device)[index]

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x_i, z = state s) for x (n, P): (n, K^L), in the order of `states()`."""
        logits: Tensor = self.decoder(self.states().flatten(-2))
        log_p_x = as_rows(x, self.P) @ logits.mT - torch.nn.functional.softplus(logits).sum(-1)
        return log_p_x - self.latents * math.log(self.categories)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_i) exactly, for x (n, P): (n,), summed over all K^L states."""
        return self.log_joint(x).logsumexp(-1)
