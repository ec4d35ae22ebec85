"""Regression with global coefficients: conjugate Gaussian and logistic, for mini-batches too."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guidebook.programs.plate import rows


def linear_regression(
    X: Tensor,
    y: Tensor | None = None,
    size: int | None = None,
    *,
    shape: float = 2.0,
    rate: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    r"""Gaussian regression with the conjugate normal-inverse-gamma prior.

    .. math::
        \sigma^2 &\sim \mathrm{InverseGamma}(a, b) \\
        \beta_0 \mid \sigma^2 &\sim N(0, \sigma^2 s^2), \qquad
        \beta_j \mid \sigma^2 \sim N(0, \sigma^2 s^2), \quad j = 1, \dots, P \\
        y_i &\sim N(\beta_0 + x_i^\top \beta,\ \sigma^2)

    The second argument of N is a variance; a is `shape`, b is `rate`, s is `scale`. The default
    prior (a = 2, b = 1, s = 1: prior mean of sigma2 is 1) is meant for standardised X and y.

    Sites: `sigma2`, `intercept` (scalars), `beta` (P,), and `y` in plate `row`.

    Arguments: `X` (n, P); `y` (n,) or None to simulate; `size`, the number of rows of the whole
    data set when X and y are a mini-batch. Returns y (n,).

    Posterior and evidence are known: `guidebook.guides.exact.conjugate.ConjugateRegression`.
    Source: Gelman et al. (2013), Bayesian Data Analysis, section 14.8; Murphy (2012), Machine
    Learning: a Probabilistic Perspective, section 7.6.3.
    """
    sigma2 = pyro.sample("sigma2", dist.InverseGamma(X.new_full((), shape), X.new_full((), rate)))
    sigma = sigma2.sqrt()
    intercept = pyro.sample("intercept", dist.Normal(torch.zeros_like(sigma), scale * sigma))
    spread = (scale * sigma).unsqueeze(-1).expand(*sigma.shape, X.shape[-1])
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(spread), spread).to_event(1))
    with rows(len(X), size, X.device):
        mean = intercept + linear_predictor(X, beta)
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def logistic_regression(
    X: Tensor, y: Tensor | None = None, size: int | None = None, *, scale: float = 2.5
) -> Tensor:
    r"""Logistic regression with a normal prior.

    .. math::
        \beta_0 \sim N(0, s), \qquad \beta_j \sim N(0, s), \quad j = 1, \dots, P \\
        y_i \sim \mathrm{Bernoulli}\left(\frac{1}{1 + e^{-(\beta_0 + x_i^\top \beta)}}\right)

    The second argument of N is a standard deviation, s is `scale`.

    Sites: `intercept` (scalar), `beta` (P,), and `y` in plate `row`.

    Arguments: `X` (n, P), columns standardised; `y` (n,) of zeros and ones in X's dtype, or None to
    simulate; `size`, the number of rows of the whole data set when X and y are a mini-batch.
    Returns y (n,).

    The scale 2.5 is that of the Cauchy prior of Gelman, Jakulin, Pittau & Su (2008), A weakly
    informative default prior distribution for logistic and other regression models; the normal of
    that scale is the default of rstanarm (Goodrich, Gabry, Ali & Brilleman).
    """
    intercept = pyro.sample("intercept", dist.Normal(X.new_zeros(()), scale))
    beta = pyro.sample("beta", dist.Normal(X.new_zeros(X.shape[-1]), scale).to_event(1))
    with rows(len(X), size, X.device):
        logits = intercept + linear_predictor(X, beta)
        return pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def linear_predictor(X: Tensor, beta: Tensor) -> Tensor:
    r"""The products x_i' beta: shape (n,) for `beta` (P,), (..., n) for `beta` (..., 1, P).

    The second form is what Pyro gives under vectorised particles: the dimension of size 1 before P
    is that of the rows' plate, and the n rows take its place. One matrix product serves both.
    """
    products = beta @ X.mT
    return products if beta.dim() == 1 else products.squeeze(-2)
