"""The exact posterior of a small mixture: every assignment of its rows enumerated."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError


class EnumeratedMixture(nn.Module):
    r"""The exact posterior of the means of a small mixture, all K^n assignments enumerated.

    For `covariance="unit"` and fixed weights: given assignments z with counts n_k and sums s_k,

    .. math:: \mu_k \mid z, x \sim N\Big(\frac{\kappa m + s_k}{\kappa + n_k},
        \frac{1}{\kappa + n_k} I\Big), \qquad p(z \mid x) \propto p(x \mid z) K^{-n}

    so the posterior is a mixture of K^n Gaussians, and log p(x) a sum of as many terms.

    Raises GuideError for another kind of mixture, DataError when K^n is above 20,000.

    Source: Blei, Kucukelbir & McAuliffe (2017), Variational inference, section 2.1: why this sum is
    out of reach for larger n.
    """

    MOST = 20_000

    def __init__(self, model: Any) -> None:
        super().__init__()
        if getattr(model, "covariance", None) != "unit" or model.concentration is not None:
            raise GuideError(
                "The enumerated posterior is known for GaussianMixture(covariance='unit', "
                "concentration=None): for other mixtures use gibbs as the reference."
            )
        self._model = (model,)

    def posterior(self, x: Tensor) -> tuple[dist.TorchDistribution, Tensor]:
        """The distribution of the means (K, D), and log p(x), for x (n, D)."""
        model = self._model[0]
        n, K, D = len(x), model.K, model.D
        if K**n > self.MOST:
            raise DataError(
                f"{K}^{n} assignments are more than {self.MOST:,}: enumerate at most "
                f"{int(math.log(self.MOST) / math.log(max(K, 2)))} rows, or use gibbs."
            )
        codes = torch.arange(K**n, device=x.device)
        z = torch.stack([codes // K**i % K for i in range(n)], -1)
        share = nn.functional.one_hot(z, K).to(x)
        hyper = model.prior(x)
        kappa, prior_mean = hyper["mean_precision"], hyper["loc"]
        counts = share.sum(1)
        precision = kappa + counts
        sums = kappa.unsqueeze(-1) * prior_mean + share.mT @ x
        loc = sums / precision.unsqueeze(-1)
        # log p(x | z) by completing the square in every component
        squares = x.square().sum() + (kappa * prior_mean.square().sum(-1)).sum()
        left = squares - (precision.unsqueeze(-1) * loc.square()).sum((-2, -1))
        log_x = 0.5 * D * (kappa.log() - precision.log()).sum(-1) - 0.5 * left
        log_x = log_x - 0.5 * n * D * math.log(2 * math.pi) - n * math.log(K)
        scale = precision.rsqrt().unsqueeze(-1).expand_as(loc)
        components = dist.Normal(loc, scale).to_event(2)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=log_x), components)
        return mixture, log_x.logsumexp(0)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), a scalar."""
        return self.posterior(x)[1]

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample the site `loc` (K, D) given all of x."""
        if x is None or size not in (None, len(x)):
            raise GuideError("The enumerated posterior needs all rows: pass x, and no mini-batch.")
        value: Tensor = pyro.sample("loc", self.posterior(x)[0])
        return value
