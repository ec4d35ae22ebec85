"""Where a fit starts: a mode of the posterior and its curvature, on the unconstrained scale.

L-BFGS from the origin, Newton steps, and the Hessian H there give N(m, (-H)^-1), the Laplace
approximation. The mode need not lie near the mass (a funnel is unbounded at its tip), so the start
is, as in Pathfinder, the Gaussian with the highest ELBO among those along the path, and is then
fitted to the posterior by a few fixed-point steps.

Sources: Nocedal and Wright 2006, "Numerical optimization", chapters 3, 6, 7; Zhang, Carpenter,
Gelman and Vehtari 2022, "Pathfinder: parallel quasi-Newton variational inference".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.programs.gaussian import ROUNDS, Start, elbo, fitted
from guidebook.programs.graphs.recorded import CannotRecord, eager
from guidebook.programs.potential import Potential
from guidebook.scope import local_parameters

FULL_CURVATURE_UP_TO = 600
ITERATIONS = 1000


def find_start(potential: Potential, iterations: int = ROUNDS) -> Start:
    """The start of a fit: the best Gaussian on the way to the mode, then fitted to the posterior by at
    most so many fixed-point steps.
    """
    climb = Climb(potential)
    origin = np.zeros(potential.dimension)
    path = climb.from_point(origin)
    top = climb.mode_at(path[-1])
    if top is None and climb.at_saddle(path[-1]):
        path = climb.off_symmetry(origin)
        top = climb.mode_at(path[-1])
    if potential.dimension > FULL_CURVATURE_UP_TO:
        return top or climb.gaussian_at(path[-1])
    candidates = [climb.gaussian_at(point) for point in _thinned([origin, *path], 8)]
    candidates += [top] if top else []
    candidates.sort(key=lambda c: elbo(potential, c), reverse=True)
    # a funnel has a local optimum at its tip: the wide start at the origin does not fall into it
    tried = [fitted(potential, c, iterations) for c in (*candidates[:2], climb.standard())]
    return max(tried, key=lambda c: elbo(potential, c))


class Climb:
    """Maximises log p(x, u) by L-BFGS and Newton; every evaluation is one run of a small graph."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._evaluate = _single(potential)

    def objective(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """-log p(x, u) and its gradient; a wall where the density is zero or not a number."""
        try:
            log_density, slope = self._evaluate(self._tensor(point))
        except LinAlgError:  # a matrix that is not positive definite so far out
            return 1e300, np.zeros_like(point)
        value, grad = -float(log_density), -slope.double().cpu().numpy()
        if not (math.isfinite(value) and np.isfinite(grad).all()):
            return 1e300, np.zeros_like(point)
        return value, grad

    def from_point(
        self,
        point: np.ndarray,
        iterations: int = ITERATIONS,
        metric: np.ndarray | None = None,
        until: Callable[[np.ndarray], object] | None = None,
    ) -> list[np.ndarray]:
        """The path of L-BFGS from a point, the last entry its end, or the first point that `until` accepts.

        In the coordinates v of u = point + L v where a `metric` L, (D, D) or (D,), is given: the factor of
        a covariance, in which the surface is round and a few steps suffice.
        """
        path: list[np.ndarray] = [point]
        point = self._where_finite(point)
        begin, placed, objective = self._in_metric(point, metric)

        def passed(v: np.ndarray) -> None:
            path.append(placed(v))
            if until is not None and until(path[-1]):
                raise StopIteration

        scipy.optimize.minimize(
            objective, begin, jac=True, method="L-BFGS-B", callback=passed,
            options={"maxiter": iterations, "maxfun": 3 * iterations, "maxcor": 20,
                     "ftol": 1e-15, "gtol": 1e-9, "maxls": 50},
        )  # fmt: skip
        return path

    def _in_metric(
        self, point: np.ndarray, metric: np.ndarray | None
    ) -> tuple[np.ndarray, Callable[..., np.ndarray], Callable[..., tuple[float, np.ndarray]]]:
        """The start in coordinates v, u of v, and -log p(x, u) with its gradient by v."""
        if metric is None:
            return point, np.copy, self.objective
        factor = np.diag(metric) if metric.ndim == 1 else metric

        def placed(v: np.ndarray) -> np.ndarray:
            moved: np.ndarray = point + factor @ v
            return moved

        def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self.objective(placed(v))
            return value, factor.T @ slope

        return np.zeros_like(point), placed, objective

    def _where_finite(self, point: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        for spread in (0.0, 0.1, 0.5, 1.0, 2.0, 3.0):
            trial = point + spread * rng.standard_normal(point.shape)
            if self.objective(trial)[0] < 1e300:
                return trial
        return point

    def mode_at(self, point: np.ndarray) -> Start | None:
        """The local maximum that Newton's method reaches from here, or None."""
        value = self.objective(point)[0]
        for _ in range(50):
            hessian = self._hessian(point)
            if not np.isfinite(hessian).all():
                return None
            grad = -self.objective(point)[1]
            factor = _cholesky_of_inverse(-hessian)
            positive = factor is not None
            if factor is None:
                factor = _absolute_factor(hessian)
            step = factor @ (factor.T @ grad)
            decrement = float(grad @ step)
            if decrement < 1e-8 and positive:
                return self._as_start(point, factor, -value, mode=True)
            point, value, moved = self._damped(point, value, step, decrement)
            if not moved:
                if positive and decrement < 1e-3:
                    return self._as_start(point, factor, -value, mode=True)
                return None
            if np.abs(point).max() > 1e9:
                return None
        return None

    def _damped(
        self, point: np.ndarray, value: float, step: np.ndarray, decrement: float
    ) -> tuple[np.ndarray, float, bool]:
        for halving in range(30):
            trial = point + step * 0.5**halving
            height = self.objective(trial)[0]
            if height < value - 1e-4 * 0.5**halving * decrement:
                return trial, height, True
        return point, value, False

    def at_saddle(self, point: np.ndarray) -> bool:
        """Whether the gradient vanishes here although the curvature has both signs."""
        if len(point) > FULL_CURVATURE_UP_TO:
            return False
        hessian = self._hessian(point)
        if not np.isfinite(hessian).all():
            return False
        slope = _absolute_factor(hessian).T @ self.objective(point)[1]
        return float(slope @ slope) < 1e-6

    def off_symmetry(self, point: np.ndarray) -> list[np.ndarray]:
        """The path to the highest end of a few scattered starts.

        Exchangeable components at one place never part on a path that begins in their symmetry.
        """
        rng = np.random.default_rng(1)
        noise = (spread * rng.standard_normal(point.shape) for spread in (0.3, 1.0, 3.0, 3.0))
        paths = [self.from_point(point + shift) for shift in noise]
        return min(paths, key=lambda path: self.objective(path[-1])[0])

    def gaussian_at(self, point: np.ndarray) -> Start:
        """A Gaussian at any point, by the absolute curvature there."""
        factor = _absolute_factor(self._hessian(point))
        return self._as_start(point, factor, -self.objective(point)[0], mode=False)

    def laplace_at(self, point: np.ndarray) -> Start | None:
        """N(point, (-H)^-1), H the Hessian there; None where -H is not positive definite."""
        hessian = self._hessian(point)
        factor = _cholesky_of_inverse(-hessian) if np.isfinite(hessian).all() else None
        if factor is None:
            return None
        return self._as_start(point, factor, -self.objective(point)[0], mode=False)

    def standard(self) -> Start:
        """N(0, I)."""
        point = np.zeros(self.potential.dimension)
        return self._as_start(point, np.eye(len(point)), -self.objective(point)[0], mode=False)

    def _hessian(self, point: np.ndarray) -> np.ndarray:
        if len(point) <= FULL_CURVATURE_UP_TO:
            return self.potential.hessian(self._tensor(point)).double().cpu().numpy()
        return np.diag(self._diagonal_curvature(point))

    def _diagonal_curvature(self, point: np.ndarray, probes: int = 30) -> np.ndarray:
        """Hutchinson's estimate of the diagonal of the Hessian, for many dimensions."""
        rng = np.random.default_rng(0)
        total = np.zeros_like(point)
        step = 1e-4 * (1 + np.abs(point))
        for _ in range(probes):
            sign = rng.choice([-1.0, 1.0], size=point.shape)
            ahead = -self.objective(point + step * sign)[1]
            behind = -self.objective(point - step * sign)[1]
            total += (ahead - behind) / (2 * step) * sign
        return total / probes

    def _as_start(self, point: np.ndarray, factor: np.ndarray, height: float, mode: bool) -> Start:
        if len(point) > FULL_CURVATURE_UP_TO:
            factor = np.diagonal(factor)
        return Start(self._tensor(point), self._tensor(factor), height, mode)

    def _tensor(self, array: np.ndarray) -> Tensor:
        p = self.potential
        return torch.as_tensor(np.array(array), dtype=p.dtype, device=p.device)


def _single(potential: Potential) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """log p(x, u) and its gradient at u (D,), by the small graph of one position where there is one."""
    try:
        return potential.run_single()
    except CannotRecord:
        potential.vectorised = False  # and the start is content with fewer draws

        def single(u: Tensor) -> tuple[Tensor, Tensor]:
            with local_parameters(), eager():
                return potential.value_and_grad_by_autograd(u)

        return single


def _cholesky_of_inverse(precision: np.ndarray) -> np.ndarray | None:
    """Lower L with L L' = precision^-1, or None where precision is not positive definite."""
    scale = np.sqrt(np.abs(np.diagonal(precision)))
    if not (scale > 0).all() or not (np.diagonal(precision) > 0).all():
        return None
    try:  # equilibrated: standard deviations may differ by 10^7
        scaled = precision / np.outer(scale, scale)
        np.linalg.cholesky(scaled)
        covariance = np.linalg.inv(scaled)
        return np.linalg.cholesky(0.5 * (covariance + covariance.T)) / scale[:, None]
    except np.linalg.LinAlgError:
        return None


def _absolute_factor(hessian: np.ndarray) -> np.ndarray:
    """A factor from |H|, its eigenvalues bounded away from zero, where -H is not positive."""
    hessian = np.nan_to_num(hessian, nan=0.0, posinf=1e12, neginf=-1e12)
    scale = np.sqrt(np.abs(np.diagonal(hessian)))
    scale = np.where(scale > 1e-12, scale, 1.0)
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    values = np.maximum(np.abs(values), 1e-3)
    covariance = (vectors / values) @ vectors.T
    return np.linalg.cholesky(0.5 * (covariance + covariance.T)) / scale[:, None]


def _thinned(path: list[np.ndarray], count: int) -> list[np.ndarray]:
    places = np.unique(np.linspace(0, len(path) - 1, min(count, len(path))).round().astype(int))
    return [path[i] for i in places]
