"""How much of the posterior lies around each mode, by importance sampling from all modes at once.

With K modes of centre m_k and covariance C_k, and draws u_s of the even mixture r of Student t
distributions t_5(m_k, C_k),

    mass_k = mean over s of p(x, u_s) / r(u_s) [u_s nearest to mode k],

nearest by log N(u; m_k, C_k). Basins without a valley between them are one. Where the weights in a
basin cannot be relied on (k-hat), its mass is Laplace's, p(x, m_k) |2 pi C_k|^1/2, within a factor of e.

Sources: Owen and Zhou 2000, "Safe and effective importance sampling" (all densities in the
denominator); MacKay 2003, "Information theory, inference and learning algorithms", chapter 27
(Laplace's method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from guidebook.diagnostics.numerics.modes import STARTS, Mode, find_modes, log_density
from guidebook.diagnostics.numerics.psis import Importance, psis
from guidebook.inference.fits.fit import Fit
from guidebook.programs.labels import log_labellings
from guidebook.programs.potential import Potential

MOST_MODES = 12
DRAWS, DRAWS_ONE_BY_ONE = 1000, 200
"""Of every mode; of a model that cannot be vectorised the second."""
LEAST_VISITED = 0.05
FREEDOM = 5.0
LEAST_ESS = 50.0
"""Effective draws in a basin: its mass is then known to 14 %."""
LAPLACE_ERROR = 1.0
"""Nats: the standard error given to a mass by Laplace's method."""
VALLEY = 1.0
"""Nats: two modes with less between them are one."""


@dataclass(frozen=True)
class Basins:
    """K basins: log masses with standard errors (K,), and N weighted draws of all of them.

    Attributes:
        modes: of each basin its modes, the first the heaviest.
        u: (N, D); place: (N,), the basin of each; weight: (N,), adding up to 1 in every basin.
        sampled: (K,), whether the mass is that of importance sampling.
    """

    modes: Sequence[Sequence[Mode]]
    log_mass: np.ndarray
    log_mass_se: np.ndarray
    u: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    sampled: np.ndarray

    def __len__(self) -> int:
        return len(self.modes)

    def of(self, u: np.ndarray) -> np.ndarray:
        """The basin (S,) of positions u (S, D)."""
        return _basin_at(self.modes, u)


def visited(basins: Basins | None, u: np.ndarray) -> np.ndarray | None:
    """The basin (S,) of draws u (S, D) where they visit several; None where they lie in one.

    Basins with less than a twentieth of the draws are taken for the fullest one.
    """
    if basins is None or len(basins) < 2:
        return None
    place = basins.of(u)
    counts = np.bincount(place)
    place = np.where(counts[place] < LEAST_VISITED * len(u), counts.argmax(), place)
    return place if len(np.unique(place)) > 1 else None


def _basin_at(groups: Sequence[Sequence[Mode]], u: np.ndarray) -> np.ndarray:
    every = [mode for group in groups for mode in group]
    basin = np.concatenate([np.full(len(group), k) for k, group in enumerate(groups)])
    return basin[nearest(every, u)]


def nearest(modes: Sequence[Mode], u: np.ndarray) -> np.ndarray:
    """The mode (S,) under whose normal u (S, D) has the highest density."""
    heights = [-0.5 * np.square(mode.distance(u)) - mode.log_volume for mode in modes]
    return np.argmax(heights, axis=0)


def basins_of(potential: Potential, modes: Sequence[Mode], u: np.ndarray, seed: int = 0) -> Basins:
    """The basins of modes, those first that can do most harm to the moments of draws u (S, D)."""
    center, spread = u.mean(0), np.maximum(u.std(0), 1e-300)
    harm = [m.log_mass + math.log1p(np.square((m.center - center) / spread).sum()) for m in modes]
    modes = [modes[i] for i in np.argsort(harm)[::-1][:MOST_MODES]]
    groups = _joined(potential, modes)
    rng = np.random.default_rng(seed)
    count = DRAWS if potential.vectorised else DRAWS_ONE_BY_ONE
    drawn = np.concatenate([_draws(mode, count, rng) for mode in modes])
    log_r = np.logaddexp.reduce([_log_t(mode, drawn) for mode in modes]) - math.log(len(modes))
    log_w = log_density(potential, drawn) - log_r + log_labellings(potential.model)
    place = _basin_at(groups, drawn)
    parts = [_basin(group, drawn, log_w, place == k, len(modes)) for k, group in enumerate(groups)]
    weight = np.zeros(len(drawn))
    for k, part in enumerate(parts):
        weight[place == k] = part[3]
    log_mass, error, sampled = (np.array([part[i] for part in parts]) for i in range(3))
    return Basins(groups, log_mass, error, drawn, place, weight, sampled)


