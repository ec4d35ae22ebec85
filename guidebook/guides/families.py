"""Guides for any model with global latents: Pyro's autoguides, started where the posterior is.

Every family is a distribution q(u) over the model's flat unconstrained position u (D,), carried to
the sites by z = T(u). Pyro's autoguides start at a draw of the prior with one scale for all
coordinates, and an optimiser with one step size then never reaches a posterior whose standard
deviations are 0.001 or 10,000. These start at a centre m with a factor L (m the mode and L L' the
inverse curvature there: `guidebook.inference.start`), and their parameters are measured in units of
L, so that a step of 0.01 is a hundredth of a posterior standard deviation everywhere:

    mean_field  q(u) = N(m + L loc, diag(d * scale)^2),           d_i = 1 / sqrt((L L')^-1_ii)
    full_rank   q(u) = N(m + L loc, (L S)(L S)'),                 S lower triangular
    low_rank    q(u) = N(m + L loc, d (F F' + diag(s^2)) d),      F of shape (D, rank)
    flow        u = m + L w, w from a neural spline flow (zuko) in its inverse, autoregressive form
    delta       a point u = m + L loc; its objective is log p(x, z): the posterior mode

A guide that never meets `start_at` has m = 0 and L = I, and works in Pyro's own SVI.

Sources: Kucukelbir et al. 2017, "Automatic differentiation variational inference"; Ong, Nott and
Smith 2018, "Gaussian variational approximation with a factor covariance structure"; Durkan et al.
2019, "Neural spline flows"; Kingma et al. 2016, "Improved variational inference with inverse
autoregressive flow".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.zuko import ZukoToPyro
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from torch import Tensor, nn
from torch.distributions import biject_to

from guidebook.errors import GuideError, ModelError
from guidebook.guides.unconstrained import Site, latent_sites, log_abs_det, trace_at, unpack

Model = Callable[..., Any]


class Whitened(AutoContinuous):
    """An autoguide in coordinates of its own: centre (D,) and factor (D, D) lower or (D,) diagonal."""

    family = ""
    options: Mapping[str, Any] = MappingProxyType({})
    center: Tensor
    factor: Tensor

    def __init__(self, model: Model, **pyro_options: Any) -> None:
        super().__init__(model, **pyro_options)
        self._story = (model,)
        self.sites: tuple[Site, ...] = ()

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        if args:
            raise GuideError(
                "Call the guide with the model's arguments as keywords: guide(**data)."
            )
        with poutine.block(), torch.no_grad():
            sites = latent_sites(self._story[0], kwargs)
        if not sites:
            raise ModelError(
                "The model has no continuous latent site, so there is nothing to approximate. "
                "Give at least one pyro.sample without obs=."
            )
        self.restore(sites, like=_floating(kwargs))

    def restore(self, sites: tuple[Site, ...], like: Tensor) -> None:
        """Makes the guide's parameters for these sites, in the dtype and on the device of `like`."""
        self.sites = sites
        self.prototype_trace = poutine.Trace()  # set: Pyro need not run the model again
        self.latent_dim = sum(site.size for site in sites)
        self.register_buffer("center", like.new_zeros(self.latent_dim))
        self.register_buffer("factor", like.new_ones(self.latent_dim))
        self._make_parameters()

    def _make_parameters(self) -> None:
        self.loc = nn.Parameter(torch.zeros_like(self.center))

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        """Takes m (D,) and L, (D, D) lower triangular or (D,) the diagonal of a diagonal one."""
        self.center = center.to(self.center)
        self.factor = factor.to(self.center)

    def shifted(self) -> Tensor:
        """m + L loc."""
        return self.center + _times(self.factor, self.loc)

    def conditional_sd(self) -> Tensor:
        """d (D,): the standard deviation of each coordinate given the others under N(m, L L')."""
        if self.factor.dim() == 1:
            return self.factor
        eye = torch.eye(self.latent_dim, dtype=self.factor.dtype, device=self.factor.device)
        inverse = torch.linalg.solve_triangular(self.factor, eye, upper=False)
        return inverse.square().sum(0).rsqrt()

    def forward(self, **data: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(**data)
        values = {}
        # each plate once, whatever the number of its sites: making one is a statement of its own
        known = {plate for site in self.sites for plate in site.plates}
        plates = {plate: pyro.plate(plate[0], plate[2], dim=plate[1]) for plate in sorted(known)}
        for site, value, log_det in self._constrained(self.sample_latent(), data):
            density = dist.Delta(value, log_density=-log_det, event_dim=site.event_dim)
            with ExitStack() as stack:
                for plate in site.plates:
                    stack.enter_context(plates[plate])
                values[site.name] = pyro.sample(site.name, density)
        return values

    def _constrained(self, u: Tensor, data: dict[str, Any]) -> list[tuple[Site, Tensor, Tensor]]:
        if not any(site.varying for site in self.sites):
            result = []
            for site, flat in unpack(self.sites, u):
                transform = biject_to(site.support)
                value = transform(flat)
                result.append((site, value, log_abs_det(transform, flat, value, site.event_dim)))
            return result
        with poutine.block():  # a support that depends on other sites is known by the model alone
            _, seen = trace_at(self._story[0], data, u)
        return [(s, seen.values[s.name], seen.log_dets[s.name]) for s in self.sites]

    def sample_latent(self, *args: Any, **kwargs: Any) -> Tensor:
        return pyro.sample(
            f"_{self._pyro_name}_latent", self.get_posterior(), infer={"is_auxiliary": True}
        )

    @torch.no_grad()
    def median(self, **data: Any) -> dict[str, Tensor]:
        """The value of each site at the median of q(u), coordinate by coordinate."""
        return {s.name: v for s, v, _ in self._constrained(self._loc_scale()[0], data)}

    @torch.no_grad()
    def quantiles(self, quantiles: list[float], **data: Any) -> dict[str, Tensor]:
        """Quantiles of each site, stacked in front; exact where T acts on each coordinate alone."""
        loc, scale = self._loc_scale()
        levels = torch.as_tensor(quantiles, dtype=loc.dtype, device=loc.device)
        rows = [self._constrained(u, data) for u in dist.Normal(loc, scale).icdf(levels[:, None])]
        return {s.name: torch.stack([row[i][1] for row in rows]) for i, s in enumerate(self.sites)}


class MeanField(Whitened, AutoDiagonalNormal):
    """q(u) = N(m + L loc, diag(d * scale)^2). Kucukelbir et al. 2017, section 2.4."""

    family = "mean_field"

    def __init__(self, model: Model) -> None:
        super().__init__(model, init_scale=1.0)

    def _make_parameters(self) -> None:
        super()._make_parameters()
        self.scale = pyro.nn.PyroParam(torch.ones_like(self.loc), self.scale_constraint)

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        super().start_at(center, factor)
        self.register_buffer("unit", self.conditional_sd())

    def restore(self, sites: tuple[Site, ...], like: Tensor) -> None:
        super().restore(sites, like)
        self.register_buffer("unit", torch.ones_like(self.center))

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.Normal(*self._loc_scale()).to_event(1)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), self.unit * self.scale


