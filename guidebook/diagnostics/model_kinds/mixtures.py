"""NEEDS A DOCSTRING: guidebook.diagnostics.model_kinds.mixtures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from guidebook.models.mixture import GaussianMixture
from guidebook.programs.labels import exchangeable
from guidebook.reports.elements.summaries import Array, names_of

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared


MOST_DRAWS, LEAST_DRAWS, MEAN_DRAWS = 1000, 100, 120


MOST_POINTS = 2000
WORK = 2_000_000
"""Numbers computed for the responsibilities of one approximation: less than a second."""


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
class MixtureNumbers:
    """The rows (n, D) that are shown, and every approximation's `Clusters` by its name."""

    x: Array
    rows: int
    K: int
    clusters: dict[str, Clusters]


def mixture_numbers(comparison: Compared) -> MixtureNumbers | None:
    """What the figures show; None where the fits' model is no GaussianMixture."""
    model = exchangeable(comparison.model)
    if not isinstance(model, GaussianMixture) or not comparison.data or not comparison.posteriors:
        return None
    given = comparison.data["x"]
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    some = np.unique(np.linspace(0, len(given) - 1, min(len(given), MOST_POINTS)).astype(int))
    x = given[some].astype(float)
    named = [n for n in names_of(comparison) if n in comparison.posteriors]
    clusters = {n: _clusters(model, x, comparison.posteriors[n]) for n in named}
    return MixtureNumbers(x, len(given), model.K, clusters)


def _clusters(model: GaussianMixture, x: Array, tree: Any) -> Clusters:
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
        share += _shares(x, w, m, p)
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


def _shares(x: Array, weights: Array, loc: Array, precision: Array) -> Array:
    """p(z_i = k | x_i, theta) of one theta, (n, K)."""
    away = x[:, None] - loc
    square = np.einsum("nkd,kde,nke->nk", away, precision, away)
    with np.errstate(divide="ignore"):  # a weight of 0
        score = np.log(weights) + 0.5 * np.linalg.slogdet(precision)[1] - 0.5 * square
    shares: Array = np.exp(score - logsumexp(score, axis=1, keepdims=True))
    return shares


def _notes(tree: Any) -> dict[str, Any]:
    if "vi_fit" not in tree.children:
        return {}
    found: dict[str, Any] = json.loads(tree["vi_fit"].attrs.get("notes", "{}"))
    return found
