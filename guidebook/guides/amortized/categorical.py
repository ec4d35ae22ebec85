"""Amortised guides of categorical latents: an encoder gives every row its own probabilities."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from guidebook.errors import GuideError
from guidebook.guides.amortized.normal import check_floating
from guidebook.programs.plate import rows


class OneHot(dist.OneHotCategorical):
    """The one-hot categorical, its draws made without reading values: a step can be recorded."""

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            index = self._categorical.sample(torch.Size(sample_shape)).unsqueeze(-1)
            zero = torch.zeros_like(self.logits).expand(*index.shape[:-1], -1)
            return zero.scatter(-1, index, 1.0)


class AmortizedCategorical(PyroModule):
    r"""q(z | x) a product of categoricals, their logits the outputs of an encoder.

    .. math:: q(z_i \mid x_i) = \prod_{l=1}^L \mathrm{Categorical}(z_{il};\ \mathrm{softmax}(h_l(x_i)))

    z is one-hot, (n, L, K). Its draws have no gradient: fit it by
    `guidebook.inference.objectives.relaxed.RelaxedELBO` (Gumbel-softmax, straight-through), by
    Pyro's Trace_ELBO (score function) or, where the states are few, by the exact
    `guidebook.inference.objectives.enumerated.EnumeratedELBO`.

    Arguments: `encoder` maps x (B, P) to (B, L K), any `nn.Module`; `latents` L; `categories` K;
    `site`, `observed` and `plate` as in `guidebook.guides.amortized.normal.AmortizedNormal`.

    Raises GuideError for fewer than one latent or two categories; when called, for an encoder of
    another width and for missing data.

    Source: Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax.
    """

    def __init__(
        self,
        encoder: nn.Module,
        latents: int,
        categories: int,
        *,
        site: str = "z",
        observed: str = "x",
        plate: str = "row",
    ) -> None:
        super().__init__()
        if latents < 1 or categories < 2:
            raise GuideError(
                f"latents={latents} and categories={categories}: give at least one latent and two "
                "categories."
            )
        self.encoder = encoder
        self.latents, self.categories = latents, categories
        self.site, self.observed, self.plate = site, observed, plate
        self.width = latents * categories

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x) for x (B, P): batch shape (B,), event shape (L, K).

        Raises DataError for integers, GuideError if the encoder's output does not have the width
        L K.
        """
        check_floating(x, self.observed)
        output: Tensor = self.encoder(x)
        if output.shape != (len(x), self.width):
            raise GuideError(
                f"The encoder maps x {tuple(x.shape)} to {tuple(output.shape)}, but {self.latents} "
                f"latents of {self.categories} values need {(len(x), self.width)}: give the "
                f"encoder's last layer {self.width} outputs."
            )
        logits = output.unflatten(-1, (self.latents, self.categories))
        return OneHot(logits=logits).to_event(1)

    def forward(self, x: Tensor | None = None, size: int | None = None, **other: Any) -> Tensor:
        """Sample the latent site given the observed data; takes the model's keywords.

        Arguments: the data under the keyword `observed`; `size`, the number of rows of the whole
        data set when the data are a mini-batch. Returns z (B, L, K).
        """
        data = other.get(self.observed) if x is None else x
        if not isinstance(data, Tensor):
            raise GuideError(
                f"The guide of {self.site!r} reads the data {self.observed!r}, which it was not "
                f"given: pass {self.observed}=tensor, or name another keyword by observed=..."
            )
        with rows(len(data), size, data.device, self.plate):
            return pyro.sample(self.site, self.posterior(data))
