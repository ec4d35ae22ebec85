"""Does a short Hamiltonian run move the draws?

The posterior is invariant under Hamiltonian Monte Carlo. Thousands of chains, started at the draws
of q, take a few transitions; if their means and standard deviations stay, q has them right, and if
they drift, the drift points at the posterior's. This needs no importance weights, so it can tell
where k-hat cannot (in many dimensions, or with light-tailed guides); like every local method it
does not see a mode that the draws never visit (`guidebook.diagnostics.witnesses.modes`).

A linear function whose autocorrelation over the run is r has moved by (1 - r) of its error, so the
drift is divided by 1 - r; where r exceeds 0.6 the run is too short to tell.

Source: Neal 2011, "MCMC using Hamiltonian dynamics"; the idea of testing an approximation by the
kernel that leaves its target invariant: Gorham, Duncan, Vollmer and Mackey 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.witnesses.importance import (
    weighted_moments,
)
from guidebook.diagnostics.witnesses.stein import Stein
from guidebook.diagnostics.witnesses.testimony import (
    Estimate,
    Marginals,
    _attribute,
    _flat,
)
from guidebook.inference.fits.fit import Fit
from guidebook.programs.labels import canonical_positions
from guidebook.programs.potential import Potential

if TYPE_CHECKING:
    import xarray as xr


CHAINS = 8192


TRANSITIONS = 12


ACCEPTANCE = 0.8


AUTOCORRELATION_LIMIT = 0.6


WORK = 2e10
"""Numbers computed, about twenty seconds on one core."""


@dataclass(frozen=True)
class Transport:
    """Per marginal (M,) on the constrained scale, from the draws before and after the run.

    shift: error of the mean of q in posterior sds, with standard error; sd_ratio: sd of q over that
    of the posterior, with relative error; able: which of them the run could tell.
    """

    mean: np.ndarray
    sd: np.ndarray
    shift: np.ndarray
    shift_se: np.ndarray
    sd_ratio: np.ndarray
    sd_ratio_se: np.ndarray
    able: np.ndarray
    acceptance: float


def transport(
    potential: Potential, u: np.ndarray, covariance: np.ndarray, seed: int = 0
) -> Transport | None:
    """Runs HMC from draws u (S, D), preconditioned by a covariance (D, D).

    None where the density or its gradient is not finite at most of the draws, or no step size is
    accepted.
    """
    gradients = TRANSITIONS * 6
    chains = int(min(len(u), CHAINS, max(512, WORK / gradients / potential.cost)))
    run = _Hamiltonian(potential, covariance, seed)
    before = torch.as_tensor(u[:chains], dtype=potential.dtype, device=potential.device)
    state = run.begin(before)
    if state is None:
        return None
    step = run.tuned_step(state)
    if step is None:
        return None
    accepted = []
    for _ in range(TRANSITIONS):
        state, rate = run.transition(state, step)
        accepted.append(rate)
    # components that exchanged places on the way are put back in the order of the draws
    after = canonical_positions(potential, state[0])
    return _compare(potential, before, after, float(np.mean(accepted)))


State = tuple[Tensor, Tensor, Tensor]  # u, log density, gradient


class _Hamiltonian:
    def __init__(self, potential: Potential, covariance: np.ndarray, seed: int) -> None:
        self.potential = potential
        self.factor = torch.as_tensor(
            np.linalg.cholesky(covariance), dtype=potential.dtype, device=potential.device
        )
        self.random = torch.Generator().manual_seed(seed)

    def begin(self, u: Tensor) -> State | None:
        value, grad = self.potential.value_and_grad(u)
        fine = value.isfinite() & grad.isfinite().all(1)
        if fine.double().mean() < 0.99:
            return None
        return u, value.nan_to_num(-1e300), grad.nan_to_num(0.0, 0.0, 0.0)

    def _normal(self, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=self.random, dtype=torch.float64)
        return noise.to(like)

    def transition(self, state: State, step: float, length: float = 1.5) -> tuple[State, float]:
        """One trajectory of about a quarter turn for every chain, with acceptance."""
        u, value, grad = state
        jitter = 0.8 + 0.4 * float(torch.rand((), generator=self.random))
        leaps = max(1, min(30, round(length * jitter / step)))
        momentum = self._normal(u)
        energy = value - 0.5 * momentum.square().sum(1)
        new_u, new_value, new_grad = u, value, grad
        for _ in range(leaps):
            momentum = momentum + 0.5 * step * (new_grad @ self.factor)
            new_u = new_u + step * (momentum @ self.factor.T)
            new_value, new_grad = self.potential.value_and_grad(new_u)
            momentum = momentum + 0.5 * step * (new_grad @ self.factor)
        change = new_value - 0.5 * momentum.square().sum(1) - energy
        fine = change.isfinite() & new_grad.isfinite().all(1)
        chance = torch.where(fine, change.clamp(max=0).exp(), 0.0)
        uniform = torch.rand(len(u), generator=self.random, dtype=torch.float64).to(chance)
        take = (uniform < chance)[:, None]
        moved = (
            torch.where(take, new_u, u),
            torch.where(take[:, 0], new_value, value),
            torch.where(take, new_grad, grad),
        )
        return moved, float(chance.mean())

    def tuned_step(self, state: State) -> float | None:
        """A step size accepted about 0.8 of the time, found on a few hundred chains."""
        few: State = (state[0][:256], state[1][:256], state[2][:256])
        step, log_step = 1.0, 0.0
        for trial in range(15):
            step = math.exp(log_step)
            _, rate = self.transition(few, step)
            if abs(rate - ACCEPTANCE) < 0.08 and trial > 0:
                break
            log_step += (2.0 if rate < 0.2 else 1.0) * (rate - ACCEPTANCE)
            log_step = min(log_step, 0.4)
        return step if step > 1e-3 else None


def _compare(potential: Potential, before: Tensor, after: Tensor, acceptance: float) -> Transport:
    old, new = flat_values(potential, before), flat_values(potential, after)
    size = len(old)
    sd = np.maximum(new.std(0), 1e-300)
    mean_old, mean_new = old.mean(0), new.mean(0)
    drift = mean_old - mean_new
    r = _rank_correlation(old, new)
    square_old = np.square(old - mean_new) / sd**2
    square_new = np.square(new - mean_new) / sd**2
    r2 = np.clip(_rank_correlation(square_old, square_new), 0, None)
    kept = np.clip(1 - np.clip(r, 0, None), 0.05, None)
    shift = drift / sd / kept
    shift_se = (old - new).std(0) / sd / kept / math.sqrt(size)
    log_ratio = np.log(np.maximum(old.std(0), 1e-300) / sd) / np.clip(1 - r2, 0.3, None)
    log_ratio_se = 0.5 * (square_old - square_new).std(0) / math.sqrt(size)
    able = (np.abs(r) < AUTOCORRELATION_LIMIT) & (acceptance > 0.4)
    return Transport(
        mean_old - shift * sd,
        sd,
        shift,
        shift_se,
        np.exp(log_ratio),
        log_ratio_se,
        able,
        acceptance,
    )


def flat_values(potential: Potential, u: Tensor) -> np.ndarray:
    """All scalar marginals of sites and derived values (S, M), in the order of the posterior group."""
    values = potential.constrain(u)
    return np.concatenate(
        [v.reshape(len(u), -1).double().cpu().numpy() for v in values.values()], axis=1
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation, column by column; 0 where a column is constant."""
    ranks_a, ranks_b = (np.argsort(np.argsort(x, axis=0), axis=0).astype(float) for x in (a, b))
    ranks_a -= ranks_a.mean(0)
    ranks_b -= ranks_b.mean(0)
    scale = np.sqrt(np.square(ranks_a).sum(0) * np.square(ranks_b).sum(0))
    return np.divide((ranks_a * ranks_b).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)


