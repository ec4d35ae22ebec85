r"""What a fit is, whatever found it: an approximation q of p(z | x), in one of four kinds.

    density    q(z) can be drawn from and scored: draws with log q(z)
    point      one value of z. It has no spread, hence no log q
    chains     dependent draws of p(z | x) made by a sampler, hence no log q
    particles  a set of positions that stand for p(z | x) together, hence no log q

A guide is a density or a point. It says which by an attribute `kind`; of a guide that says nothing
(Pyro's autoguides, functions) it is seen in two runs: a continuous site drawn from a Delta that has
the same value in both has no spread. Chains and particles are what an engine leaves when it hands
`Fit` its draws, and it says which of the two they are.

Draws come as positions u on the model's unconstrained scale (`guidebook.programs.sites`), where

.. math:: \log q(u) = \log q(z) + \log \left| \det \partial z / \partial u \right|.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from guidebook.errors import DataError, GuideError, ModelError
from guidebook.programs.data import as_tensors, find_device
from guidebook.programs.graphs.recorded import eager, recording
from guidebook.programs.labels import canonical_positions, exchangeable, log_q_of_labelled
from guidebook.programs.nodes import check_all_rows
from guidebook.programs.owned import dtype_of, parameters_of
from guidebook.programs.potential import Potential
from guidebook.programs.sites import Site
from guidebook.scope import local_parameters, precision, random_state

Kind = Literal["density", "point", "chains", "particles"]
Values = dict[str, Tensor]
Density = Callable[[Values], Tensor]
_NO_JOINT = (
    "This fit holds no model or no data (it was loaded without them, or fitted to batches that it does "
    "not keep), so log p(x, z) is not known. Give them: gb.load(path, model=model, data=data), or "
    "dataclasses.replace(fit, data=data)."
)


@runtime_checkable
class UnconstrainedGuide(Protocol):
    """A guide whose q is a distribution over the model's flat unconstrained position u (D,).

    `constrained(u, data)` gives, site by site in the order of `sites`, the site, its value and
    log |det dz/du|; `data` is read where a support depends on other sites.
    """

    sites: tuple[Site, ...]

    def get_posterior(self) -> Any: ...

    def constrained(self, u: Tensor, data: dict[str, Any]) -> list[tuple[Site, Tensor, Tensor]]: ...


@dataclass(frozen=True, eq=False)
class Approximation:
    """q(z), and the joint density p(x, z) where model and data are there.

    Attributes: as those of `guidebook.Fit` with the same names.
    """

    model: Callable[..., Any] | None
    guide: Callable[..., Any] | None
    data: Mapping[str, Any] | None
    sites: tuple[Site, ...]
    draws: Tensor | None = None
    draws_are: Literal["chains", "particles"] = "chains"

    @cached_property
    def kind(self) -> Kind:
        """What q is; see the module.

        Raises:
            DataError: it can only be seen by running a guide, whose data are not there.
        """
        if self.draws is not None:
            return self.draws_are
        said = getattr(self.guide, "kind", None)
        if said == "density" or said == "point":
            return said
        return "point" if self._has_fixed_sites() else "density"

    @property
    def discrete(self) -> bool:
        """Whether some site is discrete and so has no gradient."""
        return any(site.discrete for site in self.sites)

    @property
    def has_joint(self) -> bool:
        """Whether log p(x, z) can be computed: model and data are there."""
        return self.model is not None and self.data is not None

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The data as tensors in the dtype and on the device of the fit.

        Raises:
            DataError: the fit was loaded without its data.
        """
        if self.data is None:
            raise DataError(_NO_JOINT)
        device = next((p.device for p in parameters_of(self.model, self.guide)), None)
        return as_tensors(self.data, self.dtype, device or find_device(None, self.data))

    @property
    def dtype(self) -> torch.dtype:
        """That of the fit."""
        return self.draws.dtype if self.draws is not None else dtype_of(self.model, self.guide)

    @cached_property
    def potential(self) -> Potential:
        """log p(x, u) at the fit's data, recorded once and kept.

        Raises:
            DataError: the fit was loaded without its model or its data.
            ModelError: a plate of the model is given some of its rows alone.
        """
        if self.model is None:
            raise DataError(_NO_JOINT)
        # of data without a floating-point number, too; and a look at the model draws what is summed out
        with precision(self.dtype), random_state(0):
            found = Potential(self.model, self.tensors, self.sites)
        check_all_rows(found.nodes)
        return found

    def sharing(self, potential: Potential) -> Approximation:
        """The same q; `potential` is that of its model at its data, recorded before."""
        twin = replace(self)
        twin.keep(potential)
        return twin

    def keep(self, potential: Potential | None) -> None:
        """Takes a potential of its model at its data, where one was recorded before, as its own."""
        if potential is not None:
            vars(self)["potential"] = potential  # where the property keeps it

    def over_positions(self) -> Any:
        """q(u) as a distribution over positions (D,), from a guide that is one; else None."""
        return self.guide.get_posterior() if isinstance(self.guide, UnconstrainedGuide) else None

    # draws --------------------------------------------------------------------------------------

    def draw(self, draws: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """u (chain, draw, D), and log q(u) (chain, draw) of a density.

        Of chains and particles, all there are. Exchangeable components stand in the order that the
        model names (`guidebook.programs.labels`).

        Raises:
            DataError: the fit was loaded without its model or its data.
            ModelError: every latent site is summed out.
        """
        if self.draws is not None:
            flat = canonical_positions(self.potential, self.draws.flatten(0, 1))
            return flat.view_as(self.draws), None
        u, log_q = self._drawn(draws, seed)
        story = exchangeable(self.model)
        if story is None:
            return u[None], None if log_q is None else log_q[None]
        moved = canonical_positions(self.potential, u)
        if log_q is None:
            return moved[None], None
        found = self.potential.constrain(moved)
        values = {site.name: found[site.name] for site in self.sites}
        with local_parameters(), precision(self.potential.dtype), torch.no_grad():
            density = log_q_of_labelled(self._density(), values, story.K)
        return moved[None], (density + self.potential.log_det(moved))[None]

    def draw_values(self, draws: int, seed: int) -> tuple[Values, Tensor | None]:
        """z, each site (draw, *shape), and log q(z) (draw,) of a density, without model and data.

        Raises:
            DataError: the guide is not one over positions, or a support depends on other sites.
        """
        guide = self.guide
        if self.draws is not None or not isinstance(guide, UnconstrainedGuide):
            raise DataError(
                "This fit needs its model and data to give draws: "
                "gb.load(path, model=..., data=...)."
            )
        if any(site.varying for site in self.sites):
            raise DataError(
                "A site's support depends on other sites, so the model and its data are needed to "
                "give draws: gb.load(path, model=..., data=...)."
            )
        is_density = self.kind == "density"
        dtype = dtype_of(None, guide)
        with local_parameters(), precision(dtype), random_state(seed), torch.no_grad():
            q = guide.get_posterior()
            u = q(torch.Size((draws,)))

            def one(row: Tensor) -> tuple[Values, Tensor]:
                parts = guide.constrained(row, {})
                log_det = sum((d.sum() for _, _, d in parts), row.new_zeros(()))
                return {s.name: v for s, v, _ in parts}, log_det

            values, log_det = torch.func.vmap(one)(u)
            return values, q.log_prob(u) - log_det if is_density else None

    def _drawn(self, draws: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """u (draw, D) as the guide gives it, and log q(u)."""
        if not self.sites:
            raise ModelError(
                "Every latent site of the model is summed out, so there is no site to draw and no posterior "
                "of one: what svi trained are the parameters of fit.model. Give those that should have a "
                "posterior a prior, by pyro.sample in the place of pyro.param."
            )
        is_density = self.kind == "density"  # asked outside the seed: it may run the guide
        dtype = dtype_of(self.model, self.guide)
        with local_parameters(), precision(dtype), random_state(seed), torch.no_grad():
            q = self.over_positions()
            if q is not None:
                u = q(torch.Size((draws,)))
                return u, q.log_prob(u) if is_density else None
            values, log_q = self._traced(draws)
        u = self.potential.unconstrain(values)
        if not is_density:
            return u, None
        return u, log_q + self.potential.log_det(u)

    def _traced(self, draws: int) -> tuple[Values, Tensor]:
        """Values of the sites and log q(z) of any Pyro guide, vectorised where it can be."""
        data, names = self.potential.data, [site.name for site in self.sites]
        nodes = self.potential.nodes
        masked = {n for n in names if n in nodes and nodes[n]["mask"] is not None}

        def one(_: Tensor) -> tuple[Values, Tensor]:
            trace = poutine.trace(self.guide).get_trace(**data)
            values = {n: trace.nodes[n]["value"] for n in names}
            return values, torch.as_tensor(_log_prob_sum(trace, masked))

        chunk = min(draws, self.potential.chunk)
        pieces = []
        for start in range(0, draws, chunk):
            number = torch.zeros(min(chunk, draws - start), device=self.potential.device)
            try:
                with recording():
                    pieces.append(torch.func.vmap(one, randomness="different")(number))
            except Exception:  # a guide that cannot be vectorised: draw by draw
                with eager():
                    singles = [one(n) for n in number]
                stacked = {n: torch.stack([v[n] for v, _ in singles]) for n in names}
                pieces.append((stacked, torch.stack([q for _, q in singles])))
        values = {n: torch.cat([v[n] for v, _ in pieces]) for n in names}
        return values, torch.cat([q for _, q in pieces])

    def _density(self) -> Density:
        """log q(z), (S,), of values of the sites with S in front."""
        q, potential = self.over_positions(), self.potential
        if q is not None:

            def of_position(values: Values) -> Tensor:
                u = potential.unconstrain(values)
                density: Tensor = q.log_prob(u) - potential.log_det(u)
                return density

            return of_position

        def one(values: Values) -> Tensor:
            trace = poutine.trace(poutine.condition(self.guide, values)).get_trace(**potential.data)
            total = sum(trace.nodes[n]["fn"].log_prob(v).sum() for n, v in values.items())
            return torch.as_tensor(total)

        def of_values(values: Values) -> Tensor:
            with recording():
                density: Tensor = torch.func.vmap(one, randomness="different")(values)
            return density

        return of_values

    def _has_fixed_sites(self) -> bool:
        """Whether the guide gives a continuous site one value and no distribution.

        An autoguide samples a Delta too, at a transform of what it drew before: its value moves.
        """
        if self.guide is None:
            raise GuideError(
                "This fit has neither a guide nor draws to represent a posterior: fit again."
            )
        names = [site.name for site in self.sites if not site.discrete]
        dtype = dtype_of(self.model, self.guide)
        with local_parameters(), precision(dtype), random_state(0), torch.no_grad():
            first = poutine.trace(self.guide).get_trace(**self.tensors).nodes
            deltas = [n for n in names if n in first and _is_delta(first[n]["fn"])]
            if not deltas:
                return False
            second = poutine.trace(self.guide).get_trace(**self.tensors).nodes
        return any(torch.equal(first[n]["value"], second[n]["value"]) for n in deltas)


def _is_delta(fn: Any) -> bool:
    while not isinstance(fn, dist.Delta) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _log_prob_sum(trace: Any, masked: set[str]) -> Any:
    """log q(z) without what model (`masked`) and guide both mask: rows that are not there."""
    total: Any = 0.0
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and not node["is_observed"]:
            mask = node["mask"] if name in masked else None
            density = node["fn"].log_prob(node["value"])
            total = total + scale_and_mask(density, mask=mask).sum()
    return total
