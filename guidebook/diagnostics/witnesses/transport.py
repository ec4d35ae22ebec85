"""Does a short Hamiltonian run move the draws?

The posterior is invariant under Hamiltonian Monte Carlo. Thousands of chains, started at the draws
of q, take a few transitions; if their means and standard deviations stay, q has them right, and if
they drift, the drift points at the posterior's. This needs no importance weights, so it can judge
where k-hat cannot (in many dimensions, or with light-tailed guides); like every local method it
does not see a mode that the draws never visit (`guidebook.diagnostics.witnesses.modes`).

A linear function whose autocorrelation over the run is r has moved by (1 - r) of its error, so the
drift is divided by 1 - r; where r exceeds 0.6 the run is too short to judge.

Source: Neal 2011, "MCMC using Hamiltonian dynamics"; the idea of testing an approximation by the
kernel that leaves its target invariant: Gorham, Duncan, Vollmer and Mackey 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.evidence.subject import Density, Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony, where
from guidebook.diagnostics.numerics.basins import Basins, visited
from guidebook.diagnostics.numerics.drift import Transport, compared, within_basins
from guidebook.diagnostics.numerics.psis import weighted_moments
from guidebook.diagnostics.witnesses import annealed, importance, modes, stein
from guidebook.diagnostics.witnesses.importance import weights_of

NAME = "HMC check"
CHAINS, LEAST_CHAINS = 8192, 512
"""Of one posterior; of many, an eighth."""
FIRST = 2048
"""Chains of one posterior that run first, the others only where these leave it open."""
TRANSITIONS = 12
ACCEPTANCE = 0.8
TUNING_CHAINS = 256
WORK = 2e10
"""Numbers computed, about twenty seconds on one core."""


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Errors of the raw and of the weighted draws by the moments after the run, per posterior."""
    if subject.kind in ("chains", "point"):
        return Testimony(NAME)
    if subject.density is None or subject.position is None:
        return Testimony(NAME, absent=subject.lacks.get("density", "needs the model"))
    found = heard.get(stein.NAME)
    try:
        covariance = _metric(subject.position, found.detail if found else None)
        moved = transport(
            subject.density,
            subject.position,
            covariance,
            subject.seed,
            _between(subject, heard),
            partial(_clear, subject, heard),
        )
    except np.linalg.LinAlgError:
        return Testimony(NAME, absent="the covariance of the draws is singular")
    if moved is None:
        return Testimony(
            NAME, absent="the density is not finite at the draws, or every proposal is rejected"
        )
    raw = _raw(subject, moved)
    weights = weights_of(heard)
    weighted = None
    if weights is not None:
        weighted = of_weighted(subject.values, moved, weights).widened(subject.tails)
    names, (open_raw, open_weighted) = subject.names, annealed.open_to(heard)
    mixed = f"mixed for {int(moved.able.sum())} of {moved.able.size} marginals"
    return Testimony(
        NAME,
        words=(
            f"Acceptance {moved.acceptance.mean():.2f}, {mixed}, nested R-hat at most "
            f"{moved.nested_rhat.max():.2f}; largest error: {raw.worst(names)}.",
        ),
        role="confirms",
        estimate=raw,
        weighted=weighted,
        against=_off(raw, names, "Compared with", open_raw),
        against_weighted=_off(weighted, names, "After weighting, compared with", open_weighted),
        agreement="a short HMC run started at the draws leaves means and standard deviations in place",
        detail=moved,
    )


def _raw(subject: Subject, moved: Transport) -> Estimate:
    """Errors of the raw draws."""
    log_ratio = np.log(moved.sd_ratio)
    return Estimate(moved.shift, moved.shift_se, log_ratio, moved.sd_ratio_se, moved.able).widened(
        subject.tails
    )


def _clear(subject: Subject, heard: Mapping[str, Testimony], moved: Transport) -> bool:
    """Whether more chains could change nothing: the raw draws are right, or off while the weights cannot
    be used for another reason. With two errors either way a quarter of the chains is asked no less.
    """
    raw = _raw(subject, moved)
    told = heard.get(importance.NAME)
    unusable = told is None or told.absent or any(told.against_weighted)
    return bool(raw.good().all() or (raw.bad().all() and unusable))


