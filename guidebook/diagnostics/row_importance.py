"""Importance weights of every row, and how far the guide's own moments are from the weighted ones."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.importance import psis
from guidebook.diagnostics.latent_rows import (
    RowPosterior,
    draw_rows,
    latents_of,
    terms_of_draws,
)
from guidebook.diagnostics.verdict import MEAN_LIMIT, SD_HIGH
from guidebook.inference.capture import local_parameters, precision, random_state, recording
from guidebook.inference.fit import Fit

DRAWS = 2000
MOST_LATENTS = 8_000_000
"""Latent numbers drawn at a time: rows are looked at in blocks."""
WORK = 1_000_000_000
"""Rows x draws x pixels: a minute or less of decoding a small image on two cores."""


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
        for rows in x.split(max(1, MOST_LATENTS // (draws * width))):
            z, log_q = draw_rows(fit, rows, draws)
            terms = terms_of_draws(fit, rows, z, latents)
            log_w = (terms.prior + terms.likelihood - log_q).double().cpu().numpy()
            parts.append(_block(log_w, z.double().cpu().numpy(), _moments(fit, rows, z)))
    errors = RowErrors(*(np.concatenate([p.pop(k) for p in parts]) for k in _ERRORS))
    return Weighed(
        **{k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, errors=errors, draws=draws
    )


_ERRORS = ("good", "usable", "shift", "log_ratio")


def _moments(fit: Fit, x: Tensor, z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of q (n, D): in closed form, else of its draws."""
    mean, sd = z.mean(0), z.std(0)
    if isinstance(fit.guide, RowPosterior):
        q = fit.guide.posterior(x)
        with contextlib.suppress(NotImplementedError):  # a flow
            mean, sd = q.mean.reshape(mean.shape), q.variance.sqrt().reshape(sd.shape)
    return mean.double().cpu().numpy(), sd.double().cpu().numpy()


def _block(
    log_w: np.ndarray, z: np.ndarray, moments: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    khat, khat_se, ess, errors = _per_row(log_w, z)
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
    log_w: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, RowErrors]:
    _, n, d = z.shape
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
        sd = np.maximum(np.sqrt(found.weights @ np.square(z[:, i] - mean)), 1e-300)
        off = (z[:, i].mean(0) - mean) / sd
        ratio[i] = np.log(np.maximum(z[:, i].std(0), 1e-300) / sd)
        shift[i] = np.abs(off).max()
        usable[i] = found.usable
        within = (np.abs(off) < MEAN_LIMIT) & (np.abs(ratio[i]) < math.log(SD_HIGH))
        good[i] = usable[i] and bool(within.all())
    return khat, khat_se, ess, RowErrors(good, usable, shift, ratio)
