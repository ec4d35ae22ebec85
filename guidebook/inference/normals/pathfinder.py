r"""Pathfinder: normals along the paths of an optimiser, the best of each path, mixed.

On the unconstrained scale L-BFGS climbs log p(x, u) from several starts. Its own estimate H_l of the
inverse curvature along the path gives a normal at every point u_l,

.. math:: q_l(u) = N\big(u_l + H_l \nabla \log p(x, u_l),\ H_l\big),

and of each path the one with the highest ELBO is kept: it lies where the path goes through the bulk of
the posterior, before it reaches a mode that need not be near it. With a diagonal matrix
diag(alpha) and the last J steps s and changes of the gradient z, side by side as S and Z (D, J),

.. math:: H = \mathrm{diag}(\alpha) + \beta \gamma \beta^\top, \quad
    \beta = [\mathrm{diag}(\alpha) Z,\ S], \quad
    \gamma = \begin{pmatrix} 0 & -R^{-1} \\ -R^{-\top} &
    R^{-\top} (E + Z^\top \mathrm{diag}(\alpha) Z) R^{-1} \end{pmatrix},

R the upper triangle of S'Z and E its diagonal. The normals of all paths are mixed, their shares fitted
by importance weights (w_k is the weighted mean responsibility of component k), so that the fit has a
density and weights of its own: `comparison.weighted` resamples as multi-path Pathfinder does.

Sources: Zhang, Carpenter, Gelman and Vehtari 2022, "Pathfinder: parallel quasi-Newton variational
inference"; Cappe, Douc, Guillin, Marin and Robert 2008, "Adaptive importance sampling in general
mixture classes" (the shares).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.guides.autoguides.mixture import NormalMixture
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import MOST, check_whole
from guidebook.inference.fits.status import Status
from guidebook.programs.potential import Potential
from guidebook.programs.start.mode import Climb

HISTORY, ITERATIONS = 6, 1000
SPREAD = 2.0
"""Starts lie uniformly between -2 and 2 in every coordinate, every second one at a draw of the prior."""
CURVED = 1e-10
"""A step counts for the curvature where s'z exceeds this times |z|^2."""
ROUNDS, DRAWS = 6, 2000
"""Of the shares, and the draws of each round."""


