"""NEEDS A DOCSTRING: guidebook.inference.fits.approximation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from torch import Tensor

from guidebook.errors import DataError
from guidebook.guides.autoguides.point import Point
from guidebook.guides.autoguides.whitened import Whitened
from guidebook.programs.graph import recording
from guidebook.programs.labels import (
    canonical_positions,
    exchangeable,
    log_q_of_labelled,
)
from guidebook.programs.owned import dtype_of
from guidebook.programs.scope import local_parameters, precision, random_state

if TYPE_CHECKING:
    from guidebook.inference.fits.fit import Fit


def is_discrete(fit: Fit) -> bool:
    """Whether some latent site has no gradient."""
    return any(site.discrete for site in fit.sites)


# draws ------------------------------------------------------------------------------------------


def draw(fit: Fit, draws: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """u (chain, draw, D) and log q(u) (chain, draw); no log q for a sampler or a point.

    Exchangeable components stand in the order that the model names (`guidebook.programs.labels`).
    """
    if fit.draws is not None:
        flat = canonical_positions(fit.potential, fit.draws.flatten(0, 1))
        return flat.view_as(fit.draws), None
    u, log_q = _draw_as_it_is(fit, draws, seed)
    story = exchangeable(fit.model)
    if story is None:
        return u, log_q
    moved = canonical_positions(fit.potential, u[0])
    if log_q is None:
        return moved[None], None
    found = fit.potential.constrain(moved)
    values = {site.name: found[site.name] for site in fit.sites}
    with local_parameters(), precision(fit.potential.dtype), torch.no_grad():
        density = log_q_of_labelled(_guide_density(fit), values, story.K)
    _, log_det = fit.potential(moved)
    return moved[None], (density + log_det)[None]


def _guide_density(fit: Fit) -> Callable[[dict[str, Tensor]], Tensor]:
    """log q(z), (S,), of values of the sites with S in front."""
    if isinstance(fit.guide, Whitened):
        q = fit.guide.get_posterior()

        def of_position(values: dict[str, Tensor]) -> Tensor:
            u = fit.potential.unconstrain(values)
            density: Tensor = q.log_prob(u) - fit.potential(u)[1]
            return density

        return of_position

    def one(values: dict[str, Tensor]) -> Tensor:
        trace = poutine.trace(poutine.condition(fit.guide, values)).get_trace(**fit.potential.data)
        total = sum(trace.nodes[n]["fn"].log_prob(v).sum() for n, v in values.items())
        return torch.as_tensor(total)

    def of_values(values: dict[str, Tensor]) -> Tensor:
        with recording():
            density: Tensor = torch.func.vmap(one, randomness="different")(values)
        return density

    return of_values


def _draw_as_it_is(fit: Fit, draws: int, seed: int) -> tuple[Tensor, Tensor | None]:
    dtype = dtype_of(fit.model, fit.guide)
    with local_parameters(), precision(dtype), random_state(seed), torch.no_grad():
        if isinstance(fit.guide, Whitened):
            q = fit.guide.get_posterior()
            u = q(torch.Size((draws,)))
            if isinstance(fit.guide, Point):
                return u[None], None
            return u[None], q.log_prob(u)[None]
        values, log_q = _draw_by_trace(fit, draws)
    u = fit.potential.unconstrain(values)
    if getattr(fit.guide, "family", None) == "delta":
        return u[None], None
    _, log_det = fit.potential(u)
    return u[None], (log_q + log_det)[None]


def _draw_by_trace(fit: Fit, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Values of the sites and log q(z) of any Pyro guide, vectorised where it can be."""
    data, names = fit.potential.data, [site.name for site in fit.sites]

    def one(_: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        trace = poutine.trace(fit.guide).get_trace(**data)
        values = {n: trace.nodes[n]["value"] for n in names}
        return values, torch.as_tensor(_log_prob_sum(trace))

    chunk = min(draws, fit.potential.chunk)
    pieces = []
    for start in range(0, draws, chunk):
        number = torch.zeros(min(chunk, draws - start), device=fit.potential.device)
        with recording():
            try:
                pieces.append(torch.func.vmap(one, randomness="different")(number))
            except RuntimeError:  # a guide that cannot be vectorised: draw by draw
                singles = [one(n) for n in number]
                stacked = {n: torch.stack([v[n] for v, _ in singles]) for n in names}
                pieces.append((stacked, torch.stack([q for _, q in singles])))
    values = {n: torch.cat([v[n] for v, _ in pieces]) for n in names}
    return values, torch.cat([q for _, q in pieces])


def _log_prob_sum(trace: Any) -> Any:
    total: Any = 0.0
    for node in trace.nodes.values():
        if node["type"] == "sample" and not node["is_observed"]:
            total = total + node["fn"].log_prob(node["value"]).sum()
    return total


def _draw_without_model(fit: Fit, draws: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """What a loaded fit can give without model and data: z and log q(z)."""
    if fit.draws is not None or not isinstance(fit.guide, Whitened):
        raise DataError(
            "This fit needs its model and data to give draws: gb.load(path, model=..., data=...)."
        )
    if any(site.varying for site in fit.sites):
        raise DataError(
            "A site's support depends on other sites, so the model and its data are needed to "
            "give draws: gb.load(path, model=..., data=...)."
        )
    guide = fit.guide
    with local_parameters(), precision(guide.center.dtype), random_state(seed), torch.no_grad():
        q = guide.get_posterior()
        u = q(torch.Size((draws,)))
        log_q = q.log_prob(u)

        def one(row: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            parts = guide._constrained(row, {})
            log_det = sum((d.sum() for _, _, d in parts), row.new_zeros(()))
            return {s.name: v for s, v, _ in parts}, log_det

        values, log_det = torch.func.vmap(one)(u)
    return values, log_q - log_det