class FullRank(Whitened, AutoMultivariateNormal):
    """q(u) = N(m + L loc, (L S)(L S)'), S = diag(scale) scale_tril. Kucukelbir et al. 2017."""

    family = "full_rank"

    def __init__(self, model: Model) -> None:
        super().__init__(model, init_scale=1.0)

    def _make_parameters(self) -> None:
        super()._make_parameters()
        eye = torch.eye(self.latent_dim, dtype=self.loc.dtype, device=self.loc.device)
        self.scale = pyro.nn.PyroParam(torch.ones_like(self.loc), self.scale_constraint)
        self.scale_tril = pyro.nn.PyroParam(eye, self.scale_tril_constraint)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.MultivariateNormal(self.shifted(), scale_tril=self._tril())

    def _tril(self) -> Tensor:
        scale_tril = self.scale[:, None] * self.scale_tril
        return (
            self.factor[:, None] * scale_tril
            if self.factor.dim() == 1
            else self.factor @ scale_tril
        )

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), self._tril().square().sum(-1).sqrt()


class LowRank(Whitened, AutoLowRankMultivariateNormal):
    """q(u) = N(m + L loc, d (F F' + I) d * s^2). Ong, Nott and Smith 2018."""

    family = "low_rank"
    rank: int | None

    def __init__(self, model: Model, rank: int | None = None) -> None:
        super().__init__(model, init_scale=1.0, rank=rank)
        self.options = {"rank": rank}

    def _make_parameters(self) -> None:
        super()._make_parameters()
        if self.rank is None:
            self.rank = max(1, round(self.latent_dim**0.5))
        self.rank = min(self.rank, self.latent_dim)
        self.register_buffer("unit", torch.ones_like(self.center))
        self.scale = pyro.nn.PyroParam(torch.ones_like(self.loc), self.scale_constraint)
        # not zero: F = 0 is a saddle of the ELBO
        ramp = torch.arange(1, self.latent_dim * self.rank + 1, device=self.loc.device)
        self.cov_factor = nn.Parameter(0.1 * torch.cos(ramp.to(self.loc)).view(-1, self.rank))

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        """Also sets F and s from the leading directions of the covariance, in units of d."""
        super().start_at(center, factor)
        self.unit = self.conditional_sd()
        if self.factor.dim() == 1:
            return
        scaled = self.factor / self.unit[:, None]
        values, vectors = torch.linalg.eigh(scaled @ scaled.T)
        rank = self.cov_factor.shape[1]
        lead = (values[-rank:] - 1).clamp(min=1e-2).sqrt()
        with torch.no_grad():
            self.cov_factor.copy_(vectors[:, -rank:] * lead)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        scale = self.unit * self.scale
        return dist.LowRankMultivariateNormal(
            self.shifted(), self.cov_factor * scale[:, None], scale.square()
        )

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), self.unit * self.scale * (
            self.cov_factor.square().sum(-1) + 1
        ).sqrt()


