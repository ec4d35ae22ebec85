r"""Autoguides whose parameters are measured in units of the posterior at its mode.

With T the map from the flat unconstrained position u (D,) to the sites, m the mode of the posterior
and L L' the inverse curvature there,

.. math:: z = T(u), \qquad u = m + L\,(\text{loc} + \text{noise of the family}), \qquad
    d_i = \big[(L L^\top)^{-1}\big]_{ii}^{-1/2}

so that one step size does for coordinates whose standard deviations are 0.001 and 10,000.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor, nn
from torch.distributions import biject_to

from guidebook.errors import GuideError, ModelError
from guidebook.guides.autoguides.defaults import Defaults
from guidebook.programs.sites import Site, latent_sites, log_abs_det, trace_at, unpack

Model = Callable[..., Any]


class Whitened(AutoContinuous):
    """An autoguide in coordinates of its own: centre (D,) and factor (D, D) lower or (D,) diagonal."""

    family = ""
    defaults = Defaults(
        steps=2000, rate=0.01, particles=16, loc_scatter=1.0, scatter=0.1, standardised=True
    )
    kind: Literal["density", "point"] = "density"
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

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}factor")
        if saved is not None:  # (D,) or (D, D), as `start_at` was given it
            self.factor = self.factor.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_parameters(self) -> None:
        self.loc = nn.Parameter(torch.zeros_like(self.center))

    def start_at(self, center: Tensor, factor: Tensor) -> None:
        """Takes m (D,) and L, (D, D) lower triangular or (D,) the diagonal of a diagonal one."""
        self.center = center.to(self.center)
        self.factor = factor.to(self.center)

    def shifted(self) -> Tensor:
        """m + L loc."""
        return self.center + scaled_by(self.factor, self.loc)

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
        for site, value, log_det in self.constrained(self.sample_latent(), data):
            density = dist.Delta(value, log_density=-log_det, event_dim=site.event_dim)
            with ExitStack() as stack:
                for plate in site.plates:
                    stack.enter_context(plates[plate])
                values[site.name] = pyro.sample(site.name, density)
        return values

    def constrained(self, u: Tensor, data: dict[str, Any]) -> list[tuple[Site, Tensor, Tensor]]:
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
        return {s.name: v for s, v, _ in self.constrained(self._loc_scale()[0], data)}

    @torch.no_grad()
    def quantiles(self, quantiles: list[float], **data: Any) -> dict[str, Tensor]:
        """Quantiles of each site, stacked in front; exact where T acts on each coordinate alone."""
        loc, scale = self._loc_scale()
        levels = torch.as_tensor(quantiles, dtype=loc.dtype, device=loc.device)
        rows = [self.constrained(u, data) for u in dist.Normal(loc, scale).icdf(levels[:, None])]
        return {s.name: torch.stack([row[i][1] for row in rows]) for i, s in enumerate(self.sites)}


def scaled_by(factor: Tensor, vector: Tensor) -> Tensor:
    """L v, (..., D), for v (..., D) and L (D, D), or (D,) the diagonal of a diagonal one."""
    return factor * vector if factor.dim() == 1 else vector @ factor.mT


def _floating(data: dict[str, Any]) -> Tensor:
    tensors = [v for v in data.values() if isinstance(v, Tensor)]
    floats = [v for v in tensors if v.is_floating_point()]
    if floats:
        return floats[0]
    return torch.zeros((), device=tensors[0].device if tensors else None)