class Between(NamedTuple):
    """Several basins that the draws visit, and the errors of their shares."""

    basins: Basins
    shares: Estimate


def _between(subject: Subject, heard: Mapping[str, Testimony]) -> Between | None:
    told = heard.get(modes.NAME)
    if told is None or told.estimate is None or subject.modes is None or subject.position is None:
        return None
    if visited(subject.modes, subject.position[:, 0]) is None:
        return None
    return Between(subject.modes, told.estimate)


def _off(
    found: Estimate | None, names: Sequence[str], compared: str, may: np.ndarray
) -> Sequence[str]:
    """The reason against each posterior whose error is out of bounds, where it `may` be spoken against."""
    if found is None:
        return ()
    return where(
        found.bad() & may, lambda i: f"{compared} a short HMC run, {found.worst(names, i)}."
    )


def _metric(position: np.ndarray, found: list[stein.Stein | None] | None) -> np.ndarray:
    """Covariances (n, D, D): of the Gaussian that matches the density, where it is near the draws'."""
    own = np.stack([np.atleast_2d(np.cov(u, rowvar=False)) for u in position.swapaxes(0, 1)])
    for i, one in enumerate(found or []):
        if one is not None and one.covariance is not None:
            ratio = np.diagonal(one.covariance) / np.diagonal(own[i])
            if (ratio < 1e4).all() and (ratio > 1e-4).all():  # within a factor of 100 in scale
                own[i] = one.covariance
    return own


def of_weighted(values: np.ndarray, moved: Transport, weights: np.ndarray) -> Estimate:
    """Errors of the weighted draws against the moments after the run, (n, M)."""
    pairs = [weighted_moments(values[:, i], w) for i, w in enumerate(weights.T)]
    mean, sd = (np.stack(one) for one in zip(*pairs, strict=True))
    noise = np.sqrt(np.square(weights).sum(0))[:, None]  # 1 / sqrt of the effective draws
    return Estimate(
        (mean - moved.mean) / moved.sd,
        np.hypot(moved.shift_se, noise),
        np.log(np.maximum(sd, 1e-300) / moved.sd),
        np.hypot(moved.sd_ratio_se, noise),
        moved.able,
    )


def transport(
    density: Density,
    u: np.ndarray,
    covariance: np.ndarray,
    seed: int = 0,
    between: Between | None = None,
    clear: Callable[[Transport], bool] | None = None,
) -> Transport | None:
    """Runs HMC from draws u (S, n, D) of n posteriors, preconditioned by covariances (n, D, D).

    Of draws in several basins (`between`) the run moves them within each, which is what is compared;
    the errors of their shares are added. Where `clear` is given, the run of the first chains of one
    posterior is asked whether the rest is needed.

    None where the density or its gradient is not finite at most of the draws, or no step size is
    accepted.
    """
    n = u.shape[1]
    chains = min(len(u), affordable(density, n))
    first = min(chains, FIRST) if clear is not None and n == 1 else chains
    run = _Hamiltonian(density, covariance, seed)
    step: float | None = None
    parts: list[tuple[Tensor, Tensor, np.ndarray]] = []
    moved = None
    for block in (slice(0, first), slice(first, chains)):
        before = torch.as_tensor(u[block], dtype=density.dtype, device=density.device)
        state = run.begin(before)
        step = run.tuned_step(state) if state is not None and step is None else step
        if state is None or step is None:
            return None
        parts.append((before, *run.through(state, step)))
        moved = _compared(density, parts, between)
        if first == chains or (clear is not None and clear(moved)):
            break
    return moved


