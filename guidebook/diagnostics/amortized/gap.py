r"""Where an amortised bound loses its nats: the gap ledger, row by row and in total.

With Q the family of q(z | x), q*_i the best of it for row i alone, and q_i what the encoder gives,

.. math:: \log p(x_i) = \mathrm{ELBO}_i + \underbrace{\mathrm{KL}(q^*_i \| p(z | x_i))}_{
    \text{approximation}} + \underbrace{\mathrm{ELBO}[q^*_i] - \mathrm{ELBO}[q_i]}_{\text{amortisation}}

The approximation gap asks for a richer family, the amortisation gap for a larger or better trained
encoder. log p(x_i) is half way between annealed importance sampling forwards and backwards
(`guidebook.diagnostics.amortized.annealing`), with the importance-weighted bound beside it.

Sources: Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders"; Burda,
Grosse and Salakhutdinov 2016, "Importance weighted autoencoders".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.amortized.annealing import (
    Sandwich,
    annealed_evidence,
    evidence_from_prior,
)
from guidebook.diagnostics.amortized.best_normal import DIAGONAL, best_normal, family_of
from guidebook.diagnostics.amortized.rows import (
    Latent,
    draw_rows,
    is_amortized,
    latents_of,
    observed,
    posterior_of,
    rows_of,
    some_rows,
    terms_of_draws,
)
from guidebook.diagnostics.evidence.testimony import ERRORS
from guidebook.errors import GuideError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.programs.graphs.recorded import recording
from guidebook.scope import local_parameters, precision, random_state

ROWS_OF_A_UNIT = 20_000
"""Latents drawn at a time by the importance-weighted bound, whatever is decoded at a time."""
EVALUATED = 1000
"""Draws of each row for the two ELBOs of the ledger: the same noise for both."""


class Total(NamedTuple):
    """Nats a row, on average over the rows used, with the Monte Carlo standard error."""

    value: float
    se: float


@dataclass(frozen=True)
class GapLedger:
    """Per row (n,), in nats, with Monte Carlo standard errors `..._se`.

    `rows`: which rows of the data; `elbo`, of the encoder; `best_elbo`, of the best q of the same
    family (NaN where the family is neither a diagonal nor a full normal); `amortisation`, their
    difference on the same random numbers; `bound`, the importance-weighted one of `draws` draws;
    `sandwich`, the log evidence from below and above. `family` says what q* was searched in.
    `known` (n,): rows whose log evidence is that of mixtures adapted to chains from the prior
    (`annealing.evidence_from_prior`), which see every explanation that the prior reaches; both sides of the
    sandwich are then this estimate. `unseen`: of other rows, that the sandwich starts from the guide's normal
    and does not see what the guide leaves out: the share of rows of which chains from the prior found
    something. `where`: which rows.
    """

    rows: np.ndarray
    family: str
    draws: int
    elbo: np.ndarray
    elbo_se: np.ndarray
    best_elbo: np.ndarray
    best_elbo_se: np.ndarray
    amortisation: np.ndarray
    amortisation_se: np.ndarray
    bound: np.ndarray
    bound_se: np.ndarray
    sandwich: Sandwich
    unseen: float = 0.0
    where: str = "training rows"
    known: np.ndarray | None = None

    @property
    def evidence(self) -> np.ndarray:
        """log p(x_i): the middle of the sandwich."""
        return self.sandwich.middle

    @property
    def approximation(self) -> np.ndarray:
        """evidence - best_elbo."""
        return self.evidence - self.best_elbo

    def terms(self) -> dict[str, Total]:
        """Every term a row, on average over the rows: evidence = elbo + approximation + amortisation.

        Where the best q is not known the two gaps are NaN, and `gap`, their sum, is still there.
        """
        s = self.sandwich
        lower, upper = _mean(s.lower, s.lower_se), _mean(s.upper, s.upper_se)
        evidence = Total(
            0.5 * (lower.value + upper.value),
            0.5 * math.sqrt(lower.se**2 + upper.se**2 + (upper.value - lower.value) ** 2),
        )
        elbo, best = _mean(self.elbo, self.elbo_se), _mean(self.best_elbo, self.best_elbo_se)
        return {
            "evidence": evidence,
            "lower": lower,
            "upper": upper,
            "bound": _mean(self.bound, self.bound_se),
            "elbo": elbo,
            "best_elbo": best,
            "gap": Total(evidence.value - elbo.value, math.hypot(evidence.se, elbo.se)),
            "approximation": Total(evidence.value - best.value, math.hypot(evidence.se, best.se)),
            "amortisation": _mean(self.amortisation, self.amortisation_se),
        }

    def sentence(self) -> str:
        """The ledger in words, and what it cannot see."""
        return f"{self._sum()} {self.blind()}".strip()

    def blind(self) -> str:
        """What both estimates of the evidence miss; "" where nothing is known to be missed."""
        if not self.unseen:
            return ""
        return (
            f"In {self.unseen:.0%} of the rows looked at from the prior the guide leaves out an "
            "explanation: these estimates start from the guide and do not see it, so the log evidence "
            "is higher and the approximation gap larger than they say."
        )

    def _how(self) -> str:
        """Where the log evidence comes from."""
        known = 0.0 if self.known is None else self.known.mean()
        mixtures = f"by mixtures adapted to chains from the prior for {known:.0%} of the rows"
        if known == 1.0:
            return mixtures
        t = self.terms()
        both = f"estimate from below {t['lower'].value:.4g}, from above {t['upper'].value:.4g}"
        return f"{both}; {mixtures}" if known else both

    def _sum(self) -> str:
        t = self.terms()
        told = (
            f"Mean of {len(self.rows)} {self.where}, in nats: log evidence {t['evidence'].value:.4g} +- "
            f"{t['evidence'].se:.2g} ({self._how()}) = ELBO {t['elbo'].value:.4g} "
        )
        if not self.family:
            return told + (
                f"+ gap {t['gap'].value:.3g} +- {t['gap'].se:.1g} (its parts need the best q of each "
                "row, which is unknown for this family)."
            )
        family, amortised = t["approximation"], t["amortisation"]
        return told + (
            f"+ approximation gap {family.value:.3g} +- {family.se:.1g} ({self.family}) + "
            f"amortisation gap {amortised.value:.3g} +- {amortised.se:.1g}."
        )


def gap_ledger(
    fit: Fit,
    *,
    rows: int = 100,
    steps: int = 100,
    chains: int = 16,
    draws: int = 5000,
    seed: int = 0,
    data: Any = None,
    exact: Tensor | None = None,
) -> GapLedger:
    """log p(x) = ELBO + approximation gap + amortisation gap, row by row, of the fit's data or `data`.

    Arguments: `rows`, at most so many; `data`, held-out or simulated rows; `steps` of each round of
    the search for the best q; `chains` of annealed importance sampling; `draws` of the
    importance-weighted bound; `exact` (len(data), D), an exact draw of each row's
    posterior where the data were simulated: the upper bound is one then.

    Raises GuideError for a guide without a density of its own for each row, or a deterministic one;
    DataError for latents that are not continuous.
    """
    if not is_amortized(fit):
        raise GuideError(
            "gap_ledger needs a guide with a q(z | x) for each row, such as AmortizedNormal, and its "
            f"data; this guide is {type(fit.guide).__name__}."
        )
    source = observed(fit) if data is None else data
    index = some_rows(len(source), rows, seed)
    x = rows_of(fit, source, index)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad():
        own, best, (mean_best, tril_best), family = _own_and_best(fit, x, steps)
    bound, bound_se = importance_bound(fit, x, draws=draws, seed=seed + 1)
    value, value_se, known = evidence_from_prior(fit, x, seed + 3)
    known &= exact is None  # bounds are kept
    # importance sampling by q, where it sees what the mixtures see, may know it better
    finer = (bound_se < value_se) & (np.abs(bound - value) <= ERRORS * np.hypot(bound_se, value_se))
    value, value_se = np.where(finer, bound, value), np.where(finer, bound_se, value_se)
    if known.all():
        sandwich = Sandwich(value, value_se, value, value_se, np.full(len(x), math.nan), False)
    else:
        picked = None if exact is None else exact[torch.from_numpy(index)]
        sandwich = annealed_evidence(
            fit, x, mean_best, tril_best, exact=picked, chains=chains, seed=seed + 2
        )
        sandwich = _where_known(sandwich, value, value_se, known)
    elbo, elbo_se = _moments(own)
    best_elbo, best_se = _moments(best)
    lost, lost_se = _moments(best - own)
    return GapLedger(
        index, family, draws, elbo, elbo_se, best_elbo, best_se, lost, lost_se, bound, bound_se,
        sandwich, known=known,
        where="training rows" if data is None else "rows kept apart",
    )  # fmt: skip


def _where_known(
    sandwich: Sandwich, value: np.ndarray, value_se: np.ndarray, known: np.ndarray
) -> Sandwich:
    """With another estimate of log p(x_i), and its error, in the place of both of the rows `known`."""
    return replace(
        sandwich,
        lower=np.where(known, value, sandwich.lower),
        upper=np.where(known, value, sandwich.upper),
        lower_se=np.where(known, value_se, sandwich.lower_se),
        upper_se=np.where(known, value_se, sandwich.upper_se),
    )


def _own_and_best(
    fit: Fit, x: Tensor, steps: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], str]:
    """log w under the row's q and under the best of its family, that best q, and the family's name.

    Of a guide that is no normal the best is not sought: NaN, and the normal with its moments.
    """
    with recording():
        latents = latents_of(fit, x)
        mean, tril, family = family_of(fit, x, latents)
    if family:
        found = best_normal(fit, x, mean, tril, family == DIAGONAL, latents, steps)
        own, best = _both_elbos(fit, x, (mean, tril), found, latents)
        return own, best, found, family
    with recording():
        z, log_q = draw_rows(fit, x, EVALUATED)
    own = _log_weights(fit, x, z, log_q, latents)
    return own, torch.full_like(own, math.nan), (mean, tril), family


def importance_bound(
    fit: Fit, x: Tensor, draws: int = 5000, at_once: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""log 1/K sum_k w_ik of each row of x (n, ...), K = `draws`, and its standard error, (n,) each.

    Streaming: `at_once` rows are decoded at a time (None: about 4 million numbers), and only a
    running log-sum-exp is kept, so memory does not grow with `draws`; the random numbers do not
    depend on `at_once`.

    Raises SettingError for fewer than 2 draws or 1 row at once.
    """
    if draws < 2 or (at_once is not None and at_once < 1):
        raise SettingError(f"draws={draws}, at_once={at_once}: give at least 2 draws and 1 row.")
    first = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    second = first.clone()
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording():
        latents, q = latents_of(fit, x), posterior_of(fit, x)
        unit = max(1, ROWS_OF_A_UNIT // len(x))
        done = 0
        while done < draws:
            count = min(unit, draws - done)
            if q is None:
                z, log_q = draw_rows(fit, x, count)
            else:
                z = q.sample(torch.Size((count,)))
                log_q = q.log_prob(z)
                z = z.reshape(count, len(x), -1)
            log_w = _log_weights(fit, x, z, log_q, latents, at_once)
            first = torch.logaddexp(first, log_w.logsumexp(0))
            second = torch.logaddexp(second, (2 * log_w).logsumexp(0))
            done += count
    spread = (second - 2 * first + math.log(draws)).exp() - 1  # var(w) / mean(w)^2
    error = (spread.clamp_min(0) / draws).sqrt()
    return (first - math.log(draws)).cpu().numpy(), error.cpu().numpy()


def _both_elbos(
    fit: Fit,
    x: Tensor,
    own: tuple[Tensor, Tensor],
    best: tuple[Tensor, Tensor],
    latents: tuple[Latent, ...],
) -> tuple[Tensor, Tensor]:
    """log w (EVALUATED, n) of the two normals, on the same antithetic noise, fresh."""
    half = torch.randn(EVALUATED // 2, *own[0].shape, dtype=x.dtype, device=x.device)
    noise = torch.stack([half, -half], 1).reshape(EVALUATED, *own[0].shape)
    found = []
    for mean, tril in (own, best):
        z = mean + torch.einsum("nij,knj->kni", tril, noise)
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * noise.shape[-1] * math.log(2 * math.pi) + log_det
        log_q = -0.5 * noise.square().sum(-1) - constant
        found.append(_log_weights(fit, x, z, log_q, latents))
    return found[0], found[1]


def _log_weights(
    fit: Fit,
    x: Tensor,
    z: Tensor,
    log_q: Tensor,
    latents: tuple[Latent, ...],
    at_once: int | None = None,
) -> Tensor:
    with recording():
        terms = terms_of_draws(fit, x, z, latents, at_once)
    return (terms.prior + terms.likelihood - log_q).double()


def _moments(log_w: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean over draws and its standard error; pairs of antithetic draws are one."""
    pairs = log_w.reshape(len(log_w) // 2, 2, -1).mean(1)
    error = pairs.std(0) / math.sqrt(len(pairs))
    return log_w.mean(0).cpu().numpy(), error.cpu().numpy()


def _mean(values: np.ndarray, errors: np.ndarray) -> Total:
    n = len(values)
    return Total(float(values.mean()), float(np.sqrt(np.square(errors).sum()) / n))