class Flow(Whitened):
    """u = m + L w with w from a neural spline flow turned round, so that sampling is one pass."""

    family = "flow"

    def __init__(self, model: Model, transforms: int = 2, hidden: int = 32, bins: int = 8) -> None:
        super().__init__(model)
        self.options = {"transforms": transforms, "hidden": hidden, "bins": bins}

    def _make_parameters(self) -> None:
        import zuko

        o = self.options
        with torch.random.fork_rng(devices=[]):  # the same start whatever the caller drew before
            torch.manual_seed(0)
            flow = zuko.flows.NSF(
                self.latent_dim, transforms=o["transforms"], hidden_features=[o["hidden"]] * 2,
                bins=o["bins"],
            )  # fmt: skip
        with torch.no_grad():  # near the identity: the start is N(m, L L')
            for transform in flow.transform.transforms:
                last = transform.hyper[-1] if hasattr(transform, "hyper") else transform  # D = 1
                for parameter in last.parameters():
                    parameter.mul_(0.1)
        self.flow = zuko.lazy.Flow(flow.transform.inv, flow.base).to(self.center)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return _AffineOfFlow(self.flow(None), self.center, self.factor)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        draws = self.get_posterior()((4000,))
        return draws.mean(0), draws.std(0)


class Point(Whitened):
    """A point: q(u) = delta(u - m - L loc), without Jacobian, so the ELBO is log p(x, z)."""

    family = "delta"

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return dist.Delta(self.shifted(), event_dim=1)

    def _constrained(self, u: Tensor, data: dict[str, Any]) -> list[tuple[Site, Tensor, Tensor]]:
        return [(s, v, torch.zeros_like(d)) for s, v, d in super()._constrained(u, data)]

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.shifted(), torch.zeros_like(self.center)


class _AffineOfFlow(ZukoToPyro):
    """center + factor w, w from a zuko flow; the density of a fresh draw is kept for scoring."""

    def __init__(self, flow: Any, center: Tensor, factor: Tensor) -> None:
        super().__init__(flow)
        self.center, self.factor = center, factor
        diagonal = factor if factor.dim() == 1 else factor.diagonal()
        self.log_det = diagonal.log().sum()

    def __call__(self, shape: Any = ()) -> Tensor:
        w, log_prob = self.dist.rsample_and_log_prob(shape)
        u = self.center + _times(self.factor, w)
        self.cache = {u: log_prob - self.log_det}
        return u

    def log_prob(self, u: Tensor) -> Tensor:
        if u in self.cache:
            return self.cache[u]
        shifted = u - self.center
        if self.factor.dim() == 1:
            w = shifted / self.factor
        else:
            w = torch.linalg.solve_triangular(self.factor, shifted[..., None], upper=False)[..., 0]
        return self.dist.log_prob(w) - self.log_det


def _times(factor: Tensor, vector: Tensor) -> Tensor:
    return factor * vector if factor.dim() == 1 else vector @ factor.mT


def _floating(data: dict[str, Any]) -> Tensor:
    tensors = [v for v in data.values() if isinstance(v, Tensor)]
    floats = [v for v in tensors if v.is_floating_point()]
    if floats:
        return floats[0]
    return torch.zeros((), device=tensors[0].device if tensors else None)


def mean_field(model: Model) -> MeanField:
    """A Gaussian with independent unconstrained coordinates; 2 D parameters."""
    return MeanField(model)


def full_rank(model: Model) -> FullRank:
    """A Gaussian with a full covariance matrix; D (D + 3) / 2 parameters."""
    return FullRank(model)


def low_rank(model: Model, rank: int | None = None) -> LowRank:
    """A Gaussian with covariance of low rank plus diagonal; rank is about sqrt(D) unless given."""
    if rank is not None and rank < 1:
        raise GuideError(f"rank must be at least 1, not {rank}; rank=None takes about sqrt(D).")
    return LowRank(model, rank)


def flow(model: Model, transforms: int = 2, hidden: int = 32, bins: int = 8) -> Flow:
    """A neural spline flow: skewed, curved and heavy-shouldered posteriors."""
    for name, value in (("transforms", transforms), ("hidden", hidden), ("bins", bins)):
        if value < 1:
            raise GuideError(f"{name} must be at least 1, not {value}.")
    return Flow(model, transforms, hidden, bins)


def delta(model: Model) -> Point:
    """A point mass: svi then finds the posterior mode of z (maximum a posteriori)."""
    return Point(model)


FAMILIES: dict[str, type[Whitened]] = {
    kind.family: kind for kind in (MeanField, FullRank, LowRank, Flow, Point)
}