def affordable(density: Density, posteriors: int) -> int:
    """Chains of each posterior whose gradients stay within the budget."""
    of_one = posteriors == 1
    most, least = (CHAINS, LEAST_CHAINS) if of_one else (CHAINS // 8, LEAST_CHAINS // 8)
    within = WORK / (TRANSITIONS * 6) / density.cost / posteriors / (1 if of_one else 4)
    return int(min(most, max(least, within)))


def _compared(
    density: Density, parts: list[tuple[Tensor, Tensor, np.ndarray]], between: Between | None
) -> Transport:
    """The marginals before and after the run of every block of chains (before, after, acceptance)."""
    before, after = torch.cat([b for b, _, _ in parts]), torch.cat([a for _, a, _ in parts])
    rates, sizes = [rate for _, _, rate in parts], [len(b) for b, _, _ in parts]
    acceptance = np.average(rates, axis=0, weights=sizes)
    # components that exchanged places on the way are put back in the order of the draws
    after = density.ordered(after)
    old, new = density.values(before), density.values(after)
    if between is None:
        return compared(old, new, acceptance)
    places = [between.basins.of(x[:, 0].double().cpu().numpy()) for x in (before, after)]
    return within_basins(old, new, acceptance, places, between.shares)


State = tuple[Tensor, Tensor, Tensor]
"""u (C, n, D), log density (C, n), gradient (C, n, D)."""


class _Hamiltonian:
    def __init__(self, density: Density, covariance: np.ndarray, seed: int) -> None:
        self.density = density
        self.factor = torch.as_tensor(
            np.linalg.cholesky(covariance), dtype=density.dtype, device=density.device
        )
        self.random = torch.Generator().manual_seed(seed)

    def begin(self, u: Tensor) -> State | None:
        value, grad = self.density.value_and_grad(u)
        fine = value.isfinite() & grad.isfinite().all(-1)
        if fine.double().mean() < 0.99:
            return None
        return u, value.nan_to_num(-1e300), grad.nan_to_num(0.0, 0.0, 0.0)

    def through(self, state: State, step: float) -> tuple[Tensor, np.ndarray]:
        """Positions (C, n, D) after all transitions, and the mean acceptance (n,)."""
        accepted = []
        for _ in range(TRANSITIONS):
            state, rate = self.transition(state, step)
            accepted.append(rate)
        return state[0], np.mean(accepted, axis=0)

    def _normal(self, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=self.random, dtype=torch.float64)
        return noise.to(like)

    def transition(
        self, state: State, step: float, length: float = 1.5
    ) -> tuple[State, np.ndarray]:
        """One trajectory of about a quarter turn for every chain, with acceptance (n,)."""
        u, value, grad = state
        jitter = 0.8 + 0.4 * float(torch.rand((), generator=self.random))
        leaps = max(1, min(30, round(length * jitter / step)))
        momentum = self._normal(u)
        energy = value - 0.5 * momentum.square().sum(-1)
        new_u, new_value, new_grad = u, value, grad
        for _ in range(leaps):
            momentum = momentum + 0.5 * step * self._times(new_grad, self.factor)
            new_u = new_u + step * self._times(momentum, self.factor.mT)
            new_value, new_grad = self.density.value_and_grad(new_u)
            momentum = momentum + 0.5 * step * self._times(new_grad, self.factor)
        change = new_value - 0.5 * momentum.square().sum(-1) - energy
        fine = change.isfinite() & new_grad.isfinite().all(-1)
        chance = torch.where(fine, change.clamp(max=0).exp(), 0.0)
        uniform = torch.rand(chance.shape, generator=self.random, dtype=torch.float64).to(chance)
        take = uniform < chance
        moved = (
            torch.where(take[..., None], new_u, u),
            torch.where(take, new_value, value),
            torch.where(take[..., None], new_grad, grad),
        )
        return moved, chance.mean(0).double().cpu().numpy()

    @staticmethod
    def _times(rows: Tensor, matrix: Tensor) -> Tensor:
        """(C, n, D) by (n, D, D)."""
        return (rows.transpose(0, 1) @ matrix).transpose(0, 1)

    def tuned_step(self, state: State) -> float | None:
        """A step size accepted about 0.8 of the time, found on a few hundred chains."""
        chains = max(8, TUNING_CHAINS // state[0].shape[1])
        few: State = (state[0][:chains], state[1][:chains], state[2][:chains])
        step, log_step = 1.0, 0.0
        for trial in range(15):
            step = math.exp(log_step)
            rate = float(self.transition(few, step)[1].mean())
            if abs(rate - ACCEPTANCE) < 0.08 and trial > 0:
                break
            log_step += (2.0 if rate < 0.2 else 1.0) * (rate - ACCEPTANCE)
            log_step = min(log_step, 0.4)
        return step if step > 1e-3 else None
