r"""Log evidence of every row from below and from above: annealed importance sampling both ways.

With q_0 a normal start of known density and T temperatures 0 = t_0 < ... < t_T = 1,

.. math:: f_t(z) = q_0(z)^{1-t}\, p(x, z)^t, \qquad
    \log w = \sum_k (t_k - t_{k-1}) (\log p(x, z_k) - \log q_0(z_k))

with Hamiltonian transitions that leave f_{t_k} invariant between the terms. Forwards, from q_0,
E[w] = p(x): log mean w is a lower bound on average. Backwards, from draws of the posterior,
E[1 / w] = 1 / p(x): -log mean (1 / w) is an upper bound on average. Each misses by more than b nats
on its wrong side with probability at most exp(-b).

**The upper bound needs exact draws of the posterior.** They are at hand for data simulated from the
model (the z that made x). For real data the backward chains start from the forward chains' ends,
resampled by their weights and moved on: a mode that no forward chain found is then missing from
both sides, and the distance of the two says how well the chains mix, not that nothing was missed.

Step sizes are tuned in a run of its own whose chains are thrown away, so that the estimates stay
unbiased.

Sources: Neal (2001), Annealed importance sampling; Grosse, Ghahramani & Adams (2015), Sandwiching
the marginal likelihood using bidirectional Monte Carlo; Wu, Burda, Salakhutdinov & Grosse (2017), On
the quantitative analysis of decoder-based generative models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.amortized.density import recorded
from guidebook.diagnostics.amortized.rows import (
    Latent,
    draw_rows,
    latents_of,
    prior_draws,
    row_terms,
    terms_of_draws,
)
from guidebook.diagnostics.numerics.population import Weighted, refined
from guidebook.diagnostics.numerics.tempered import (
    Chains,
    Densities,
    log_mean,
    resampled,
    schedule_of,
    tuned,
)
from guidebook.errors import SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.programs.graphs.recorded import recording
from guidebook.programs.owned import parameters_of
from guidebook.scope import local_parameters, precision, random_state

PRIOR_DRAWS = 1000
OWN_DRAWS, LEAST_REFINED, REFINING = 400, 500, 1e10
"""Draws of q for its normal; fewest draws of a row from its mixture; numbers that all of them go through, ten
seconds of a core."""
REFINED, FEWER = 4_000, 1_000
"""Draws of a row that is looked at closely; of one whose evidence alone is asked, or of many."""
CHAINS_BEFORE, TEMPERATURES = 32, 40
PILOT_CHAINS, SETTLE = 4, 10
"""Chains of the run that tunes the steps; moves of the backward chains at t = 1 before they start."""


@dataclass(frozen=True)
class Sandwich:
    """Per row (n,), in nats: the two estimates of log p(x) and their standard errors.

    `exact_start`: whether the backward chains started from exact draws, so that `upper` is a bound.
    `acceptance`: the mean over chains and temperatures, per row.
    """

    lower: np.ndarray
    lower_se: np.ndarray
    upper: np.ndarray
    upper_se: np.ndarray
    acceptance: np.ndarray
    exact_start: bool

    @property
    def middle(self) -> np.ndarray:
        """Half way between: the estimate of log p(x)."""
        return 0.5 * (self.lower + self.upper)

    @property
    def error(self) -> np.ndarray:
        """Half the distance of the two, and their standard errors, added in squares."""
        half = 0.5 * (self.upper - self.lower)
        return np.sqrt(half**2 + 0.25 * (self.lower_se**2 + self.upper_se**2))


def annealed_evidence(
    fit: Fit,
    x: Tensor,
    mean: Tensor,
    scale_tril: Tensor,
    *,
    exact: Tensor | None = None,
    temperatures: int = 40,
    chains: int = 16,
    seed: int = 0,
) -> Sandwich:
    """log p(x_i) of rows x (n, ...) from below and above, all rows and chains at once.

    Arguments: `mean` (n, D) and `scale_tril` (n, D, D), the normal q_0 of each row: the guide's own
    or a wider one; zero and the identity for a standard normal prior. `exact` (n, D), an exact draw
    of each row's posterior, for data simulated from the model. Latents are continuous and on the
    whole line.

    Raises SettingError for fewer than 2 temperatures or chains.
    """
    if temperatures < 2 or chains < 2:
        raise SettingError(
            f"temperatures={temperatures}, chains={chains}: give at least 2 of each."
        )
    schedule = schedule_of(temperatures)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording():
        sites = latents_of(fit, x)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad():
        n, D = mean.shape
        pilot = _densities(fit, x, mean, scale_tril, sites, min(PILOT_CHAINS, chains))
        steps = tuned(pilot, n, D, min(PILOT_CHAINS, chains), schedule, x)
        f = _densities(fit, x, mean, scale_tril, sites, chains)
        run = Chains(f, steps, n, chains)
        white = torch.randn(chains * n, D, dtype=x.dtype, device=x.device)
        log_w, white, accepted = run.forward(white, schedule)
        if exact is None:
            white = resampled(white, log_w)
        else:
            centred = (exact.to(x) - mean).unsqueeze(-1)
            start = torch.linalg.solve_triangular(scale_tril, centred, upper=False).squeeze(-1)
            white = start.repeat(chains, 1)
        for _ in range(SETTLE):
            white, _, _ = run.move(white, schedule[-1], len(schedule) - 1)
        back = run.backward(white, schedule)
        lower, lower_se = log_mean(log_w)
        upper, upper_se = log_mean(-back)
    return Sandwich(lower, lower_se, -upper, upper_se, accepted, exact is not None)


def annealed_from_prior(
    fit: Fit,
    x: Tensor,
    latents: Sequence[Latent],
    *,
    chains: int,
    temperatures: int,
    seed: int,
    draws: int = 0,
) -> Weighted:
    """Weighted draws of every row's posterior from chains that begin in the prior.

    Ends z (chains, n, D) and log weights (chains, n) of the forward run from the normal with the
    moments of the prior. They reach every explanation of a row that the prior reaches, in proportion.
    With `draws` mixtures that begin at the ends are adapted to each row's posterior
    (`numerics.population`); of rows whose weights are then even these draws stand in place of the ends.
    """
    schedule, n = schedule_of(temperatures), len(x)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad():
        with recording():
            prior = prior_draws(fit, PRIOR_DRAWS, latents)
        mean = prior.mean(0).expand(n, -1)
        tril = torch.diag(prior.std(0)).expand(n, -1, -1)
        D, few = mean.shape[1], min(PILOT_CHAINS, chains)
        pilot = _densities(fit, x, mean, tril, latents, few)
        steps = tuned(pilot, n, D, few, schedule, x)
        run = Chains(_densities(fit, x, mean, tril, latents, chains), steps, n, chains)
        white = torch.randn(chains * n, D, dtype=x.dtype, device=x.device)
        warm: list[Tensor] = []
        log_w, white, _ = run.forward(white, schedule, warm)

        def place(v: Tensor) -> Tensor:
            return mean + torch.einsum("nij,cnj->cni", tril, v.reshape(chains, n, D))

        ends = place(white)
        if not draws:
            nothing = torch.full_like(mean, math.nan)
            return Weighted(ends, log_w, np.zeros(n, bool), nothing, nothing)
        tops = place(run.climb(warm[0]))
        with recording():
            return _refined(fit, x, latents, ends, tops, log_w, draws)


def _refined(
    fit: Fit, x: Tensor, latents: Sequence[Latent], ends: Tensor, tops: Tensor, log_w: Tensor,
    draws: int,
) -> Weighted:  # fmt: skip
    def log_density(z: Tensor) -> Tensor:
        terms = terms_of_draws(fit, x, z.to(x.dtype), latents)
        return (terms.prior + terms.likelihood).double()

    z, _ = draw_rows(fit, x, OWN_DRAWS)
    z = z.double()
    own = z.mean(0), _factors(z - z.mean(0))
    return refined(log_density, ends.double(), tops.double(), log_w, own, draws)


def affordable_draws(fit: Fit, x: Tensor, most: int) -> int:
    """Draws of every row of x (n, ...) from adapted mixtures, at most `most`; 0 where they are too few."""
    cost = max(sum(p.numel() for p in parameters_of(fit.model)), x[0].numel(), 1)
    draws = int(min(most, REFINING / (2 * len(x) * cost)))  # half of them while the mixtures adapt
    return draws if draws >= LEAST_REFINED else 0


def evidence_from_prior(
    fit: Fit, x: Tensor, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(x_i) of rows x (n, ...) by mixtures adapted to chains from the prior, its standard error, and of
    which rows it is known so, (n,) each. It sees every explanation of a row that the prior reaches.
    """
    draws = affordable_draws(fit, x, FEWER)
    if not draws:
        nothing = np.full(len(x), math.nan)
        return nothing, nothing, np.zeros(len(x), bool)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording():
        latents = latents_of(fit, x)
    found = annealed_from_prior(
        fit, x, latents, chains=CHAINS_BEFORE, temperatures=TEMPERATURES, seed=seed, draws=draws
    )
    return *log_mean(found.log_w), found.known


