"""Stein's identities: what gradients at the draws say about the draws.

Under the posterior, on the unconstrained scale, with g = grad log p(x, u):

    E[g] = 0,    E[(u - E u) g'] = -I.

Regressing g on u over the draws of q, g = a - P (u - m) + residual, estimates the same two moments
with less noise: P is the precision of the Gaussian that matches the posterior over q's draws and
m + P^-1 a is its mean. So the identities also say which coordinate is off, how far and which way:
shift = -P^-1 a, the error of q's mean in posterior standard deviations (as in `Estimate`), and the
ratio of q's standard deviation to the posterior's. k-hat is blind to a guide far too narrow for its
surroundings; these are not.

Sources: Stein 1972, "A bound for the error in the normal approximation"; Gorham and Mackey 2015,
"Measuring sample quality with Stein's method".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony, where
from guidebook.diagnostics.numerics.basins import visited
from guidebook.diagnostics.witnesses import annealed
from guidebook.diagnostics.witnesses.importance import weights_of

NAME = "Stein's identities"
STEIN_LIMIT = 0.35
"""Of Stein's discrepancy: it compares with a Gaussian, so it contradicts, and does not confirm."""


@dataclass(frozen=True)
class Stein:
    """Per coordinate (D,): shift and its standard error in posterior sds, and the ratio of sds.

    covariance (D, D) and mean (D,) are those of the matching Gaussian; None where the curvature
    seen by the draws is not that of a maximum.
    """

    names: list[str]
    shift: np.ndarray
    shift_se: np.ndarray
    sd_ratio: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray | None

    @property
    def discrepancy(self) -> float:
        """The largest of |shift| and |log sd ratio|: 0 for the posterior."""
        if self.covariance is None:
            return math.inf
        return float(max(np.abs(self.shift).max(), np.abs(np.log(self.sd_ratio)).max()))

    def worst(self) -> str:
        """The coordinate that is most off, and how, in words."""
        if self.covariance is None:
            return "the log density has no maximum where the draws are"
        shift, ratio = int(np.abs(self.shift).argmax()), int(np.abs(np.log(self.sd_ratio)).argmax())
        if abs(self.shift[shift]) >= abs(math.log(self.sd_ratio[ratio])):
            way = "high" if self.shift[shift] > 0 else "low"
            return f"{self.names[shift]} lies {abs(self.shift[shift]):.2g} sd too {way}"
        value = self.sd_ratio[ratio]
        kind = "narrow" if value < 1 else "wide"
        return f"{self.names[ratio]} is too {kind} (sd ratio {value:.2g})"


def stein(
    u: np.ndarray, gradient: np.ndarray, names: list[str], weights: np.ndarray | None = None
) -> Stein | None:
    """The identities on draws u (S, D) with gradients (S, D), optionally weighted; None if S < 4 D."""
    size, dimension = u.shape
    if size < max(4 * dimension, 25) or not np.isfinite(gradient).all():
        return None
    w = np.full(size, 1 / size) if weights is None else weights
    ess = 1 / np.square(w).sum()
    if ess < 2:  # one draw carries all the weight
        return None
    mean, centre = w @ u, w @ gradient
    moved, slope_of = u - mean, gradient - centre
    scale = np.sqrt(w @ np.square(moved))
    if not (scale > 0).all():
        return None
    root = np.sqrt(w)[:, None]
    standard = moved / scale
    solution = np.linalg.lstsq(root * standard, root * slope_of * scale, rcond=None)[0]
    residual = slope_of * scale - standard @ solution
    precision = -0.5 * (solution + solution.T)
    values, vectors = np.linalg.eigh(precision)
    nothing = np.full(dimension, np.nan)
    if values[0] <= 1e-8 * max(values[-1], 1e-300):
        return Stein(names, nothing, nothing, nothing, mean, None)
    inverse = (vectors / values) @ vectors.T
    sd = np.sqrt(np.diagonal(inverse))
    shift = -inverse @ (centre * scale)
    noise = np.cov(residual @ inverse.T, rowvar=False, aweights=w).reshape(dimension, dimension)
    error = np.sqrt(np.maximum(np.diagonal(noise), 0) / ess)
    covariance = inverse * np.outer(scale, scale)
    return Stein(names, shift / sd, error / sd, 1 / sd, mean - shift * scale, covariance)


