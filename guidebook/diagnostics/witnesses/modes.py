"""Is there posterior mass where the draws never go?

Optimisers started far from the draws find the modes around them; each has a mass by Laplace's
method. A mode that should hold a share of the posterior and holds far fewer of the draws is missing
from the approximation: the one failure that importance weights, gradients and short Markov chains
at the draws are all blind to.

Source: Yao, Vehtari and Gelman 2022, "Stacking for non-mixing Bayesian computations" (why the local
diagnostics do not see it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.psis import khat_limit
from guidebook.diagnostics.witnesses.subject import Subject
from guidebook.diagnostics.witnesses.testimony import Testimony
from guidebook.inference.fits.fit import Fit
from guidebook.programs.gaussian import Start, elbo
from guidebook.programs.labels import canonical_positions, log_labellings
from guidebook.programs.mode import Climb
from guidebook.programs.potential import Potential

NAME = "Modes"
STARTS, GRADIENTS_PER_START, ITERATIONS = 36, 80, 200
WORK = 4e8
"""Numbers computed in the search, at single positions: some seconds."""
LEAST_SHARE, VISITED = 0.01, 0.3
"""A mode is missing where it should hold more than a hundredth of the mass and holds less than 0.3 of
what it should."""
PATHS, TYPICAL = 20, 200
VALLEY = 1.0
"""Nats: two modes with less between them are one."""


@dataclass(frozen=True)
class Mode:
    """A local maximum: where (D,), the factor of its covariance, and its Laplace log mass."""

    center: np.ndarray
    factor: np.ndarray
    log_mass: float

    def distance(self, u: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of u (S, D) from the mode, in its own standard deviations."""
        if self.factor.ndim == 1:
            return np.linalg.norm((u - self.center) / self.factor, axis=-1)
        return np.linalg.norm(np.linalg.solve(self.factor, (u - self.center).T), axis=0)


def find_modes(potential: Potential, u: np.ndarray, seed: int = 0) -> list[Mode]:
    """Distinct modes reached from starts around the draws u (S, D), the origin and the prior."""
    rng = np.random.default_rng(seed)
    climb = Climb(potential)
    found: list[Mode] = []
    for start in _starts(potential, u, rng):
        top = climb.mode_at(climb.from_point(start, ITERATIONS)[-1])
        if top is None or not math.isfinite(top.log_mass):
            continue
        top = _labelled(climb, top)
        mode = _as_mode(top, log_labellings(potential.model))
        if not any(other.distance(mode.center[None])[0] < 1.0 for other in found):
            found.append(mode)
    return found


