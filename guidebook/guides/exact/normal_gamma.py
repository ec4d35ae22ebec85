"""The exact posterior of a Gaussian's mean and precision under its conjugate prior."""

from __future__ import annotations

import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError, SettingError


class NormalGamma(NamedTuple):
    r"""tau ~ Gamma(shape, rate), mu | tau ~ N(loc, 1 / (strength tau)); four scalars."""

    loc: Tensor
    strength: Tensor
    shape: Tensor
    rate: Tensor


class NormalGammaPrior(nn.Module):
    """The prior of `guidebook.models.gaussian_mean` and what conjugacy makes of it."""

    def __init__(self, loc: float, strength: float, shape: float, rate: float) -> None:
        super().__init__()
        if not (math.isfinite(loc) and all(0 < v < math.inf for v in (strength, shape, rate))):
            raise SettingError(
                f"loc={loc} must be finite, strength={strength}, shape={shape} and rate={rate} positive "
                "and finite."
            )
        self.loc, self.strength, self.shape, self.rate = loc, strength, shape, rate

    def posterior(self, x: Tensor | None) -> NormalGamma:
        r"""The posterior's parameters given x (n,), all rows:

        .. math::
            \lambda_n &= \lambda_0 + n, \qquad m_n = (\lambda_0 m_0 + n \bar x) / \lambda_n, \qquad
            a_n = a + n / 2 \\
            b_n &= b + \tfrac12 \sum_i (x_i - \bar x)^2
                + \tfrac12 \lambda_0 n (\bar x - m_0)^2 / \lambda_n
        """
        if x is None or x.dim() != 1:
            given = "no x" if x is None else f"x {tuple(x.shape)}"
            raise DataError(f"The posterior needs all rows x (n,), and was given {given}.")
        n, mean = len(x), x.mean()
        squares = (x - mean).square().sum()
        strength = self.strength + n
        shrunk = self.strength * n / strength * (mean - self.loc).square()
        return NormalGamma(
            loc=(self.strength * self.loc + n * mean) / strength,
            strength=x.new_full((), strength),
            shape=x.new_full((), self.shape + n / 2),
            rate=self.rate + 0.5 * (squares + shrunk),
        )


class NormalGammaPosterior(NormalGammaPrior):
    r"""The posterior of `guidebook.models.gaussian_mean`, as a guide.

    .. math:: \tau \mid x \sim \mathrm{Gamma}(a_n, b_n), \qquad
        \mu \mid \tau, x \sim N(m_n,\ 1 / (\lambda_n \tau))

    with the parameters that `posterior(x)` gives. It has no parameters of its own: everything follows
    from the rows it is called with, all at once. Its arguments are those of the model.

    Raises SettingError for a prior that is not proper. When called: GuideError for a mini-batch,
    DataError without x or for x that is not (n,).

    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 2.3.6; Murphy (2007),
    Conjugate Bayesian analysis of the Gaussian distribution.
    """

    def __init__(
        self, *, loc: float = 0.0, strength: float = 1.0, shape: float = 2.0, rate: float = 1.0
    ) -> None:
        super().__init__(loc, strength, shape, rate)

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""log p(x), a scalar:

        .. math:: -\tfrac n2 \log 2\pi + \tfrac12 \log\frac{\lambda_0}{\lambda_n} + a \log b
            - a_n \log b_n + \log\Gamma(a_n) - \log\Gamma(a)
        """
        exact = self.posterior(x)
        return (
            -0.5 * len(x) * math.log(2 * math.pi)
            + 0.5 * (math.log(self.strength) - exact.strength.log())
            + self.shape * math.log(self.rate)
            - exact.shape * exact.rate.log()
            + torch.lgamma(exact.shape)
            - math.lgamma(self.shape)
        )

    def forward(self, x: Tensor | None = None, size: int | None = None) -> dict[str, Tensor]:
        """Sample `tau` and `mu` from the posterior given all rows."""
        if x is not None and size is not None and size != len(x):
            raise GuideError(
                f"The exact posterior needs all {size} rows and was given {len(x)}: call it "
                "without mini-batches (batch_size=None)."
            )
        exact = self.posterior(x)
        tau = pyro.sample("tau", dist.Gamma(exact.shape, exact.rate))
        mu = pyro.sample("mu", dist.Normal(exact.loc, (exact.strength * tau).rsqrt()))
        return {"tau": tau, "mu": mu}
