"""The latents of every row, however many sites they are: draws, densities, and what they decode to.

For one row, z stands for all its latent sites side by side, flat, D numbers; a batch is (n, D). The
model is called with one row of data for each row of z, so it needs no leading dimensions: S draws of
n rows are a data set of S n rows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from guidebook.errors import DataError, GuideError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.protocols.rows import RowGuide, RowPosterior
from guidebook.programs.owned import dtype_of, parameters_of
from guidebook.programs.values.arrays import as_tensor
from guidebook.scope import random_state

NUMBERS_AT_ONCE = 1_000_000
"""Of rows that are decoded together: the tensors of four times as many are beyond what the C library keeps
between calls, and a third of the time goes into fresh memory.
"""
DRAWS_OF_ROWS = "draws of every row"
"""A name that no plate of a user's guide has."""


class Latent(NamedTuple):
    """One latent site of a row: its name, event shape, dtype, and whether it is any real number."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    real: bool


class Terms(NamedTuple):
    """Per row (n,): log p(z), log p(x | z)."""

    prior: Tensor
    likelihood: Tensor


def is_amortized(fit: Fit) -> bool:
    """Whether the fit's guide gives each row a posterior of its own, from the row's data."""
    guide = fit.guide
    if fit.data is None or not isinstance(guide, RowPosterior | RowGuide):
        return False
    return isinstance(guide.observed, str) and guide.observed in fit.data


def reads(fit: Fit) -> str:
    """The keyword of the data that the guide reads."""
    assert isinstance(fit.guide, RowPosterior | RowGuide)
    return fit.guide.observed


def observed(fit: Fit) -> Any:
    """The data that the guide reads, as they were given."""
    assert fit.data is not None
    return fit.data[reads(fit)]


def rows_of(fit: Fit, data: Any, index: np.ndarray | None = None) -> Tensor:
    """Rows of the data as a tensor, in the dtype of the fit's networks and on their device."""
    if index is not None:
        data = (
            data[torch.from_numpy(index)] if isinstance(data, Tensor) else np.asarray(data)[index]
        )
    device = next((p.device for p in parameters_of(fit.model, fit.guide)), torch.device("cpu"))
    dtype = dtype_of(fit.model, fit.guide)
    rows: Tensor = as_tensor(data, dtype, device)
    return rows.to(dtype)  # whole numbers too: encoders read no bytes


