"""Amortised flows: the encoder gives every row a normal, and a flow bends it as the row asks."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from guidebook.errors import GuideError
from guidebook.guides.amortized.normal import (
    AmortizedPosterior,
    Names,
    encoder_width,
    lower_triangle,
    tril_index,
)

MOMENT_POINTS = 256
"""Points of the Sobol sequence over which the mean and the variance of a flow are averaged."""
AT_ONCE = 200_000
"""Coordinates that are bent at a time where no gradient is asked for: each has a spline of twenty numbers."""


class AmortizedFlow(AmortizedPosterior):
    r"""q(z | x) the image of a normal under a flow whose shape depends on x.

    .. math:: u \sim N(0, I_d), \qquad w = T_{h(x)}(u), \qquad z = m(x) + L(x)\, w

    With T the identity this is `AmortizedNormal(covariance="full")`, and T starts as the identity.
    The encoder's outputs have width d + d (d + 1) / 2 + `context`: m, then L as there, then h, what
    the flow is told of the row.

    T is a neural spline flow of coupling transforms (rational-quadratic splines on [-5, 5], the
    identity outside), so both directions cost the same: samples are reparameterised, and the
    density of any z is exact. A sample's density is kept, which saves the way back.

    Arguments: `encoder` maps x (B, ...) to (B, width), any `nn.Module`; `latent_dim` d; `context`;
    `transforms`, `hidden` and `bins` of the flow; `site`, `observed`, `plate` as `AmortizedNormal`.
    The flow's weights start from torch's generator. Raises GuideError for numbers below 1.

    Source: Rezende & Mohamed (2015), Variational inference with normalizing flows; Durkan, Bekasov,
    Murray & Papamakarios (2019), Neural spline flows.
    """

    tril: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        *,
        context: int = 8,
        transforms: int = 2,
        hidden: int = 32,
        bins: int = 8,
        **names: Unpack[Names],
    ) -> None:
        if min(context, transforms, hidden, bins - 1) < 1:
            raise GuideError(
                f"context={context}, transforms={transforms} and hidden={hidden} must be at least 1, "
                f"bins={bins} at least 2."
            )
        width = flow_width(latent_dim, context)
        super().__init__(encoder, latent_dim, width, **names)
        self.flow = _identity_flow(latent_dim, context, transforms, hidden, bins)
        self.register_buffer("tril", tril_index(latent_dim), persistent=False)

    def posterior(self, x: Tensor) -> FlowPosterior:
        """q(z | x) for x (B, ...): batch shape (B,), event shape (d,).

        Raises GuideError if the encoder's output does not have the width `self.width`.
        """
        d, normal = self.latent_dim, encoder_width(self.latent_dim, "full")
        mean, free, context = self.outputs(x).split([d, normal - d, self.width - normal], -1)
        return FlowPosterior(mean, lower_triangle(free, self.tril), self.flow, context)


class FlowPosterior(dist.TorchDistribution):
    """z = mean + scale_tril T(u), u standard normal; made by `AmortizedFlow.posterior`.

    Batch shape and event shape are those of `mean` (..., d). `mean` and `variance` have no closed
    form: they are averages over 256 points of a Sobol sequence, the same at every call, with an
    error of about 1 % of the standard deviation for d = 2; take more draws where that matters.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(
        self, centre: Tensor, scale_tril: Tensor, flow: nn.Module, context: Tensor
    ) -> None:
        self.centre, self.scale_tril, self.flow, self.context = centre, scale_tril, flow, context
        self._drawn: tuple[Tensor, Tensor] | None = None
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=False)

    @property
    def support(self) -> Any:
        """Every real vector."""
        return constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowPosterior:
        """The same q for a larger batch shape, by broadcasting."""
        shape, d = torch.Size(batch_shape), self.event_shape[0]
        return FlowPosterior(
            self.centre.expand(*shape, d),
            self.scale_tril.expand(*shape, d, d),
            self.flow,
            self.context.expand(*shape, self.context.shape[-1]),
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """z (*sample_shape, *batch, d), differentiable in all parameters."""
        shape = torch.Size(sample_shape) + self.centre.shape
        u = torch.randn(shape, dtype=self.centre.dtype, device=self.centre.device)
        z, log_q = self._image(u)
        self._drawn = (z, log_q)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z | x), (...,), exact for any z (..., d)."""
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        parts = self._parts(value)
        if len(parts) > 1:
            return torch.cat([self.log_prob(part) for part in parts])
        shifted = (value - self.centre).unsqueeze(-1)
        w = torch.linalg.solve_triangular(self.scale_tril, shifted, upper=False).squeeze(-1)
        transform = self.flow(self._context(w))
        u, log_det = transform.inv.call_and_ladj(w)
        return _standard_normal_log_prob(u) + log_det - self._log_det()

    @property
    def mean(self) -> Tensor:
        """E_q[z], (..., d), by quasi-Monte Carlo."""
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """Var_q[z], (..., d), by quasi-Monte Carlo."""
        return self._moments()[1]

    def _parts(self, points: Tensor) -> tuple[Tensor, ...]:
        """Draws (S, ..., d) of every row, so many at a time as their splines may take memory for."""
        if torch.is_grad_enabled() or points.dim() <= self.centre.dim():
            return (points,)
        of_one = max(1, points[0].numel(), self.centre.numel())
        return points.split(max(1, AT_ONCE // of_one))

    def _image(self, u: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._parts(u)
        if len(parts) > 1:
            z, log_q = zip(*map(self._image, parts), strict=True)
            return torch.cat(z), torch.cat(log_q)
        w, log_det = self.flow(self._context(u)).call_and_ladj(u)
        z = self.centre + (self.scale_tril @ w.unsqueeze(-1)).squeeze(-1)
        return z, _standard_normal_log_prob(u) - log_det - self._log_det()

    def _context(self, like: Tensor) -> Tensor:
        return self.context.expand(*like.shape[:-1], self.context.shape[-1])

    def _log_det(self) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _moments(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            engine = torch.quasirandom.SobolEngine(self.event_shape[0], scramble=True, seed=0)
            points = torch.special.ndtri(engine.draw(MOMENT_POINTS, dtype=torch.float64))
            total = torch.zeros_like(self.centre)
            squares = torch.zeros_like(self.centre)
            for point in points.to(self.centre):  # one at a time: memory of one draw a row
                step = self._image(point.expand_as(self.centre))[0] - self.centre
                total += step
                squares += step.square()
            mean = total / MOMENT_POINTS
            return self.centre + mean, squares / MOMENT_POINTS - mean.square()


def flow_width(latent_dim: int, context: int = 8) -> int:
    """The number of outputs an encoder needs for a flow: d + d (d + 1) / 2 + context."""
    return encoder_width(latent_dim, "full") + context


def _identity_flow(d: int, context: int, transforms: int, hidden: int, bins: int) -> nn.Module:
    """A conditional transform of R^d that starts as the identity."""
    import zuko

    flow = zuko.flows.NSF(
        d, context, bins, transforms=transforms, hidden_features=[hidden, hidden], passes=2
    ) if d > 1 else zuko.flows.NSF(
        d, context, bins, transforms=transforms, hidden_features=[hidden, hidden]
    )  # fmt: skip
    with torch.no_grad():
        for layer in flow.transform.transforms:
            for parameter in layer.hyper[-1].parameters():
                parameter.zero_()  # equal bins and unit slopes
    transform: nn.Module = flow.transform
    return transform


def _standard_normal_log_prob(u: Tensor) -> Tensor:
    return dist.Normal(torch.zeros_like(u), 1.0).log_prob(u).sum(-1)
