"""Exact posteriors as guides: their log density differs from the log joint by log p(data) only."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.programs.plate import rows


class NormalInverseGamma(NamedTuple):
    r"""sigma2 ~ InverseGamma(shape, rate), w | sigma2 ~ N(mean, sigma2 L L'), L = `scale_tril`.

    `mean` (P + 1,) and `scale_tril` (P + 1, P + 1) have the intercept first, then the coefficients.
    """

    shape: Tensor
    rate: Tensor
    mean: Tensor
    scale_tril: Tensor


class ConjugateRegression(nn.Module):
    r"""The posterior of Gaussian regression with a normal-inverse-gamma prior, as a guide.

    The prior is sigma2 ~ InverseGamma(a, b) and w | sigma2 ~ N(0, sigma2 s^2 I) with w = (beta_0,
    beta) and A = (1, X) of n rows. The posterior, sampled as sigma2, beta_0 | sigma2 and beta |
    beta_0, sigma2:

    .. math::
        V &= (A^\top A + s^{-2} I)^{-1}, \qquad m = V A^\top y \\
        a_n &= a + n / 2, \qquad
        b_n = b + \tfrac12 \left(\|y - A m\|^2 + \|m\|^2 / s^2\right) \\
        \sigma^2 \mid y &\sim \mathrm{InverseGamma}(a_n, b_n), \qquad
        w \mid \sigma^2, y \sim N(m, \sigma^2 V)

    It has no parameters: everything follows from the data it is called with, all rows at once. Its
    sites `sigma2`, `intercept`, `beta` and its arguments `shape`, `rate`, `scale` (a, b, s; each
    positive) are those of `guidebook.models.linear_regression`, with the same defaults.

    Raises SettingError for a prior argument that is not positive. When called: GuideError for a
    mini-batch, DataError without y or with shapes that do not match.

    Source: Murphy (2012), Machine Learning: a Probabilistic Perspective, section 7.6.3.
    """

    def __init__(self, *, shape: float = 2.0, rate: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        if not all(0 < value < math.inf for value in (shape, rate, scale)):
            raise SettingError(
                f"shape={shape}, rate={rate} and scale={scale} must each be positive and finite."
            )
        self.shape = shape
        self.rate = rate
        self.scale = scale

    def posterior(self, X: Tensor, y: Tensor | None) -> NormalInverseGamma:
        """The posterior's parameters for X (n, P) and y (n,), in their dtype."""
        if y is None or X.dim() != 2 or y.shape != X.shape[:1]:
            given = "no y" if y is None else f"y {tuple(y.shape)}"
            raise DataError(
                "The exact posterior needs X (n, P) and y (n,), and was given X "
                f"{tuple(X.shape)} and {given}: pass all observed rows."
            )
        A = torch.cat([X.new_ones(len(X), 1), X], -1)
        identity = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
        chol = torch.linalg.cholesky(A.mT @ A + identity / self.scale**2)
        mean = torch.cholesky_solve((A.mT @ y).unsqueeze(-1), chol).squeeze(-1)
        # Sums of squares, not y'y - m'V^-1 m: no cancellation when the fit is close.
        squares = (y - A @ mean).square().sum() + mean.square().sum() / self.scale**2
        return NormalInverseGamma(
            shape=X.new_full((), self.shape + len(y) / 2),
            rate=self.rate + squares / 2,
            mean=mean,
            scale_tril=torch.linalg.cholesky(torch.cholesky_inverse(chol)),
        )

    def log_evidence(self, X: Tensor, y: Tensor) -> Tensor:
        r"""log p(y | X), a scalar:

        .. math:: -\tfrac n2 \log 2\pi + \tfrac12 \log\frac{|V|}{s^{2(P+1)}} + a \log b - a_n \log
            b_n + \log\Gamma(a_n) - \log\Gamma(a)
        """
        exact = self.posterior(X, y)
        half_log_det = exact.scale_tril.diagonal().log().sum()
        return (
            -0.5 * len(y) * math.log(2 * math.pi)
            + half_log_det
            - len(exact.mean) * math.log(self.scale)
            + self.shape * math.log(self.rate)
            - exact.shape * exact.rate.log()
            + torch.lgamma(exact.shape)
            - math.lgamma(self.shape)
        )

    def forward(
        self, X: Tensor, y: Tensor | None = None, size: int | None = None
    ) -> dict[str, Tensor]:
        """Sample `sigma2`, `intercept` and `beta` from the posterior given all of X and y."""
        if size is not None and size != len(X):
            raise GuideError(
                f"The exact posterior needs all {size} rows and was given {len(X)}: call it "
                "without mini-batches (batch_size=None)."
            )
        exact = self.posterior(X, y)
        sigma2 = pyro.sample("sigma2", dist.InverseGamma(exact.shape, exact.rate))
        sigma = sigma2.sqrt()
        corner = exact.scale_tril[0, 0]
        intercept = pyro.sample("intercept", dist.Normal(exact.mean[0], sigma * corner))
        # L is lower triangular: its first column carries the intercept's share of beta.
        shift = ((intercept - exact.mean[0]) / corner).unsqueeze(-1) * exact.scale_tril[1:, 0]
        tril = sigma[..., None, None] * exact.scale_tril[1:, 1:]
        conditional = dist.MultivariateNormal(exact.mean[1:] + shift, scale_tril=tril)
        beta = pyro.sample("beta", conditional)
        return {"sigma2": sigma2, "intercept": intercept, "beta": beta}


class LinearGaussian(Protocol):
    """What `LinearGaussianPosterior` reads: x ~ N(weight z + bias, exp(log_scale)^2 I)."""

    weight: Tensor
    bias: Tensor
    log_scale: Tensor


class LinearGaussianPosterior(nn.Module):
    r"""The posterior of a linear Gaussian decoder (probabilistic PCA), as a guide.

    For z ~ N(0, I_d) and x | z ~ N(W z + b, sigma^2 I_P):

    .. math:: q(z \mid x) = N(M^{-1} W^\top (x - b),\ \sigma^2 M^{-1}), \qquad
        M = W^\top W + \sigma^2 I_d

    W (P, d), b (P,) and log sigma are read from `model` (its `weight`, `bias`, `log_scale`)
    whenever the guide is called, and never owned by it: it has no parameters and follows the model
    while that is trained. Copy the two together (`copy.deepcopy((model, guide))`).

    Raises GuideError if the model lacks one of the three, and when called without x.

    Source: Tipping & Bishop (1999), Probabilistic principal component analysis, equations 5 and 9.
    """

    def __init__(self, model: Any, *, site: str = "z", plate: str = "row") -> None:
        super().__init__()
        missing = [name for name in ("weight", "bias", "log_scale") if not hasattr(model, name)]
        if missing:
            raise GuideError(
                f"The model has no {' and no '.join(missing)}: this posterior is known for linear "
                "Gaussian decoders only, such as guidebook.models.LinearVAE."
            )
        # In a tuple, so that torch does not register the model as a part of the guide: its
        # parameters would change their names in the model.
        self._model: tuple[LinearGaussian] = (model,)
        self.site = site
        self.observed = "x"
        self.plate = plate

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x) for x (B, P): batch shape (B,), event shape (d,); one covariance for all."""
        mean, chol = self._moments(x)
        covariance = self._model[0].log_scale.exp().square() * torch.cholesky_inverse(chol)
        return dist.MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(covariance))

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""log p(x_i) of each row of x (B, P), shape (B,): log N(x_i; b, W W' + sigma^2 I).

        With m the posterior mean, by the determinant lemma and completing the square:

        .. math:: -\tfrac12 \left(P \log 2\pi + (P - d) \log \sigma^2 + \log|M|
            + \|x - b - W m\|^2 / \sigma^2 + \|m\|^2\right)
        """
        model = self._model[0]
        P, d = model.weight.shape
        mean, chol = self._moments(x)
        residual = x - model.bias - mean @ model.weight.mT
        log_det = 2 * (P - d) * model.log_scale + 2 * chol.diagonal().log().sum()
        squares = residual.square().sum(-1) / model.log_scale.exp().square()
        return -0.5 * (P * math.log(2 * math.pi) + log_det + squares + mean.square().sum(-1))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample the latents of x (B, P); `size` as in the model. Returns z (B, d)."""
        if x is None:
            raise GuideError("The exact posterior reads the data 'x': pass x=tensor.")
        with rows(len(x), size, x.device, self.plate):
            return pyro.sample(self.site, self.posterior(x))

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior means (B, d) and the Cholesky factor of M (d, d)."""
        model = self._model[0]
        W = model.weight
        identity = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
        chol = torch.linalg.cholesky(W.mT @ W + model.log_scale.exp().square() * identity)
        return torch.cholesky_solve(W.mT @ (x - model.bias).mT, chol).mT, chol