def stein_from_surface(z: np.ndarray, lp: np.ndarray, names: list[str]) -> Stein | None:
    """The same without gradients: a quadratic fitted to lp over the draws z (S, D).

    Its Hessian is -P and its maximum the mean. For files that hold lp and no gradients; None where
    there are too few draws for the quadratic or it explains less than 90 % of the variance of lp.
    """
    size, dimension = z.shape
    features = 1 + dimension + dimension * (dimension + 1) // 2
    spread = z.std(0)
    if size < 5 * features or not np.isfinite(lp).all() or not (spread > 0).all():
        return None
    mean = z.mean(0)
    s = (z - mean) / spread
    first, second = np.triu_indices(dimension)
    design = np.column_stack([np.ones(size), s, s[:, first] * s[:, second]])
    coefficients, *_ = np.linalg.lstsq(design, lp, rcond=None)
    left = lp - design @ coefficients
    if np.var(left) > 0.1 * np.var(lp):
        return None
    slope = coefficients[1 : dimension + 1]
    hessian = np.zeros((dimension, dimension))
    hessian[first, second] = coefficients[dimension + 1 :]
    precision = -(hessian + hessian.T)
    values, vectors = np.linalg.eigh(precision)
    nothing = np.full(dimension, np.nan)
    if values[0] <= 1e-8 * max(values[-1], 1e-300):
        return Stein(names, nothing, nothing, nothing, mean, None)
    inverse = (vectors / values) @ vectors.T
    sd = np.sqrt(np.diagonal(inverse))
    shift = -inverse @ slope
    # of the maximum s = -shift of the fitted quadratic, by its derivative by the coefficients
    bend, pairs = np.zeros((dimension, len(first))), np.arange(len(first))
    bend[first, pairs] -= shift[second]
    bend[second, pairs] -= shift[first]
    tangent = inverse @ np.column_stack([np.zeros(dimension), np.eye(dimension), bend])
    noise = (tangent @ np.linalg.pinv(design.T @ design, hermitian=True) * tangent).sum(1)
    error = np.sqrt(left @ left / (size - features) * noise)
    covariance = inverse * np.outer(spread, spread)
    return Stein(names, shift / sd, error / sd, 1 / sd, mean - shift * spread, covariance)


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """The identities on raw and on weighted draws; from lp's surface where there are no gradients.

    They may contradict and do not confirm: a full-rank Gaussian at its optimum satisfies both
    identities by construction. They compare with a Gaussian, which a posterior of several explanations
    is not: where the moments of a row are known directly (`annealed`) and within bounds, nothing is against
    it.
    """
    if subject.kind == "point":
        return Testimony(NAME)
    raw, weighted, instead = _found(subject, weights_of(heard))
    if all(one is None for one in raw):
        return Testimony(NAME, absent=instead or "too few draws for the dimension")
    off, off_weighted = (
        np.array([one.discrepancy if one else math.nan for one in found])
        for found in (raw, weighted or [None] * subject.posteriors)
    )
    said = [f"{instead}."] if instead else []
    if subject.posteriors == 1 and raw[0] is not None:
        said.append(
            f"Discrepancy {raw[0].discrepancy:.2g} (limit {STEIN_LIMIT}); {raw[0].worst()}."
        )
    else:
        said.append(
            f"Discrepancy per row: median {np.nanmedian(off):.2g}, at most {np.nanmax(off):.2g}, of "
            f"{len(off)} rows."
        )
    open_raw, open_weighted = annealed.open_to(heard)
    known = ~np.isnan(off_weighted)
    return Testimony(
        NAME,
        words=tuple(said),
        against=where(
            (off > STEIN_LIMIT) & open_raw,
            lambda i: f"Stein's identities fail: {raw[i].worst()}.",  # type: ignore[union-attr]
        ),
        against_weighted=where(
            known & ~(off_weighted < STEIN_LIMIT) & open_weighted,
            lambda i: (
                "The importance-weighted draws fail Stein's identities (discrepancy "
                f"{off_weighted[i]:.2g}, limit {STEIN_LIMIT})."
            ),
        ),
        supports=np.isfinite(off),
        checks=known,
        agreement="Stein's identities hold" if (off <= STEIN_LIMIT).all() else "",
        numbers={"stein": off},
        detail=raw,
    )


def _found(
    subject: Subject, weights: np.ndarray | None
) -> tuple[list[Stein | None], list[Stein | None] | None, str]:
    """Of the raw and of the weighted draws, and in words what stands in for gradients."""
    u, gradient = subject.position, subject.gradient
    names = list(subject.coordinates)
    if u is not None and gradient is not None:
        place = visited(subject.modes, u[:, 0]) if subject.posteriors == 1 else None
        if place is not None:
            found = [_worst_of(u, gradient, names, w, place) for w in (None, weights)]
            return [found[0]], None if weights is None else [found[1]], ""
        rows = range(subject.posteriors)
        raw = [stein(u[:, i], gradient[:, i], names) for i in rows]
        if weights is None:
            return raw, None, ""
        return raw, [stein(u[:, i], gradient[:, i], names, weights[:, i]) for i in rows], ""
    reason = subject.lacks.get("gradient", "no gradients")
    if subject.is_discrete or subject.log_density is None or subject.posteriors > 1:
        return [None] * subject.posteriors, None, reason
    chosen = _independent_columns(subject.values[:, 0])
    surface = stein_from_surface(
        subject.values[:, 0][:, chosen],
        subject.log_density[:, 0],
        [subject.names[i] for i in chosen],
    )
    if surface is None:
        return [None], None, reason
    return [surface], [surface], f"Gradients of a quadratic fitted to lp are used ({reason})"


def _worst_of(
    u: np.ndarray,
    gradient: np.ndarray,
    names: list[str],
    weights: np.ndarray | None,
    place: np.ndarray,
) -> Stein | None:
    """The identities basin by basin, and of them the worst.

    Over several modes at once a small shift within each looks like a large one of the whole: the
    identities are as good as the density's Poincare constant, which is that of the valleys.
    """
    found = []
    for basin in np.unique(place):
        inside = place == basin
        w = None if weights is None else weights[inside, 0] / max(weights[inside, 0].sum(), 1e-300)
        found.append(stein(u[inside, 0], gradient[inside, 0], names, w))
    known = [one for one in found if one is not None]
    return max(known, key=lambda one: one.discrepancy) if known else None


def _independent_columns(values: np.ndarray) -> list[int]:
    """Columns that are not linear functions of those before: a simplex has one too many."""
    standard = (values - values.mean(0)) / np.maximum(values.std(0), 1e-300)
    kept: list[int] = []
    for column in range(values.shape[1]):
        if not kept:
            kept.append(column)
            continue
        basis = standard[:, kept]
        left = (
            standard[:, column] - basis @ np.linalg.lstsq(basis, standard[:, column], rcond=None)[0]
        )
        if left.std() > 1e-6:
            kept.append(column)
    return kept