def _transport(
    tree: xr.DataTree, fit: Fit | None, raw: Stein | None, seed: int, absent: list[str]
) -> Transport | None:
    if _attribute(tree, "discrete"):
        absent.append("a short Hamiltonian run (discrete values have no gradients)")
        return None
    if fit is None or fit.model is None or fit.data is None or "unconstrained" not in tree.children:
        absent.append("a short Hamiltonian run (needs the model: give the Fit, not its file)")
        return None
    if fit.approximation.kind in ("point", "chains"):
        return None
    if not fit.potential.vectorised:
        absent.append("a short Hamiltonian run (the model cannot be vectorised)")
        return None
    u = _flat(tree["unconstrained"]["position"].values)
    covariance = np.atleast_2d(np.cov(u, rowvar=False))
    if raw is not None and raw.covariance is not None:
        covariance = _bounded(raw.covariance, covariance)
    try:
        return transport(fit.potential, u, covariance, seed)
    except np.linalg.LinAlgError:
        return None


def _bounded(target: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The target's covariance where it is within a factor of 100 of the draws' own scales."""
    ratio = np.diagonal(target) / np.diagonal(own)
    return target if (ratio < 1e4).all() and (ratio > 1e-4).all() else own


def _transport_estimate(
    marginals: Marginals, moved: Transport | None, weights: np.ndarray | None = None
) -> Estimate | None:
    """Errors of the raw draws, or of the weighted ones, by the moments after the Hamiltonian run."""
    if moved is None or len(moved.sd) != len(marginals.names):
        return None
    if weights is None:
        return Estimate(
            moved.shift, moved.shift_se, np.log(moved.sd_ratio), moved.sd_ratio_se, moved.able
        )
    mean, sd = weighted_moments(marginals.values, weights)
    ess = 1 / np.square(weights).sum()
    shift = (mean - moved.mean) / moved.sd
    log_ratio = np.log(np.maximum(sd, 1e-300) / moved.sd)
    noise = math.sqrt(1 / ess)
    return Estimate(
        shift,
        np.hypot(moved.shift_se, noise),
        log_ratio,
        np.hypot(moved.sd_ratio_se, noise),
        moved.able,
    )
