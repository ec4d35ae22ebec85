"""The sweeps of expectation propagation over Gaussian sites; `guidebook.inference.ep` has the equations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guidebook.errors import GuideError
from guidebook.guides.conjugate.moments import Tilted
from guidebook.guides.conjugate.sites import Sites
from guidebook.inference.fits.running import Steps
from guidebook.inference.fits.status import Status

LEAST_DAMPING = 0.05
PATIENCE = 8
"""Sweeps without a smaller residual after which the damping is halved: early growth is no sign."""


@dataclass
class _Gaussian:
    """Sites tau (n,) and nu (n, k), and the N(loc, covariance) that they make with the prior."""

    site_precision: Tensor
    site_shift: Tensor
    loc: Tensor
    covariance: Tensor
    log_partition: float


class _Look(NamedTuple):
    """Every site at the present q: what it should be, which can be moved, and what q is worth."""

    site_precision: Tensor
    site_shift: Tensor
    usable: Tensor
    residual: float
    log_evidence: float


class Propagated(NamedTuple):
    """Where the sweeps ended: q with its sites, minus log p(x) by sweep, how it ended, and notes."""

    q: _Gaussian
    history: list[float]
    status: Status
    notes: dict[str, Any]


def propagate(
    sites: Sites, steps: Steps, schedule: str, damping: float, tolerance: float
) -> Propagated:
    """Sweeps until the residual is below the tolerance; arguments as `ep`.

    Raises GuideError where the prior is not a normal distribution.
    """
    prior = _start(sites)
    q, look = prior, _look(sites, prior, prior)
    history: list[float] = []
    least, at = math.inf, 0
    status = Status.STILL_MOVING
    for done in steps:
        together = schedule == "parallel"
        q = _together(sites, q, look, damping) if together else _one_by_one(sites, q, damping)
        look = _look(sites, q, prior)
        history.append(-look.log_evidence)
        steps.show(log_evidence=look.log_evidence, residual=look.residual)
        if look.residual < tolerance and bool(look.usable.all()):
            status = Status.CONVERGED
            break
        if look.residual < least:
            least, at = look.residual, done
        elif done - at >= PATIENCE:
            damping, least, at = max(LEAST_DAMPING, damping / 2), look.residual, done
    whole = bool(look.usable.all())  # else the estimate is not that of all rows
    notes = {
        **({"log_evidence_ep": look.log_evidence} if whole else {}),
        "sweeps": len(history),
        "residual": look.residual,
        "schedule": schedule,
        "damping": damping,
        "left_out": int((~look.usable).sum()),
        "negative_sites": int((q.site_precision < 0).sum()),
    }
    return Propagated(q, history, status, notes)


def _together(sites: Sites, q: _Gaussian, look: _Look, damping: float) -> _Gaussian:
    """All usable sites moved at once, by a step that leaves q proper."""
    share = damping
    while share > 1e-12:
        move = share * look.usable.to(q.loc)
        tau = q.site_precision + move * (look.site_precision - q.site_precision)
        nu = q.site_shift + move.unsqueeze(-1) * (look.site_shift - q.site_shift)
        moved = _gaussian(sites, tau, nu)
        if moved is not None:
            return moved
        share /= 2
    return q


def _one_by_one(sites: Sites, q: _Gaussian, damping: float) -> _Gaussian:
    """Each site in turn, q following by a rank-one update; at the end q is formed anew."""
    tau, nu = q.site_precision.clone(), q.site_shift.clone()
    now = _Gaussian(tau, nu, q.loc.clone(), q.covariance.clone(), 0.0)
    for index in torch.arange(len(tau), device=tau.device).split(1):
        mean, variance = _marginals(sites, now, index)
        new_tau, new_nu, usable, _, _ = _sites_at(sites, index, mean, variance, tau, nu)
        up, along = damping * (new_tau - tau[index]), damping * (new_nu - nu[index])
        growth = 1 + up * variance
        if not bool(usable) or not float(growth) > 1e-10:
            continue
        tau[index] += up
        nu[index] += along
        if sites.directions is None:
            now.covariance /= growth
            now.loc = mean[0] + (now.covariance[0, 0] * (along - up * mean))[0]
        else:
            column = now.covariance @ sites.directions[index[0]]
            now.covariance -= up / growth * torch.outer(column, column)
            now.loc = now.loc + column * ((along - up * mean) / growth).squeeze()
    return _gaussian(sites, tau, nu) or q


def _look(sites: Sites, q: _Gaussian, prior: _Gaussian) -> _Look:
    index = torch.arange(len(q.site_precision), device=q.loc.device)
    mean, variance = _marginals(sites, q, index)
    tau, nu, usable, tilted, shares = _sites_at(
        sites, index, mean, variance, q.site_precision, q.site_shift
    )
    off = ((tilted.mean - mean).norm(dim=-1) / variance.sqrt()).maximum(
        (tilted.variance / variance).log().abs()
    )
    residual = float(off[usable].max()) if bool(usable.any()) else math.inf
    evidence = q.log_partition - prior.log_partition + float(shares[shares.isfinite()].sum())
    return _Look(tau, nu, usable, residual, evidence)


def _sites_at(
    sites: Sites, index: Tensor, mean: Tensor, variance: Tensor, tau: Tensor, nu: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tilted, Tensor]:
    """tau and nu that match the tilted moments, where the cavity is proper; and log c of each site.

    log c = log Z + F(cavity) - F(marginal): the constant in front of the site. A site that cannot be
    used is computed at its marginal, and left alone by the caller.
    """
    left = 1 / variance - tau[index]
    usable = left * variance > 1e-10
    left = torch.where(usable, left, 1 / variance)
    cavity = 1 / left
    shift = mean / variance.unsqueeze(-1) - nu[index]
    place = torch.where(usable.unsqueeze(-1), shift * cavity.unsqueeze(-1), mean)
    tilted = sites.tilted(index, place, cavity)
    fine = tilted.log_mass.isfinite() & tilted.mean.isfinite().all(-1) & (tilted.variance > 0)
    usable = usable & fine
    new_tau = 1 / tilted.variance - left
    new_nu = tilted.mean / tilted.variance.unsqueeze(-1) - place * left.unsqueeze(-1)
    share = tilted.log_mass + _partition(place, cavity) - _partition(mean, variance)
    return new_tau, new_nu, usable, tilted, share


# normal distributions ----------------------------------------------------------------------------


def _start(sites: Sites) -> _Gaussian:
    """q is the prior; GuideError where that is not a normal distribution."""
    k = len(sites.shift) if sites.directions is None else 1
    zero = sites.shift.new_zeros
    prior = _gaussian(sites, zero(sites.number), zero(sites.number, k))
    if prior is None:
        raise GuideError(
            "The guide's prior precision is not positive definite: ep needs a proper normal prior."
        )
    return prior


def _gaussian(sites: Sites, tau: Tensor, nu: Tensor) -> _Gaussian | None:
    """The normal that prior and sites make, None where they make none."""
    A = sites.directions
    if A is None:
        precision_matrix = sites.precision + tau.sum() * torch.eye(len(sites.shift)).to(tau)
        shift = sites.shift + nu.sum(0)
    else:
        precision_matrix = sites.precision + A.mT @ (tau.unsqueeze(-1) * A)
        shift = sites.shift + (A.mT @ nu).squeeze(-1)
    chol, failed = torch.linalg.cholesky_ex(precision_matrix)
    if bool(failed) or not bool(chol.isfinite().all()):
        return None
    loc = torch.cholesky_solve(shift.unsqueeze(-1), chol).squeeze(-1)
    log_partition = 0.5 * float(loc @ shift) - float(chol.diagonal().log().sum())
    return _Gaussian(tau, nu, loc, torch.cholesky_inverse(chol), log_partition)


def _marginals(sites: Sites, q: _Gaussian, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (b, k) and variance (b,) of s under q."""
    if sites.directions is None:
        return q.loc.expand(len(index), -1), q.covariance[0, 0].expand(len(index))
    A = sites.directions[index]
    return (A @ q.loc).unsqueeze(-1), ((A @ q.covariance) * A).sum(-1)


def _partition(mean: Tensor, variance: Tensor) -> Tensor:
    """F(m, v) = k/2 log v + |m|^2 / (2 v), for m (b, k): the log-normaliser without its constant."""
    return 0.5 * (mean.shape[-1] * variance.log() + mean.square().sum(-1) / variance)
