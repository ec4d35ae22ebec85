"""Probit regression: zeros and ones on a Gaussian latent scale."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.special import log_ndtr

from guidebook.models.regression import linear_predictor
from guidebook.programs.plate import rows


def probit_regression(
    X: Tensor, y: Tensor | None = None, size: int | None = None, *, scale: float = 1.0
) -> Tensor:
    r"""Probit regression, p(y = 1) = Phi(intercept + x' beta), with a normal prior.

    .. math::
        \beta_0 \sim N(0, s), \qquad \beta_j \sim N(0, s), \quad j = 1, \dots, P \\
        y_i \sim \mathrm{Bernoulli}\left(\Phi(\beta_0 + x_i^\top \beta)\right)

    The second argument of N is a standard deviation, s is `scale`; Phi is the standard normal
    distribution function, so y_i says whether beta_0 + x_i' beta + noise of variance 1 is positive.

    Sites: `intercept` (scalar), `beta` (P,), and `y` in plate `row`.

    Arguments: `X` (n, P), columns standardised; `y` (n,) of zeros and ones in X's dtype, or None to
    simulate; `size`, the number of rows of the whole data set when X and y are a mini-batch.
    Returns y (n,).

    Expectation propagation has its moments in closed form: `guidebook.guides.conjugate.sites.ProbitSites`.
    Source: Albert & Chib (1993), Bayesian analysis of binary and polychotomous response data.
    """
    intercept = pyro.sample("intercept", dist.Normal(X.new_zeros(()), scale))
    beta = pyro.sample("beta", dist.Normal(X.new_zeros(X.shape[-1]), scale).to_event(1))
    with rows(len(X), size, X.device):
        latent = intercept + linear_predictor(X, beta)
        # log Phi / (1 - Phi) without forming Phi, which is 1 in floating point from 9 on: the log of the
        # smaller side by log_ndtr, that of the other, at least a half, from it
        upper = latent > 0
        smaller = log_ndtr(torch.where(upper, -latent, latent))
        away = torch.log1p(-smaller.exp()) - smaller
        return pyro.sample("y", dist.Bernoulli(logits=torch.where(upper, away, -away)), obs=y)
