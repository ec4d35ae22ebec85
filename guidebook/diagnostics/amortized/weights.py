"""Importance weights of every row, and how far the guide's own moments are from the weighted ones."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from guidebook.diagnostics.amortized.rows import draw_rows, latents_of, reads, terms_of_draws
from guidebook.diagnostics.witnesses.importance import psis
from guidebook.diagnostics.witnesses.testimony import MEAN_LIMIT, SD_HIGH
from guidebook.errors import ModelError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.protocols.rows import RowPosterior
from guidebook.programs.graph import recording
from guidebook.programs.scope import local_parameters, precision, random_state

DRAWS = 2000
MOST_LATENTS = 8_000_000
"""Latent numbers drawn at a time: rows are looked at in blocks."""
WORK = 1_000_000_000
"""Rows x draws x pixels: a minute or less of decoding a small image on two cores."""
EVIDENCE_LIMIT, EVIDENCE_NOISE = 0.05, 0.025
"""Nats by which the bound of a row may miss the exact evidence, and the most that its error adds
(twice): a state of posterior probability 0.05 that the guide never visits costs 0.05 nats."""


@dataclass(frozen=True)
class RowErrors:
    """Per row: is it within bounds raw, can its weights be used, and by how much the worst is off."""

    good: np.ndarray
    usable: np.ndarray
    shift: np.ndarray
    log_ratio: np.ndarray


@dataclass(frozen=True)
class Weighed:
    """Per row (n,): moments of log w over the draws, k-hat with its error, and the guide's moments."""

    elbo: np.ndarray
    bound: np.ndarray
    variance: np.ndarray
    relative: np.ndarray
    ess: np.ndarray
    khat: np.ndarray
    khat_se: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    errors: RowErrors
    draws: int
    discrete: bool = False
    enumerated: bool = False


