"""Guides for any model with global latents: Pyro's autoguides, started where the posterior is.

Every family is a distribution q(u) over the model's flat unconstrained position u (D,), carried to
the sites by z = T(u). Pyro's autoguides start at a draw of the prior with one scale for all
coordinates, and an optimiser with one step size then never reaches a posterior whose standard
deviations are 0.001 or 10,000. These start at a centre m with a factor L (m the mode and L L' the
inverse curvature there: `guidebook.programs.start.mode`), and their parameters are measured in units of
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

from guidebook.errors import GuideError
from guidebook.guides.autoguides.flow import Flow
from guidebook.guides.autoguides.mixture import NormalMixture
from guidebook.guides.autoguides.normal import FullRank, LowRank, MeanField
from guidebook.guides.autoguides.point import Point
from guidebook.guides.autoguides.whitened import Model, Whitened


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
    kind.family: kind for kind in (MeanField, FullRank, LowRank, Flow, Point, NormalMixture)
}