def pathfinder(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    paths: int = 8,
    elbo_draws: int = 20,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """A mixture of the best normals along `paths` climbs; some seconds, without a single tuning knob.

    notes: `elbo`, of each path's normal; `shares` of the mixture; `paths` that found one. Status
    CONVERGED, or NO_MODE where no path found a normal with a finite ELBO (the guide is then N(0, I)).

    The model's own parameters (pyro.param, networks) stay at their values: those of their statements,
    or those of a trained model, `svi(model, guide, data).model`; notes['held_parameters'] names them.

    Arguments:
        paths: climbs, each from a start of its own; their normals fill at most 8 GB.
        elbo_draws: of every normal, to compare their ELBOs.

    Raises:
        DataError, ModelError, SettingError: as `svi`.
    """
    check_whole(paths=(paths, 1, MOST), elbo_draws=(elbo_draws, 2, MOST))
    guide = NormalMixture(model, paths)
    with opened("pathfinder", model, guide, data, seed=seed, device=device) as run:
        run.hold_parameters()
        potential = Potential(run.model, run.tensors, run.guide.sites)
        found = _normals(run, potential, paths, elbo_draws, seed, progress)
        if found:
            centers = torch.stack([mean for mean, _, _ in found])
            factors = torch.stack([factor for _, factor, _ in found])
            log_shares = _shares(potential, centers, factors, seed)
            _place(run.guide, log_shares, centers, factors)
    if not found and run.interrupted:
        raise KeyboardInterrupt
    if not found:
        warnings.warn(Status.NO_MODE.value, stacklevel=2)
        return run.fit(Status.NO_MODE, sites=run.guide.sites, notes={"paths": 0})
    notes = {
        "paths": len(found),
        "elbo": [one[2] for one in found],
        "shares": log_shares.exp().tolist(),
    }
    return run.fit(Status.CONVERGED, sites=run.guide.sites, notes=notes)


Normal = tuple[Tensor, Tensor, float]
"""Mean (D,), lower triangular factor (D, D), ELBO."""


def _normals(
    run: Run, potential: Potential, paths: int, draws: int, seed: int, progress: bool
) -> list[Normal]:
    """The best normal of every path that has one."""
    rng = np.random.default_rng(seed)
    climb, found = Climb(potential), []
    prior = potential.prior_positions(paths, seed)
    with run.steps(paths, shown=progress) as steps:
        for k in steps:
            uniform = rng.uniform(-SPREAD, SPREAD, potential.dimension)
            start = prior[k] if k % 2 else uniform
            best = _best(potential, climb, climb.from_point(start, ITERATIONS), draws, rng)
            if best is not None:
                found.append(best)
                steps.show(elbo=best[2])
    return found


def _best(
    potential: Potential, climb: Climb, path: list[np.ndarray], draws: int, rng: np.random.Generator
) -> Normal | None:
    """The normal of highest ELBO along a path (points (D,)); None where none is finite."""
    candidates = curvatures(path, [-climb.objective(point)[1] for point in path])
    if not candidates:
        return None
    noise = rng.standard_normal((draws, potential.dimension))
    u = np.stack([mean + noise @ factor.T for mean, factor in candidates])
    position = torch.as_tensor(u, dtype=potential.dtype, device=potential.device)
    log_joint, log_det = potential(position.reshape(-1, potential.dimension))
    log_p = (log_joint + log_det).double().cpu().numpy().reshape(len(candidates), draws)
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    size = potential.dimension
    entropy = [np.log(np.diagonal(factor)).sum() for _, factor in candidates]
    constant = 0.5 * (np.square(noise).sum(1).mean() + size * math.log(2 * math.pi))
    elbo = log_p.mean(1) + np.array(entropy) + constant
    best = int(np.nanargmax(elbo)) if np.isfinite(elbo).any() else -1
    if best < 0:
        return None
    mean, factor = (torch.as_tensor(a, dtype=potential.dtype) for a in candidates[best])
    return mean.to(potential.device), factor.to(potential.device), float(elbo[best])


def curvatures(
    path: list[np.ndarray], slopes: list[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mean, factor) of the normal at every point (D,) of a path whose H is positive definite.

    `slopes` are the gradients of log p there.
    """
    alpha = np.ones_like(path[0])
    steps: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    found = []
    for before, after, slope, slope_after in zip(path, path[1:], slopes, slopes[1:], strict=False):
        s, z = after - before, slope - slope_after  # of -log p
        if s @ z > CURVED * (z @ z):
            alpha = _diagonal(alpha, s, z)
            steps, changes = [*steps, s][-HISTORY:], [*changes, z][-HISTORY:]
        if not steps:
            continue
        H = _inverse(alpha, np.column_stack(steps), np.column_stack(changes))
        try:
            factor = np.linalg.cholesky(0.5 * (H + H.T))
        except np.linalg.LinAlgError:
            continue
        mean = after + H @ slope_after
        if np.isfinite(mean).all() and np.isfinite(factor).all():
            found.append((mean, factor))
    return found


def _diagonal(alpha: np.ndarray, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The diagonal of the inverse curvature after one more step (Gilbert and Lemarechal 1989)."""
    a, b, c = z @ (alpha * z), z @ s, s @ (s / alpha)
    return 1 / (a / (b * alpha) + z**2 / b - a * s**2 / (b * c * alpha**2))


def _inverse(alpha: np.ndarray, S: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """H (D, D) of the module's docstring."""
    product = S.T @ Z
    R, E = np.triu(product), np.diag(np.diagonal(product))
    inverse = np.linalg.inv(R)
    scaled = alpha[:, None] * Z
    beta = np.concatenate([scaled, S], axis=1)
    corner = inverse.T @ (E + Z.T @ scaled) @ inverse
    gamma = np.block([[np.zeros_like(R), -inverse], [-inverse.T, corner]])
    return np.diag(alpha) + beta @ gamma @ beta.T


def _shares(potential: Potential, centers: Tensor, factors: Tensor, seed: int) -> Tensor:
    """log w (K,): each round the mean responsibilities of draws weighted by p / q."""
    count = len(centers)
    log_shares = centers.new_full((count,), -math.log(count))
    if count == 1:
        return log_shares
    normals = torch.distributions.MultivariateNormal(centers, scale_tril=factors)
    generator = torch.Generator().manual_seed(seed)
    each = DRAWS // count + 1
    noise = torch.randn(each, count, centers.shape[1], generator=generator, dtype=torch.float64)
    u = (centers + torch.einsum("kij,skj->ski", factors, noise.to(centers))).reshape(
        -1, centers.shape[1]
    )
    log_joint, log_det = potential(u)
    log_p = log_joint + log_det
    log_p = torch.where(log_p.isfinite(), log_p, -math.inf)
    log_q = normals.log_prob(u[:, None])  # (S, K); as many draws of each component
    log_w = log_p - log_q.logsumexp(1)
    if not bool(log_w.isfinite().any()):
        return log_shares
    weights = (log_w - log_w.max()).exp()
    for _ in range(ROUNDS):
        responsibilities = (log_q + log_shares).softmax(1)
        shares = (weights[:, None] * responsibilities).sum(0) / weights.sum()
        log_shares = (0.99 * shares + 0.01 / count).log()  # no component is lost for good
    return log_shares


def _place(guide: NormalMixture, log_shares: Tensor, centers: Tensor, factors: Tensor) -> None:
    """The components found; those of paths without a normal repeat the first with a share of nil."""
    missing = len(guide.log_shares) - len(centers)
    if missing:
        log_shares = torch.cat([log_shares, log_shares.new_full((missing,), -1e4)])
        centers = torch.cat([centers, centers[:1].expand(missing, -1)])
        factors = torch.cat([factors, factors[:1].expand(missing, -1, -1)])
    guide.place(log_shares, centers, factors)