def some_rows(count: int, most: int, seed: int) -> np.ndarray:
    """Up to `most` of `count` row numbers, in order, without repetition."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def latents_of(fit: Fit, x: Tensor) -> tuple[Latent, ...]:
    """The latent sites that the guide samples for a row, in its order."""
    trace = poutine.trace(fit.guide).get_trace(**{reads(fit): x[:1]})
    found = []
    for name, node in _sampled(trace):
        if not node["is_observed"]:
            own = node["fn"]
            shape = torch.Size(own.event_shape)
            found.append(Latent(name, shape, node["value"].dtype, is_point(own) or _is_real(own)))
    if not found:
        raise GuideError(
            f"The guide {type(fit.guide).__name__} samples no latent site, so it defines no "
            "posterior: sample every latent site of the model in it."
        )
    return tuple(found)


def split(latents: Sequence[Latent], z: Tensor) -> dict[str, Tensor]:
    """Flat z (..., D) as a dict of site name to value (..., *event shape)."""
    sizes = [math.prod(one.shape) for one in latents]
    parts = z.split(sizes, -1)
    return {
        one.name: part.reshape(*z.shape[:-1], *one.shape).to(one.dtype)
        for one, part in zip(latents, parts, strict=True)
    }


def names_of(latents: Sequence[Latent]) -> list[str]:
    """'z[0]', 'z[1]', ...: the D latent numbers of a row."""
    return [f"{one.name}[{j}]" for one in latents for j in range(math.prod(one.shape))]


def discrete(fit: Fit, x: Tensor, latents: Sequence[Latent]) -> np.ndarray:
    """Which of the D latent numbers are discrete."""
    trace = poutine.trace(fit.guide).get_trace(**{reads(fit): x[:1]})
    found = [
        np.full(math.prod(one.shape), trace.nodes[one.name]["fn"].support.is_discrete)
        for one in latents
    ]
    return np.concatenate(found)


def posterior_of(fit: Fit, x: Tensor) -> Any:
    """q(z | x) as one distribution, batch (n,), event (D,); None where there are several sites."""
    return fit.guide.posterior(x) if isinstance(fit.guide, RowPosterior) else None


def is_point(q: Any) -> bool:
    """Whether a distribution is a single point."""
    while isinstance(q, Independent):
        q = q.base_dist
    return isinstance(q, dist.Delta)


def has_points(fit: Fit, x: Tensor) -> bool:
    """Whether the guide gives a point for a row, and no distribution: a deterministic code."""
    trace = poutine.trace(fit.guide).get_trace(**{reads(fit): x[:1]})
    return any(is_point(node["fn"]) for _, node in _sampled(trace))


def draw_rows(fit: Fit, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Draws z (draws, n, D) of the guide for rows x, and their log q(z | x) (draws, n)."""
    q = posterior_of(fit, x)
    if q is not None:
        z = q.sample(torch.Size((draws,)))
        log_q = q.log_prob(z)
        return z.reshape(draws, len(x), -1).to(x.dtype), log_q
    if draws > 1 and _takes_draws(fit, x[:3]):
        return _traced_draws(fit, x, draws)
    part = max(1, NUMBERS_AT_ONCE // max(1, x.numel()))
    counts = [min(part, draws - done) for done in range(0, draws, part)]
    pieces = [_traced_draws(fit, x, count, repeat=True) for count in counts]
    z, log_q = (torch.cat(some) for some in zip(*pieces, strict=True))
    return z, log_q


def _traced_draws(
    fit: Fit, x: Tensor, draws: int, repeat: bool = False, z: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """`draw_rows` by a trace of the guide: in a plate of draws around that of the rows, or of rows that are
    repeated; log q of the values z of the sites, where they are given.
    """
    guide = fit.guide if z is None else poutine.condition(fit.guide, data=z)
    if repeat:
        x = x.repeat(draws, *(1 for _ in x.shape[1:]))
    with contextlib.nullcontext() if repeat else pyro.plate(DRAWS_OF_ROWS, draws, dim=-2):
        trace = poutine.trace(guide).get_trace(**{reads(fit): x})
    rows = len(x) if repeat else draws * len(x)
    parts, log_q = [], x.new_zeros(rows)
    for name, node in _sampled(trace):
        if not node["is_observed"] or (z is not None and name in z):
            parts.append(node["value"].reshape(rows, -1).to(x.dtype))
            log_q = log_q + node["fn"].log_prob(node["value"]).reshape(rows, -1).sum(1)
    return torch.cat(parts, -1).reshape(draws, rows // draws, -1), log_q.reshape(draws, -1)


def _takes_draws(fit: Fit, x: Tensor) -> bool:
    """Whether the guide gives the same q in a plate of draws around that of its rows, which reads every row
    once: its networks may want one leading dimension, and its sites may have a plate of their own there.
    """
    try:
        with random_state(0):
            z, log_q = _traced_draws(fit, x, 2)
            values = split(latents_of(fit, x), z.reshape(2 * len(x), -1))
            _, known = _traced_draws(fit, x, 2, repeat=True, z=values)
    except Exception:  # whatever its networks raise at a shape that they were not made for
        return False
    rounding = torch.finfo(x.dtype).eps ** 0.5  # of sums that are taken in another order
    return torch.allclose(log_q, known, rtol=rounding, atol=rounding)


def row_terms(fit: Fit, x: Tensor, z: Tensor, latents: Sequence[Latent]) -> Terms:
    """log p(z_i) and log p(x_i | z_i) of rows x (n, ...) and z (n, D)."""
    assert fit.model is not None
    model = poutine.condition(fit.model, data=split(latents, z))
    trace = poutine.trace(model).get_trace(**{reads(fit): x})
    names = {one.name for one in latents}
    prior, likelihood = z.new_zeros(len(x)), z.new_zeros(len(x))
    for name, node in _sampled(trace):
        if name in names:
            prior = prior + node["fn"].log_prob(node["value"]).reshape(len(x), -1).sum(1)
        elif node["is_observed"]:
            likelihood = likelihood + node["fn"].log_prob(node["value"]).reshape(len(x), -1).sum(1)
    return Terms(prior, likelihood)


def terms_of_draws(
    fit: Fit, x: Tensor, z: Tensor, latents: Sequence[Latent], at_once: int | None = None
) -> Terms:
    """`row_terms` of z (S, n, D), each (S, n), decoding `at_once` rows at a time."""
    draws, n = z.shape[:2]
    flat = z.reshape(draws * n, -1)
    size = at_once or max(1, NUMBERS_AT_ONCE // max(1, x[0].numel()))
    parts = []
    for start in range(0, draws * n, size):
        piece = flat[start : start + size]
        row = torch.arange(start, start + len(piece), device=x.device) % n
        parts.append(row_terms(fit, x[row], piece, latents))
    return Terms(
        torch.cat([p.prior for p in parts]).reshape(draws, n),
        torch.cat([p.likelihood for p in parts]).reshape(draws, n),
    )


def decoded(fit: Fit, z: Tensor, latents: Sequence[Latent]) -> np.ndarray:
    """The mean of the observed site given z (n, D), flat (n, P): the picture that z stands for."""
    assert fit.model is not None
    width = np.shape(observed(fit))[1:]
    parts = []
    for piece in z.split(max(1, NUMBERS_AT_ONCE // max(1, math.prod(width)))):
        x = torch.zeros(len(piece), *width, dtype=z.dtype, device=z.device)
        model = poutine.condition(fit.model, data=split(latents, piece))
        trace = poutine.trace(model).get_trace(**{reads(fit): x})
        names = {one.name for one in latents}
        node = next(n for k, n in _sampled(trace) if n["is_observed"] and k not in names)
        parts.append(node["fn"].mean.reshape(len(piece), -1))
    return torch.cat(parts).double().cpu().numpy()


def prior_draws(
    fit: Fit, count: int, latents: Sequence[Latent], codes: Tensor | None = None
) -> Tensor:
    """Draws z (count, D) of the model's prior.

    A flat prior has no draws: a normal with the mean and standard deviation of the `codes` (n, D)
    stands in, where they are given.
    """
    assert fit.model is not None
    x = rows_of(fit, observed(fit), np.zeros(1, int))
    x = x.expand(count, *x.shape[1:])
    try:
        trace = poutine.trace(fit.model).get_trace(**{reads(fit): x})
    except NotImplementedError:
        if codes is None:
            raise
        spread = codes.std(0) if len(codes) > 1 else torch.ones_like(codes[0])
        noise = torch.randn(count, codes.shape[-1], dtype=x.dtype, device=x.device)
        return codes.mean(0) + spread * noise
    names = [one.name for one in latents]
    missing = [name for name in names if name not in trace.nodes]
    if missing:
        raise DataError(f"The model has no site {missing[0]!r}: give the model of this guide.")
    return torch.cat([trace.nodes[n]["value"].reshape(count, -1).to(x.dtype) for n in names], -1)


def unwrapped(q: Distribution) -> Distribution:
    """The distribution inside `Independent`."""
    while isinstance(q, Independent):
        q = q.base_dist
    return q


def _is_real(q: Any) -> bool:
    support = q.support
    while hasattr(support, "base_constraint"):  # of independent and of mixed distributions
        support = support.base_constraint
    return bool(support is constraints.real or support is constraints.real_vector)


def _sampled(trace: Any) -> list[tuple[str, Any]]:
    return [
        (name, node)
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not site_is_subsample(node)
        and not node["infer"].get("_deterministic")
    ]
