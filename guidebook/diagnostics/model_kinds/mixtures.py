r"""Numbers of a Gaussian mixture: clusters, responsibilities, and how each engine climbed.

All are computed from the draws of each approximation, so that engines that keep no responsibilities
(gibbs, svi, exact) stand beside those that do: with globals theta_s in the labelling that the model
names,

.. math:: r_{ik} = \frac1S \sum_s p(z_i = k \mid x_i, \theta_s), \qquad
    p(z_i = k \mid x_i, \theta) \propto \pi_k\, N(x_i; \mu_k, \Lambda_k^{-1})
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from guidebook.models.mixture import GaussianMixture
from guidebook.programs.labels import exchangeable

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray

MOST_DRAWS, LEAST_DRAWS, MEAN_DRAWS = 1000, 100, 120
MOST_POINTS = 2000
WORK = 2_000_000
"""Numbers computed for the responsibilities of one approximation: less than a second."""

SWEEPING = ("cavi", "em")
"""Engines whose history starts with the objective at the start, and has one value a sweep."""


@dataclass(frozen=True)
class Clusters:
    """One approximation's view of the data, K components in D dimensions.

    - `weights` (K,), `loc` (K, D), `covariance` (K, D, D): posterior means.
    - `share` (n, K): responsibilities; `means` (S, K, D): draws of the components' means.
    - `moved`: the share of draws that were not in the labelling shown, where the engine says so.
    """

    weights: Array
    loc: Array
    covariance: Array
    share: Array
    means: Array
    moved: float | None = None


@dataclass(frozen=True)
class Ascent:
    """The objective (T,) of one fit, in nats, after `passes` (T,) over the data.

    - `engine`: its name; `log_joint`: the objective is log p(x, theta) of one point, not an ELBO.
    - `noisy`: each value is an estimate (single draws or mini-batches).
    """

    engine: str
    passes: Array
    objective: Array
    log_joint: bool
    noisy: bool


@dataclass(frozen=True)
class MixtureNumbers:
    """What is known of the mixture of K components.

    The `x` (n, D) of the `rows` rows that the responsibilities are of, every approximation's
    `Clusters` and `Ascent` by its name, and log p(x) where a fit is exact.
    """

    x: Array
    rows: int
    K: int
    clusters: dict[str, Clusters]
    ascents: dict[str, Ascent] = field(default_factory=dict)
    log_evidence: float | None = None


def mixture_numbers(
    model: Any,
    data: Mapping[str, Any] | None,
    posteriors: Mapping[str, xr.DataTree],
    histories: Mapping[str, Array],
) -> MixtureNumbers | None:
    """The numbers of the approximations of a `GaussianMixture`; None for any other model.

    Arguments: the model and its data (`x` (n, D)); by the name of the approximation its draws, with
    `loc` (chain, draw, K, D), and its loss after every step.
    """
    story = exchangeable(model)
    if not isinstance(story, GaussianMixture) or not data or not posteriors:
        return None
    given = data["x"]
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    rows = len(given)
    some = np.unique(np.linspace(0, rows - 1, min(rows, MOST_POINTS)).astype(int))
    x = given[some].astype(float)
    climbed = {
        name: _ascent(posteriors[name], history, rows)
        for name, history in histories.items()
        if name in posteriors and np.isfinite(history).sum() > 1
    }
    return MixtureNumbers(
        x, rows, story.K,
        {name: _clusters(story, x, tree) for name, tree in posteriors.items()},
        climbed, _log_evidence(posteriors),
    )  # fmt: skip


def _clusters(model: GaussianMixture, x: Array, tree: xr.DataTree) -> Clusters:
    posterior = tree["posterior"]
    most = int(np.clip(WORK // (x.size * model.K * model.D), LEAST_DRAWS, MOST_DRAWS))
    loc = _draws(posterior["loc"], most)
    size, K, D = loc.shape
    known = "weights" in posterior
    weights = _draws(posterior["weights"], most) if known else np.full((size, K), 1 / K)
    if model.covariance == "unit":
        precision = np.broadcast_to(np.eye(D), (size, K, D, D))
    else:
        precision = _draws(posterior["precision"], most)
        if model.covariance == "diagonal":
            precision = precision[..., None] * np.eye(D)
    share = np.zeros((len(x), K))
    for w, m, p in zip(weights, loc, precision, strict=True):
        share += responsibilities(x, w, m, p)
    covariance = np.linalg.inv(precision).mean(0)
    return Clusters(
        weights.mean(0), loc.mean(0), covariance, share / size, loc[:: max(1, size // MEAN_DRAWS)],
        _notes(tree).get("relabelled"),
    )  # fmt: skip


def _draws(variable: Any, most: int) -> Array:
    """At most so many of them, evenly spaced, (S, ...)."""
    values = np.asarray(variable.values, dtype=float)
    values = values.reshape(-1, *values.shape[2:])
    some = np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int)
    return values[some]


def responsibilities(x: Array, weights: Array, loc: Array, precision: Array) -> Array:
    """p(z_i = k | x_i, theta) of one theta, (n, K).

    Arguments: `x` (n, D), `weights` (K,), `loc` (K, D), `precision` (K, D, D).
    """
    away = x[:, None] - loc
    square = np.einsum("nkd,kde,nke->nk", away, precision, away)
    with np.errstate(divide="ignore"):  # a weight of 0
        score = np.log(weights) + 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * square
    shares: Array = np.exp(score - logsumexp(score, axis=1, keepdims=True))
    return shares


# the way up ---------------------------------------------------------------------------------------


def _ascent(tree: xr.DataTree, history: Array, rows: int) -> Ascent:
    engine = _of_fit(tree, "engine")
    values = -np.asarray(history, dtype=float)
    passes = passes_of(engine, len(values), rows, _notes(tree).get("batch_size"))
    return Ascent(engine, passes, values, engine == "em", engine not in SWEEPING)


def passes_of(engine: str, length: int, rows: int, batch: int | None = None) -> Array:
    """How many times all rows had been read at each value of a history of this length."""
    if engine in SWEEPING:
        return np.arange(length, dtype=float)
    return np.arange(1, length + 1) * min(1.0, float(batch or rows) / max(rows, 1))


def _log_evidence(posteriors: Mapping[str, xr.DataTree]) -> float | None:
    """log p(x) of a fit by `exact`."""
    for tree in posteriors.values():
        found = _notes(tree).get("log_evidence")
        if found is not None and _of_fit(tree, "engine") == "exact":
            return float(found)
    return None


def _notes(tree: xr.DataTree) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_of_fit(tree, "notes") or "{}")
    return found


def _of_fit(tree: xr.DataTree, attribute: str) -> str:
    """An attribute of the group `vi_fit`; nothing where the draws came without one."""
    return str(tree["vi_fit"].attrs.get(attribute, "")) if "vi_fit" in tree.children else ""