def weigh(fit: Fit, x: Tensor, seed: int, draws: int | None = None) -> Weighed:
    """Weighs draws of each row of x (n, ...), by blocks of rows.

    `draws` of each (None: 2,000, fewer where rows x draws x pixels exceed a thousand million).
    """
    draws = draws or int(max(200, min(DRAWS, WORK // max(1, x.numel()))))
    parts = []
    with (
        local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        latents = latents_of(fit, x)
        width = sum(math.prod(one.shape) for one in latents)
        whole = _discrete(fit, x)
        enumerated = bool(whole.any())
        for rows in x.split(max(1, MOST_LATENTS // (draws * width))):
            z, log_q = draw_rows(fit, rows, draws)
            terms = terms_of_draws(fit, rows, z, latents)
            log_w = (terms.prior + terms.likelihood - log_q).double().cpu().numpy()
            found = _block(log_w, z.double().cpu().numpy(), _moments(fit, rows, z), whole)
            evidence = _evidence(fit, rows) if whole.any() else None
            if evidence is not None:
                _compare_evidence(found, evidence, draws)
            enumerated = enumerated and evidence is not None
            parts.append(found)
    errors = RowErrors(*(np.concatenate([p.pop(k) for p in parts]) for k in _ERRORS))
    return Weighed(
        **{k: np.concatenate([p[k] for p in parts]) for k in parts[0]},
        errors=errors,
        draws=draws,
        discrete=bool(whole.any()),
        enumerated=enumerated,
    )


_ERRORS = ("good", "usable", "shift", "log_ratio")


def _discrete(fit: Fit, x: Tensor) -> np.ndarray:
    """Which of the D latent numbers are discrete."""
    trace = poutine.trace(fit.guide).get_trace(**{reads(fit): x[:1]})
    found = [
        np.full(math.prod(one.shape), trace.nodes[one.name]["fn"].support.is_discrete)
        for one in latents_of(fit, x)
    ]
    return np.concatenate(found)


def _evidence(fit: Fit, x: Tensor) -> np.ndarray | None:
    """log p(x_i) by enumeration (n,), where the model offers it and its states are few enough."""
    known = getattr(fit.model, "log_evidence", None)
    if not callable(known):
        return None
    try:
        evidence: np.ndarray = known(x).double().cpu().numpy()
    except ModelError:  # too many states
        return None
    return evidence


def _compare_evidence(found: dict[str, np.ndarray], evidence: np.ndarray, draws: int) -> None:
    """A row whose bound misses the evidence has states that no draw visits: no weights mend it."""
    noise = np.minimum(np.sqrt(found["relative"] / draws), EVIDENCE_NOISE)
    agrees = np.abs(found["bound"] - evidence) <= EVIDENCE_LIMIT + 2 * noise
    found["good"] = found["good"] & agrees
    found["usable"] = found["usable"] & agrees


def _moments(fit: Fit, x: Tensor, z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of q (n, D): in closed form, else of its draws."""
    mean, sd = z.mean(0), z.std(0)
    if isinstance(fit.guide, RowPosterior):
        q = fit.guide.posterior(x)
        with contextlib.suppress(NotImplementedError):  # a flow
            mean, sd = q.mean.reshape(mean.shape), q.variance.sqrt().reshape(sd.shape)
    return mean.double().cpu().numpy(), sd.double().cpu().numpy()


def _block(
    log_w: np.ndarray,
    z: np.ndarray,
    moments: tuple[np.ndarray, np.ndarray],
    whole: np.ndarray,
) -> dict[str, np.ndarray]:
    khat, khat_se, ess, errors = _per_row(log_w, z, whole)
    top = log_w.max(0)
    w = np.exp(log_w - top)
    return {
        "elbo": log_w.mean(0),
        "bound": top + np.log(w.mean(0)),
        "variance": log_w.var(0),
        "relative": w.var(0) / w.mean(0) ** 2,
        "ess": ess,
        "khat": khat,
        "khat_se": khat_se,
        "mean": moments[0],
        "sd": moments[1],
        **{name: getattr(errors, name) for name in _ERRORS},
    }


def codes(fit: Fit, x: Tensor) -> Weighed:
    """A deterministic guide: the codes, and nothing that needs a posterior."""
    with local_parameters(), precision(x.dtype), torch.no_grad(), recording():
        z, _ = draw_rows(fit, x, 1)
    code = z[0].double().cpu().numpy()
    unknown, no = np.full(len(x), math.nan), np.zeros(len(x), bool)
    errors = RowErrors(no, no, unknown, np.full_like(code, math.nan))
    return Weighed(
        elbo=unknown,
        bound=unknown,
        variance=unknown,
        relative=unknown,
        ess=unknown,
        khat=unknown,
        khat_se=unknown,
        mean=code,
        sd=np.zeros_like(code),
        errors=errors,
        draws=1,
    )


def _per_row(
    log_w: np.ndarray, z: np.ndarray, whole: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, RowErrors]:
    S, n, d = z.shape
    # of a category that is nearly certain the draws tell no standard deviation: see Marginals.least_sd
    least = np.where(whole, 20 / math.sqrt(S), 1e-300)
    khat, khat_se, ess = np.full(n, math.inf), np.full(n, math.nan), np.zeros(n)
    shift, ratio = np.zeros(n), np.zeros((n, d))
    good, usable = np.zeros(n, bool), np.zeros(n, bool)
    for i in range(n):
        found = psis(log_w[:, i])
        if found is None:
            shift[i] = math.inf
            continue
        khat[i], khat_se[i], ess[i] = found.khat, found.khat_se, found.ess
        mean = found.weights @ z[:, i]
        sd = np.maximum(np.sqrt(found.weights @ np.square(z[:, i] - mean)), least)
        off = (z[:, i].mean(0) - mean) / sd
        ratio[i] = np.log(np.maximum(z[:, i].std(0), least) / sd)
        shift[i] = np.abs(off).max()
        usable[i] = found.usable
        within = (np.abs(off) < MEAN_LIMIT) & (np.abs(ratio[i]) < math.log(SD_HIGH))
        good[i] = usable[i] and bool(within.all())
    return khat, khat_se, ess, RowErrors(good, usable, shift, ratio)
