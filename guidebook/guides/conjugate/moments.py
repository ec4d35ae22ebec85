r"""Moments of one likelihood factor times a normal: what a site of expectation propagation matches.

    Z = integral of t(s) N(s; m, v I) ds, and the mean and variance of t(s) N(s; m, v I) / Z

Sources: Rasmussen and Williams 2006, "Gaussian processes for machine learning", section 3.9; Minka
2001, "A family of algorithms for approximate Bayesian inference"; Bishop 2006, "Pattern recognition
and machine learning", section 10.7.1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.special import erfcx, log_ndtr

REACH = 10.0
"""The quadrature reaches ten standard deviations to each side, beyond which exp(-50) is left."""
SPACING = 0.8
"""Between nodes, where a sigmoid of width 1 is integrated: the error is exp(-2 pi^2 / 0.8)."""
LEAST_NODES, MOST_NODES = 128, 20_000
NUMBERS_AT_ONCE = 4_000_000


class Tilted(NamedTuple):
    """log of the mass of t(s) N(s; m, v I), (b,); its mean (b, k); its variance a coordinate (b,)."""

    log_mass: Tensor
    mean: Tensor
    variance: Tensor


def probit_moments(y: Tensor, mean: Tensor, variance: Tensor) -> Tilted:
    r"""Moments of Phi(s) N(s; m, v) for y = 1, Phi(-s) N(s; m, v) for y = 0; all of shape (b,).

    With c = +-1 the sign of the class, z = c m / sqrt(1 + v) and r = phi(z) / Phi(z):

    .. math:: \log Z = \log\Phi(z), \qquad \hat m = m + \frac{c v r}{\sqrt{1 + v}}, \qquad
        \hat v = v - \frac{v^2 r (z + r)}{1 + v}

    Source: Rasmussen & Williams (2006), equations 3.58, 3.85 and 3.87.
    """
    sign, root = 2 * y - 1, (1 + variance).sqrt()
    z = sign * mean / root
    log_mass = log_ndtr(z)
    r = math.sqrt(2 / math.pi) / erfcx(-z / math.sqrt(2))  # exp(-z^2 / 2) loses its digits far out
    shrink = variance / (1 + variance) * (r * (z + r)).clamp(0, 1)
    return Tilted(log_mass, mean + sign * variance * r / root, variance * (1 - shrink))


def logistic_moments(y: Tensor, mean: Tensor, variance: Tensor) -> Tilted:
    """Moments of sigmoid(c s) N(s; m, v), c = +-1 the sign of the class; all of shape (b,).

    By the trapezoidal rule, whose error falls exponentially with the number of nodes for such
    functions (Trefethen and Weideman 2014, "The exponentially convergent trapezoidal rule"). 64
    Gauss-Hermite nodes of N(m, v) are too far apart for the sigmoid from about v = 100 on: at m = -40,
    v = 200 they give the variance 11 % too small. The nodes reach ten standard deviations from a point
    within one of the mode, which lies between m and m + c v; the density falls off faster than N's.
    """
    sd = variance.sqrt()
    wanted = 2 * REACH * float(sd.max()) / SPACING
    nodes = int(min(MOST_NODES, max(LEAST_NODES, math.ceil(wanted))))
    halvings = max(1, math.ceil(math.log2(float(sd.max()) + 1)))
    size = max(1, NUMBERS_AT_ONCE // nodes)
    parts = zip((2 * y - 1).split(size), mean.split(size), sd.split(size), strict=True)
    pieces = [_logistic(sign, m, scale, nodes, halvings) for sign, m, scale in parts]
    return Tilted(*(torch.cat(column) for column in zip(*pieces, strict=True)))


def _logistic(sign: Tensor, mean: Tensor, sd: Tensor, nodes: int, halvings: int) -> Tilted:
    low, high = torch.zeros_like(mean), torch.ones_like(mean)  # of the way from m to m + c v
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        right = torch.sigmoid(-sign * (mean + sign * sd.square() * middle)) > middle
        low, high = torch.where(right, middle, low), torch.where(right, high, middle)
    grid = torch.linspace(-REACH, REACH, nodes, dtype=mean.dtype, device=mean.device)
    off = (sign * sd * 0.5 * (low + high)).unsqueeze(-1) + grid  # (s - m) / sd
    s = mean.unsqueeze(-1) + sd.unsqueeze(-1) * off
    log_density = logsigmoid(sign.unsqueeze(-1) * s) - 0.5 * off.square()
    top = log_density.max(-1, keepdim=True).values
    weight = (log_density - top).exp()
    mass = weight.sum(-1)
    weight = weight / mass.unsqueeze(-1)
    away = (weight * off).sum(-1)
    spread = (weight * (off - away.unsqueeze(-1)).square()).sum(-1)
    step = 2 * REACH / (nodes - 1) / math.sqrt(2 * math.pi)
    return Tilted((mass * step).log() + top.squeeze(-1), mean + sd * away, sd.square() * spread)


def clutter_moments(
    x: Tensor, mean: Tensor, variance: Tensor, share: float, clutter_variance: float
) -> Tilted:
    r"""Moments of ((1 - w) N(x; theta, I) + w N(x; 0, a I)) N(theta; m, v I), for x (b, D), m (b, D).

    With r the probability that x is not clutter, g = r v / (v + 1) and e = x - m:

    .. math:: \hat m = m + g e, \qquad
        \hat v = v - r \frac{v^2}{v + 1} + r (1 - r) \frac{v^2 |e|^2}{D (v + 1)^2}

    Source: Bishop (2006), equations 10.216 to 10.219; Minka (2001), section 3.2.1.
    """
    D, e = x.shape[-1], x - mean
    seen = math.log1p(-share) + _log_isotropic(e.square().sum(-1), variance + 1, D)
    apart = math.log(share) + _log_isotropic(
        x.square().sum(-1), torch.full_like(variance, clutter_variance), D
    )
    log_mass = torch.logaddexp(seen, apart)
    r = (seen - log_mass).exp()
    gain = variance / (variance + 1)
    squares = e.square().sum(-1) / D
    new = variance * (1 - r * gain) + r * (1 - r) * gain.square() * squares
    return Tilted(log_mass, mean + (r * gain).unsqueeze(-1) * e, new)


def _log_isotropic(squares: Tensor, variance: Tensor, D: int) -> Tensor:
    return -0.5 * (D * (2 * math.pi * variance).log() + squares / variance)
