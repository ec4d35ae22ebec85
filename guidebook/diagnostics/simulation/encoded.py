r"""Rows simulated from a trained model, and the ranks of their latents among the draws of its encoder.

    z_i ~ p(z),  x_i ~ p(x | z_i),  draws of q(z | x_i):    no fit is needed, a truth is one row

The random point to which distances are measured is a guess of z from x: the linear regression of z on x in
the other half of the rows. A point that knows the data is what makes equal coverage of all balls around it
sufficient, and shows an encoder that ignores them.

Source: Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023, "Sampling-based accuracy testing of posterior
estimators for general inference", theorem 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from sklearn.linear_model import RidgeCV
from torch import Tensor

from guidebook.diagnostics.amortized.rows import (
    Latent,
    draw_rows,
    has_points,
    latents_of,
    names_of,
    observed,
    reads,
    row_terms,
    rows_of,
    terms_of_draws,
)
from guidebook.diagnostics.simulation.ranking import JOINT, ranks
from guidebook.diagnostics.simulation.simulator import refuse_flat
from guidebook.errors import GuideError, ModelError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import Steps
from guidebook.inference.fits.status import Status
from guidebook.programs.data import arguments, check, takes
from guidebook.programs.graphs.recorded import recording
from guidebook.scope import local_parameters, precision, random_state

DRAWS = 400
LATENTS_AT_ONCE = 4_000_000
PENALTIES = np.logspace(-3, 3, 7)


def rows_ranked(
    model: Any, guide: Any, data: Mapping[str, Any], count: int, seed: int, bar: Steps
) -> tuple[list[str], np.ndarray, int]:
    """Names of the quantities (Q), ranks (R, Q) of the rows done before Ctrl-C, and L.

    Raises:
        ModelError: the model cannot simulate rows, or has a flat prior. GuideError: a guide of points.
    """
    data = arguments(model, data)
    check(data)
    fit = Fit(model, guide, data, np.empty(0), Status.CONVERGED, seed, 0.0, "")
    like = rows_of(fit, observed(fit), np.zeros(1, int))
    rng = np.random.default_rng(seed)
    with (
        local_parameters(), precision(like.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        if has_points(fit, like):
            raise GuideError(
                "The guide gives a point for each row, so there are no draws to rank among. Fit a guide "
                "with a spread, such as gb.guides.AmortizedNormal."
            )
        latents = latents_of(fit, like)
        z, x = _simulated(model, reads(fit), like, latents, count)
        points, scale = guesses(z, x), z.std(0).clamp(min=1e-12)
        size = max(1, LATENTS_AT_ONCE // (DRAWS * z.shape[1]))
        found: list[np.ndarray] = []
        for first in range(0, count, size):
            if bar.stopped:
                break
            part = slice(first, first + size)
            found.append(_ranks(fit, latents, x[part], z[part], (points[part], scale), rng))
            bar.advance(len(found[-1]))
    if not found:
        raise KeyboardInterrupt
    return [*names_of(latents), *JOINT], np.concatenate(found), DRAWS


def _simulated(
    model: Callable[..., Any], argument: str, like: Tensor, latents: Sequence[Latent], count: int
) -> tuple[Tensor, Tensor]:
    """z (R, D) and x (R, ...) of fresh rows."""
    if not takes(model, "size"):
        raise ModelError(
            f"The model has no argument size, so it cannot be told how many rows to simulate. Write it "
            f"with {argument}=None and size=None."
        )
    trace = poutine.trace(model).get_trace(size=count)
    names = {one.name for one in latents}
    for name in names:
        refuse_flat(name, trace.nodes[name])
    z = torch.cat(
        [trace.nodes[one.name]["value"].reshape(count, -1).to(like) for one in latents], -1
    )
    other = [
        node["value"] for name, node in trace.nodes.items()
        if node["type"] == "sample" and name not in names and isinstance(node["value"], Tensor)
        and node["value"].numel() == count * like[0].numel()
    ]  # fmt: skip
    if not other:
        raise ModelError(
            f"With '{argument}' left out the model simulates no rows of the shape {tuple(like.shape[1:])}. "
            f"Write it with {argument}=None and obs={argument}."
        )
    return z, other[-1].reshape(count, *like.shape[1:]).to(like)


def guesses(z: Tensor, x: Tensor) -> Tensor:
    """Of every row a guess (R, D) of z from x alone: regressions on the other half of the rows."""
    columns, target = x.reshape(len(x), -1).double().cpu().numpy(), z.double().cpu().numpy()
    halves = np.arange(len(x)) % 2 == 0
    found = np.empty_like(target)
    for own in (halves, ~halves):
        found[own] = RidgeCV(PENALTIES).fit(columns[~own], target[~own]).predict(columns[own])
    return torch.as_tensor(found).to(z)


def _ranks(
    fit: Fit, latents: Sequence[Latent], x: Tensor, z: Tensor, to: tuple[Tensor, Tensor],
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Ranks (n, Q) of rows."""
    points, scale = to
    draws, _ = draw_rows(fit, x, DRAWS)  # (L, n, D)
    terms = terms_of_draws(fit, x, draws, latents)
    log_joint = terms.prior + terms.likelihood
    own = row_terms(fit, x, z, latents)
    of_truth = own.prior + own.likelihood
    distance = ((draws - points) / scale).square().sum(-1)
    true_distance = ((z - points) / scale).square().sum(-1)
    every = torch.cat([draws, log_joint[..., None], distance[..., None]], -1)
    truth = torch.cat([z, of_truth[:, None], true_distance[:, None]], -1)
    below, values = every.double().cpu().numpy(), truth.double().cpu().numpy()
    return np.array([ranks(values[i], below[:, i], rng) for i in range(len(x))])