def _factors(centred: Tensor) -> Tensor:
    """Lower triangular factors (n, D, D) of the covariances of centred draws (S, n, D)."""
    covariance = torch.einsum("sni,snj->nij", centred, centred) / len(centred)
    floor = 1e-6 * covariance.diagonal(dim1=-2, dim2=-1) + 1e-12
    factor: Tensor = torch.linalg.cholesky(covariance + torch.diag_embed(floor))
    return factor


def _densities(
    fit: Fit, x: Tensor, mean: Tensor, tril: Tensor, latents: Sequence[Latent], chains: int
) -> Densities:
    """In the coordinates v = L^-1 (z - mean), in which q_0 is a standard normal; recorded."""
    n, D = mean.shape
    rows = x.repeat(chains, *(1 for _ in x.shape[1:]))
    constant = -0.5 * D * math.log(2 * math.pi) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def evaluate(white: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            v = white.detach().requires_grad_(True)
            moved = torch.einsum("nij,cnj->cni", tril, v.reshape(chains, n, D))
            terms = row_terms(fit, rows, (mean + moved).reshape(chains * n, D), latents)
            log_p = terms.prior + terms.likelihood
            log_q = (constant - 0.5 * v.reshape(chains, n, D).square().sum(-1)).reshape(-1)
            (gradient,) = torch.autograd.grad(((1 - t) * log_q + t * log_p).sum(), v)
        return log_p.detach(), log_q.detach(), gradient.nan_to_num(0.0)

    example = x.new_zeros(chains * n, D), x.new_zeros(chains * n)
    return recorded(evaluate, *example)