def _starts(potential: Potential, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Starts (n, D) at several distances: modes lie at the scale of the draws, of 1, or of the prior."""
    count = int(np.clip(WORK / (potential.cost * GRADIENTS_PER_START), 4, STARTS))
    middle, spread = u.mean(0), u.std(0)
    noise = rng.standard_normal((count, u.shape[1]))
    distance = np.array([3.0, 6.0, 12.0, 25.0])[np.arange(count) % 4, None]
    around = middle + distance * spread * noise / np.sqrt(np.square(noise).mean(1, keepdims=True))
    origin = (
        rng.standard_normal((count, u.shape[1])) * np.array([2.0, 5.0])[np.arange(count) % 2, None]
    )
    prior = potential.prior_positions(count, int(rng.integers(2**31)))
    third = count // 3
    return np.concatenate([around[:third], origin[:third], prior[:third]])


def _as_mode(top: Start, log_copies: float) -> Mode:
    center, factor = (t.double().cpu().numpy() for t in (top.center, top.factor))
    return Mode(center, factor, top.log_mass + log_copies)


def _labelled(climb: Climb, top: Start) -> Start:
    """The copy of this mode whose components are in the model's order."""
    center = canonical_positions(climb.potential, top.center[None])[0]
    if torch.equal(center, top.center):
        return top
    return climb.mode_at(center.double().cpu().numpy()) or top


def gaussian_elbo(potential: Potential, u: np.ndarray) -> float:
    """The ELBO of the Gaussian with the moments of the draws u (S, D); -inf where it has none."""
    covariance = np.atleast_2d(np.cov(u, rowvar=False))
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return -math.inf
    center, factor_ = (
        torch.as_tensor(a, dtype=potential.dtype, device=potential.device)
        for a in (u.mean(0), factor)
    )
    own = elbo(potential, Start(center, factor_, -math.inf, mode=False))
    return own + log_labellings(potential.model)


def missing_modes(
    potential: Potential, modes: list[Mode], u: np.ndarray, lower_bound: float
) -> list[tuple[Mode, float, float]]:
    """(mode, expected share, share of the draws in it) of modes that hold too few of the draws.

    A draw belongs to a mode within sqrt(D) + 2 of its standard deviations, where nearly all of its
    own mass lies. The total is the larger of the modes' sum and a lower bound of the log evidence.
    A mode that can be reached from the draws without crossing a valley is the same one, skewed.
    """
    if not modes:
        return []
    total = np.logaddexp.reduce([m.log_mass for m in modes])
    total = max(total, lower_bound)
    reach = math.sqrt(u.shape[1]) + 2
    missing = []
    for mode in modes:
        expected = math.exp(mode.log_mass - total)
        distance = mode.distance(u)
        share = float((distance < reach).mean())
        if expected > LEAST_SHARE and share < VISITED * expected:
            few = slice(0, TYPICAL)  # the very nearest of all draws may stand in the valley itself
            nearest = u[few][np.argsort(distance[few])[:PATHS]]
            if _behind_a_valley(potential, mode.center, nearest):
                missing.append((mode, expected, share))
    return missing


def _behind_a_valley(potential: Potential, center: np.ndarray, draws: np.ndarray) -> bool:
    """Whether log p(x, u) dips by more than VALLEY below both ends on every straight path."""
    steps = np.linspace(0, 1, 41)[:, None, None]
    path = center + steps * (draws - center)
    flat = torch.as_tensor(
        path.reshape(-1, len(center)), dtype=potential.dtype, device=potential.device
    )
    value = potential.value_and_grad(flat)[0].double().cpu().numpy().reshape(len(steps), -1)
    value = np.nan_to_num(value, nan=-1e300, neginf=-1e300)
    return bool((value.min(0) < np.minimum(value[0], value[-1]) - VALLEY).all())


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """A mode that the draws miss rules out raw and weighted draws alike."""
    if subject.kind == "point":
        return Testimony(NAME)
    if subject.modes is None or subject.position is None or subject.potential is None:
        return Testimony(NAME, absent=subject.lacks.get("modes", ""))
    u = subject.position[:, 0]
    least = _lower_bound(subject, heard)
    found = missing_modes(subject.potential, list(subject.modes), u, least)
    if not found:
        return Testimony(NAME, words=("Every mode that was found holds its share of the draws.",))
    mode, expected, share = max(found, key=lambda one: one[1])
    place = ", ".join(f"{v:.3g}" for v in mode.center[:4])
    more = ", ..." if len(mode.center) > 4 else ""
    words = (
        f"a mode at unconstrained ({place}{more}) should hold about {expected:.0%} of the posterior "
        f"mass and holds {share:.1%} of the draws"
    )
    return Testimony(
        NAME,
        words=(f"{words[:1].upper()}{words[1:]}.",),
        rules_out=f"The posterior has mass where there are no draws: {words}.",
        detail=found,
    )


def _lower_bound(subject: Subject, heard: Mapping[str, Testimony]) -> float:
    """A lower bound of log p(x): an ELBO, or the evidence estimate where weights are usable."""
    assert subject.potential is not None and subject.position is not None
    bounds = [gaussian_elbo(subject.potential, subject.position[:, 0])]
    numbers = heard[importance.NAME].numbers if importance.NAME in heard else {}
    if "elbo" in numbers and np.isfinite(numbers["elbo"][0]):
        usable = "khat" in numbers and numbers["khat"][0] < khat_limit(subject.draws)
        bounds.append(float(numbers["log_evidence" if usable else "elbo"][0]))
    return max(bounds)


def search_modes(fit: Fit, seed: int = 0) -> list[Mode] | None:
    """The modes of a fit's density, searched around its draws; None where that cannot be done."""
    if fit.model is None or fit.data is None:
        return None
    tree = fit.posterior(200, seed)
    if "unconstrained" not in tree.children:
        return None
    position = tree["unconstrained"]["position"].values
    return find_modes(fit.potential, position.reshape(-1, position.shape[-1]), seed)
