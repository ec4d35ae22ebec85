"""A normal sample of unknown mean and precision, with the conjugate normal-gamma prior."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.programs.plate import rows


def gaussian_mean(
    x: Tensor | None = None,
    size: int | None = None,
    *,
    loc: float = 0.0,
    strength: float = 1.0,
    shape: float = 2.0,
    rate: float = 1.0,
) -> Tensor:
    r"""Normal rows of unknown mean and precision.

    .. math::
        \tau &\sim \mathrm{Gamma}(a, b) \\
        \mu \mid \tau &\sim N(m_0,\ 1 / (\lambda_0 \tau)) \\
        x_i &\sim N(\mu,\ 1 / \tau)

    The second argument of N is a variance; m_0 is `loc`, lambda_0 is `strength` (the prior weighs as
    much as so many rows), a is `shape`, b is `rate`. The default prior (0, 1, 2, 1: the prior mean
    of the variance 1 / tau is 1) is meant for standardised x.

    Sites: `tau`, `mu` (scalars; mu in the units of x, tau in those of 1 / x^2), and `x` in plate
    `row`.

    Arguments: `x` (n,), or None to simulate; `size`, the number of rows of the whole data set when
    x is a mini-batch, or the number of rows to simulate (1 where it is not given). Returns x (n,).
    Raises ModelError if size is smaller than n, or than 1.

    Posterior, evidence and mean-field solution are known: `guidebook.guides.conjugate.gaussian_mean`.
    Source: Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.3; Gelman et al.
    (2013), Bayesian Data Analysis, section 3.3.
    """
    if size is not None and size < 1:
        raise ModelError(f"size={size}: simulate at least one row.")
    present = (size or 1) if x is None else len(x)
    like = torch.empty(()) if x is None else x
    tau = pyro.sample("tau", dist.Gamma(like.new_full((), shape), like.new_full((), rate)))
    mu = pyro.sample("mu", dist.Normal(torch.full_like(tau, loc), (strength * tau).rsqrt()))
    with rows(present, size, like.device):
        return pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)
