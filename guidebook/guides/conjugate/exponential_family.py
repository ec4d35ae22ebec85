r"""Exponential families: natural, mean and standard parameters, and how they turn into each other.

.. math:: p(x \mid \eta) = h(x) \exp\{\langle \eta, t(x) \rangle - A(\eta)\}, \qquad
    \nabla A(\eta) = E[t(x)]

Natural parameters, statistics and their expectations are flat tensors (..., d) of one length, so
that a conjugate update is a sum, a natural-gradient step a convex combination and <., .> a dot
product, whatever the family.

Source: Wainwright & Jordan (2008), Graphical models, exponential families, and variational
inference; Bishop (2006), Pattern Recognition and Machine Learning, appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class ExponentialFamily(Protocol):
    """One family; every method maps over leading dimensions."""

    def statistics(self, *values: Tensor) -> Tensor:
        """t(x), (..., d)."""

    def log_base(self, *values: Tensor) -> Tensor:
        """log h(x), (...)."""

    def natural(self, **standard: Tensor) -> Tensor:
        """eta of the standard parameters, (..., d)."""

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        """The standard parameters of eta, by name."""

    def log_normaliser(self, natural: Tensor) -> Tensor:
        """A(eta), (...)."""

    def mean(self, natural: Tensor) -> Tensor:
        """E[t(x)] = grad A(eta), (..., d)."""


def kl_divergence(family: ExponentialFamily, q: Tensor, p: Tensor) -> Tensor:
    r"""KL(q || p) of two members by their natural parameters, (...):

    .. math:: \langle \eta_q - \eta_p, E_q[t] \rangle - A(\eta_q) + A(\eta_p)
    """
    inner = ((q - p) * family.mean(q)).sum(-1)
    return inner - family.log_normaliser(q) + family.log_normaliser(p)


@dataclass(frozen=True)
class Categorical:
    """Over 0 ... K - 1: t(x) is its indicator vector; `probs` (..., K)."""

    size: int

    def statistics(self, value: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(value, self.size).to(torch.get_default_dtype())

    def log_base(self, value: Tensor) -> Tensor:
        return torch.zeros(value.shape)

    def natural(self, probs: Tensor) -> Tensor:
        return probs.log()

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        return {"probs": natural.softmax(-1)}

    def log_normaliser(self, natural: Tensor) -> Tensor:
        return natural.logsumexp(-1)

    def mean(self, natural: Tensor) -> Tensor:
        return natural.softmax(-1)


@dataclass(frozen=True)
class Dirichlet:
    """Over the simplex of K: t(x) = log x, h = 1; `concentration` (..., K) = eta + 1."""

    def statistics(self, value: Tensor) -> Tensor:
        return value.log()

    def log_base(self, value: Tensor) -> Tensor:
        return value.new_zeros(value.shape[:-1])

    def natural(self, concentration: Tensor) -> Tensor:
        return concentration - 1

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        return {"concentration": natural + 1}

    def log_normaliser(self, natural: Tensor) -> Tensor:
        a = natural + 1
        return a.lgamma().sum(-1) - a.sum(-1).lgamma()

    def mean(self, natural: Tensor) -> Tensor:
        a = natural + 1
        return a.digamma() - a.sum(-1, keepdim=True).digamma()


@dataclass(frozen=True)
class Gamma:
    """Over x > 0: t(x) = (log x, x), h = 1; `concentration` and `rate` (...)."""

    def statistics(self, value: Tensor) -> Tensor:
        return torch.stack([value.log(), value], -1)

    def log_base(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value)

    def natural(self, concentration: Tensor, rate: Tensor) -> Tensor:
        return torch.stack(torch.broadcast_tensors(concentration - 1, -rate), -1)

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        return {"concentration": natural[..., 0] + 1, "rate": -natural[..., 1]}

    def log_normaliser(self, natural: Tensor) -> Tensor:
        a, b = natural[..., 0] + 1, -natural[..., 1]
        return a.lgamma() - a * b.log()

    def mean(self, natural: Tensor) -> Tensor:
        a, b = natural[..., 0] + 1, -natural[..., 1]
        return torch.stack([a.digamma() - b.log(), a / b], -1)


@dataclass(frozen=True)
class Normal:
    """Over the line: t(x) = (x, x^2), h = (2 pi)^(-1/2); `loc` and `scale` (...)."""

    def statistics(self, value: Tensor) -> Tensor:
        return torch.stack([value, value.square()], -1)

    def log_base(self, value: Tensor) -> Tensor:
        return torch.full_like(value, -0.5 * math.log(2 * math.pi))

    def natural(self, loc: Tensor, scale: Tensor) -> Tensor:
        precision = scale.pow(-2)
        return torch.stack(torch.broadcast_tensors(loc * precision, -0.5 * precision), -1)

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        precision = -2 * natural[..., 1]
        return {"loc": natural[..., 0] / precision, "scale": precision.rsqrt()}

    def log_normaliser(self, natural: Tensor) -> Tensor:
        precision = -2 * natural[..., 1]
        return 0.5 * natural[..., 0].square() / precision - 0.5 * precision.log()

    def mean(self, natural: Tensor) -> Tensor:
        precision = -2 * natural[..., 1]
        loc = natural[..., 0] / precision
        return torch.stack([loc, loc.square() + 1 / precision], -1)


@dataclass(frozen=True)
class MultivariateNormal:
    """Over R^D: t(x) = (x, vec xx'), h = (2 pi)^(-D/2); `loc` (..., D), `precision` (..., D, D)."""

    dimension: int

    def statistics(self, value: Tensor) -> Tensor:
        outer = value.unsqueeze(-1) * value.unsqueeze(-2)
        return torch.cat([value, outer.flatten(-2)], -1)

    def log_base(self, value: Tensor) -> Tensor:
        return value.new_full(value.shape[:-1], -0.5 * self.dimension * math.log(2 * math.pi))

    def natural(self, loc: Tensor, precision: Tensor) -> Tensor:
        first = (precision @ loc.unsqueeze(-1)).squeeze(-1)
        return torch.cat([first, -0.5 * precision.flatten(-2)], -1)

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        D = self.dimension
        precision = -2 * natural[..., D:].unflatten(-1, (D, D))
        loc = torch.linalg.solve(precision, natural[..., :D].unsqueeze(-1)).squeeze(-1)
        return {"loc": loc, "precision": precision}

    def log_normaliser(self, natural: Tensor) -> Tensor:
        found = self.standard(natural)
        inner = (natural[..., : self.dimension] * found["loc"]).sum(-1)
        return 0.5 * inner - 0.5 * torch.linalg.slogdet(found["precision"])[1]

    def mean(self, natural: Tensor) -> Tensor:
        found = self.standard(natural)
        loc = found["loc"]
        second = torch.linalg.inv(found["precision"]) + loc.unsqueeze(-1) * loc.unsqueeze(-2)
        return torch.cat([loc, second.flatten(-2)], -1)


@dataclass(frozen=True)
class NormalWishart:
    r"""Over a mean m (D) and a precision matrix L (D, D):

    .. math:: L \sim W(\nu, V), \qquad m \mid L \sim N(\mu, (\kappa L)^{-1}), \qquad
        t = (\log|L|, \mathrm{vec} L, L m, m^\top L m), \qquad h = 1

    Standard parameters: `loc` mu (..., D), `mean_precision` kappa (...), `df` nu (...) > D - 1 and
    `inverse_scale` V^{-1} (..., D, D), so that E[L] = nu V. For D = 1 it is the normal-gamma family
    with shape nu / 2 and rate V^{-1} / 2.

    Source: Bishop (2006), section 10.2 and equations B.49 to B.81.
    """

    dimension: int

    def statistics(self, mean: Tensor, precision: Tensor) -> Tensor:
        moved = (precision @ mean.unsqueeze(-1)).squeeze(-1)
        inner = (mean * moved).sum(-1, keepdim=True)
        log_det = torch.linalg.slogdet(precision)[1].unsqueeze(-1)
        return torch.cat([log_det, precision.flatten(-2), moved, inner], -1)

    def log_base(self, mean: Tensor, precision: Tensor) -> Tensor:
        return mean.new_zeros(mean.shape[:-1])

    def join(self, log_det: Tensor, precision: Tensor, moved: Tensor, inner: Tensor) -> Tensor:
        """One flat tensor of the four parts, of a natural parameter or of statistics."""
        first, last = log_det.unsqueeze(-1), inner.unsqueeze(-1)
        return torch.cat([first, precision.flatten(-2), moved, last], -1)

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four parts of `join`."""
        D = self.dimension
        matrix = flat[..., 1 : 1 + D * D].unflatten(-1, (D, D))
        return flat[..., 0], matrix, flat[..., 1 + D * D : -1], flat[..., -1]

    def natural(
        self, loc: Tensor, mean_precision: Tensor, df: Tensor, inverse_scale: Tensor
    ) -> Tensor:
        k = mean_precision.unsqueeze(-1)
        outer = k.unsqueeze(-1) * loc.unsqueeze(-1) * loc.unsqueeze(-2)
        matrix = -0.5 * (inverse_scale + outer)
        return self.join((df - self.dimension) / 2, matrix, k * loc, -0.5 * mean_precision)

    def standard(self, natural: Tensor) -> dict[str, Tensor]:
        log_det, matrix, moved, inner = self.split(natural)
        k = -2 * inner
        loc = moved / k.unsqueeze(-1)
        outer = moved.unsqueeze(-1) * loc.unsqueeze(-2)
        inverse_scale = -2 * matrix - outer
        df = 2 * log_det + self.dimension
        return {"loc": loc, "mean_precision": k, "df": df, "inverse_scale": inverse_scale}

    def log_normaliser(self, natural: Tensor) -> Tensor:
        D, s = self.dimension, self.standard(natural)
        half = s["df"] / 2
        log_det = torch.linalg.slogdet(s["inverse_scale"])[1]
        wishart = half * (D * math.log(2) - log_det) + half.mvlgamma(D)
        return wishart - 0.5 * D * (s["mean_precision"] / (2 * math.pi)).log()

    def mean(self, natural: Tensor) -> Tensor:
        D, s = self.dimension, self.standard(natural)
        precision = s["df"][..., None, None] * torch.linalg.inv(s["inverse_scale"])
        steps = torch.arange(D, dtype=natural.dtype, device=natural.device)
        log_det = ((s["df"].unsqueeze(-1) - steps) / 2).digamma().sum(-1) + D * math.log(2)
        log_det = log_det - torch.linalg.slogdet(s["inverse_scale"])[1]
        moved = (precision @ s["loc"].unsqueeze(-1)).squeeze(-1)
        inner = (s["loc"] * moved).sum(-1) + D / s["mean_precision"]
        return self.join(log_det, precision, moved, inner)
