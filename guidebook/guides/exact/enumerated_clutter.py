"""The exact posterior of a small clutter problem: every choice of the rows that are clutter."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError, SettingError


class EnumeratedClutter(nn.Module):
    r"""The exact posterior of theta in `guidebook.models.clutter.clutter`, all 2^n choices summed.

    Given that the rows of a set S, of number m, are seen through theta and the others are clutter,

    .. math::
        \theta \mid S, x \sim N\Big(\frac{\sum_S x_i}{1/b + m}, \frac{1}{1/b + m} I\Big), \qquad
        p(S \mid x) \propto (1-w)^m w^{n-m} \prod_{i \notin S} N(x_i; 0, aI)
        \int \prod_{i \in S} N(x_i; \theta, I) N(\theta; 0, bI) d\theta

    so the posterior is a mixture of 2^n normals. The arguments are the model's, with its defaults.

    Raises SettingError unless 0 < share < 1 and the variances are positive; DataError for more than
    14 rows or for x that is no matrix, GuideError for a mini-batch.

    Source: Minka (2001), A family of algorithms for approximate Bayesian inference, section 3.2.1:
    why this sum is out of reach for larger n.
    """

    MOST = 14

    def __init__(
        self, *, share: float = 0.5, clutter_variance: float = 10.0, prior_variance: float = 100.0
    ) -> None:
        super().__init__()
        good = 0 < clutter_variance < math.inf and 0 < prior_variance < math.inf
        if not (0 < share < 1 and good):
            raise SettingError(
                f"share={share} must lie in (0, 1), clutter_variance={clutter_variance} and "
                f"prior_variance={prior_variance} must be positive and finite."
            )
        self.share = share
        self.clutter_variance = clutter_variance
        self.prior_variance = prior_variance

    def posterior(self, x: Tensor) -> tuple[dist.TorchDistribution, Tensor]:
        """The distribution of theta (D,), and log p(x), for x (n, D)."""
        if x.dim() != 2:
            raise DataError(
                f"x has the shape {tuple(x.shape)}: the clutter problem needs x (n, D)."
            )
        n, D = x.shape
        if n > self.MOST:
            raise DataError(
                f"2^{n} choices of clutter are too many to sum: enumerate at most {self.MOST} rows, "
                "or use ep or nuts."
            )
        w, a, b = self.share, self.clutter_variance, self.prior_variance
        codes = torch.arange(2**n, device=x.device)
        seen = torch.stack([codes // 2**i % 2 for i in range(n)], -1).to(x)
        count = seen.sum(-1)
        precision = 1 / b + count
        sums = seen @ x
        squares = x.square().sum(-1)
        log_clutter = -0.5 * squares / a - 0.5 * D * math.log(2 * math.pi * a)
        log_x = count * math.log1p(-w) + (n - count) * math.log(w) + (1 - seen) @ log_clutter
        log_x = log_x - 0.5 * D * (count * math.log(2 * math.pi) + (b * precision).log())
        log_x = log_x - 0.5 * (seen @ squares - sums.square().sum(-1) / precision)
        scale = precision.rsqrt().unsqueeze(-1).expand_as(sums)
        components = dist.Normal(sums / precision.unsqueeze(-1), scale).to_event(1)
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=log_x), components)
        return mixture, log_x.logsumexp(0)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), a scalar."""
        return self.posterior(x)[1]

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample the site `theta` (D,) given all of x."""
        if x is None or size not in (None, len(x)):
            raise GuideError("The enumerated posterior needs all rows: pass x, and no mini-batch.")
        value: Tensor = pyro.sample("theta", self.posterior(x)[0])
        return value
