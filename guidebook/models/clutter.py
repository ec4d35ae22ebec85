"""Minka's clutter problem: find a mean among points of which a known share is clutter."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError
from guidebook.programs.plate import rows


def clutter(
    x: Tensor | None = None,
    size: int | None = None,
    *,
    D: int = 1,
    share: float = 0.5,
    clutter_variance: float = 10.0,
    prior_variance: float = 100.0,
) -> Tensor:
    r"""A mean theta in D dimensions, seen through a mixture with clutter around the origin.

    .. math::
        \theta &\sim N(0, b I_D) \\
        x_i \mid \theta &\sim (1 - w) N(\theta, I_D) + w N(0, a I_D)

    w is `share`, a is `clutter_variance`, b is `prior_variance`. The posterior is a mixture of 2^n
    normals; the log density has several modes when theta is seen badly.

    Sites: `theta` (D,), and `x` (n, D) in plate `row`.

    Arguments: `x` (n, D), or None to simulate; `size`, the number of rows of the whole data set when
    x is a mini-batch, or the number of rows to simulate (1 where it is not given), in `D` dimensions.
    Returns x (n, D). Raises DataError where x is not a matrix, SettingError unless 0 < w < 1, the
    variances are positive, and `D` and `size` are at least 1.

    Source: Minka (2001), A family of algorithms for approximate Bayesian inference, section 3.2.1,
    with w = 0.5, a = 10, b = 100; Bishop (2006), Pattern Recognition and Machine Learning, section
    10.7.1.
    """
    _check(share, clutter_variance, prior_variance)
    if x is not None and x.dim() != 2:
        raise DataError(f"x has the shape {tuple(x.shape)}: the clutter problem needs x (n, D).")
    if x is None and (D < 1 or (size is not None and size < 1)):
        raise SettingError(f"D={D} and size={size} must each be at least 1 to simulate.")
    n, D = (size or 1, D) if x is None else x.shape
    like = torch.empty(0) if x is None else x
    theta = pyro.sample(
        "theta", dist.Normal(like.new_zeros(D), math.sqrt(prior_variance)).to_event(1)
    )
    with rows(n, size, like.device):
        kinds = dist.Categorical(probs=like.new_tensor([1 - share, share]))
        means = torch.stack([theta, torch.zeros_like(theta)], -2)
        scales = like.new_tensor([1.0, math.sqrt(clutter_variance)]).unsqueeze(-1)
        components = dist.Normal(means, scales).to_event(1)
        return pyro.sample("x", dist.MixtureSameFamily(kinds, components), obs=x)


def _check(share: float, clutter_variance: float, prior_variance: float) -> None:
    if not 0 < share < 1:
        raise SettingError(f"share={share} is the probability of clutter: give it in (0, 1).")
    for name, value in (
        ("clutter_variance", clutter_variance),
        ("prior_variance", prior_variance),
    ):
        if not 0 < value < math.inf:
            raise SettingError(f"{name}={value} must be positive and finite.")