def _basin(
    group: Sequence[Mode], drawn: np.ndarray, log_w: np.ndarray, inside: np.ndarray, strata: int
) -> tuple[float, float, bool, np.ndarray]:
    """Log mass, its standard error, whether it was sampled, and the weights of the draws inside.

    As many were drawn from each of the `strata` modes, one after the other.
    """
    u = drawn[inside]
    found = psis(log_w[inside])
    if found is not None and _reliable(found, len(u)):
        top = float(log_w[inside].max())
        w = np.exp(np.where(inside, log_w - top, -np.inf)).reshape(strata, -1)
        mass = w.mean()
        error = math.sqrt(w.var(1, ddof=1).sum() / w.shape[1]) / strata
        return top + math.log(mass), error / mass, True, found.weights
    height = -0.5 * np.square(group[0].distance(u)) - _log_t(group[0], u)
    weight = np.exp(height - height.max(initial=-np.inf))
    total = float(np.logaddexp.reduce([mode.log_mass for mode in group]))
    return total, LAPLACE_ERROR, False, weight / weight.sum()


def _reliable(found: Importance, size: int) -> bool:
    """Usable by k-hat, or so even that no tail matters: half of the draws are effective."""
    return found.ess >= LEAST_ESS and (found.usable or found.ess >= 0.5 * size)


def _draws(mode: Mode, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws (count, D) of the mode's Student t."""
    noise = rng.standard_normal((count, len(mode.center)))
    noise *= np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (count, 1)))
    return mode.center + (noise * mode.factor if mode.factor.ndim == 1 else noise @ mode.factor.T)


def _log_t(mode: Mode, u: np.ndarray) -> np.ndarray:
    """The log density (S,) of the mode's Student t at u (S, D)."""
    size = len(mode.center)
    constant = math.lgamma((FREEDOM + size) / 2) - math.lgamma(FREEDOM / 2)
    constant -= 0.5 * size * math.log(FREEDOM * math.pi) + mode.log_volume
    return constant - (FREEDOM + size) / 2 * np.log1p(np.square(mode.distance(u)) / FREEDOM)


def _joined(potential: Potential, modes: Sequence[Mode]) -> list[list[Mode]]:
    """The modes in groups without a valley between them, the heaviest first in each."""
    groups: list[list[Mode]] = []
    for mode in modes:
        apart = partial(_valley_between, potential, mode)
        rest, linked = [], [mode]
        for group in groups:
            if all(apart(other) for other in group):
                rest.append(group)
            else:
                linked += group
        groups = [*rest, sorted(linked, key=lambda m: -m.log_mass)]
    return groups


def _valley_between(potential: Potential, one: Mode, other: Mode) -> bool:
    """Whether log p(x, u) dips by more than VALLEY below both on the straight path."""
    steps = np.linspace(0, 1, 41)[:, None]
    value = log_density(potential, one.center + steps * (other.center - one.center))
    return bool(value.min() < min(value[0], value[-1]) - VALLEY)


def search(fit: Fit, seed: int = 0, starts: int = STARTS["full"]) -> Basins | None:
    """The basins of a fit's density, searched around its draws from so many starts; None where that cannot
    be done.

    `len(...)` is 0 where no mode was found.
    """
    if fit.model is None or fit.data is None:
        return None
    tree = fit.posterior(200, seed)
    if "unconstrained" not in tree.children:
        return None
    position = tree["unconstrained"]["position"].values
    return search_around(
        fit.potential, position.reshape(-1, position.shape[-1]), seed, starts=starts
    )


def search_around(
    potential: Potential,
    u: np.ndarray,
    seed: int = 0,
    known: Basins | None = None,
    starts: int = STARTS["full"],
) -> Basins:
    """The basins of a density, searched around draws u (S, D), besides those that are known."""
    found = [] if known is None else [mode for group in known.modes for mode in group]
    modes = find_modes(potential, u, seed, found, starts)
    if not modes:
        nothing = np.zeros(0)
        return Basins([], nothing, nothing, np.zeros((0, u.shape[1])), nothing, nothing, nothing)
    return basins_of(potential, modes, u, seed)
