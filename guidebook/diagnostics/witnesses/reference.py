"""Distances between sets of draws, marginal by marginal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from arviz_stats import wasserstein

from guidebook.diagnostics.witnesses.importance import (
    weighted_moments,
)
from guidebook.diagnostics.witnesses.testimony import Estimate, Marginals

LARGEST = 200
"""Marginals whose Wasserstein distance is computed; with more, every so many-th."""


def wasserstein_in_sds(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest 1-Wasserstein distance over marginals, in standard deviations of theirs.

    By arviz_stats, on standardised draws (S, M).
    """
    import arviz_base

    scale = np.maximum(theirs.std(0), 1e-300)
    every = max(1, ours.shape[1] // LARGEST)
    worst = 0.0
    for column in range(0, ours.shape[1], every):
        pair = [
            arviz_base.from_dict({"posterior": {"x": (draws[:, column] / scale[column])[None]}})
            for draws in (ours, theirs)
        ]
        size = min(2000, len(ours), len(theirs))
        distance = wasserstein(
            pair[0], pair[1], joint=False, num_samples=size, round_to="none", random_seed=0
        )
        worst = max(worst, float(distance))
    return worst


@dataclass(frozen=True)
class Reference:
    """Moments of the reference draws, its Monte Carlo error, and whether it can be relied on."""

    name: str
    marginals: Marginals
    ess: float
    sound: bool


def _reference_estimate(
    marginals: Marginals, reference: Reference | None, weights: np.ndarray | None = None
) -> Estimate | None:
    if reference is None:
        return None
    theirs = reference.marginals.in_order_of(marginals.names)
    if theirs is None:
        return None
    mean, sd = weighted_moments(marginals.values, weights)
    sd = np.maximum(sd, marginals.least_sd)
    ref_mean, ref_sd = theirs.mean(0), np.maximum(theirs.std(0), marginals.least_sd)
    size = len(marginals.values) if weights is None else 1 / np.square(weights).sum()
    error = math.sqrt(1 / size + 1 / max(reference.ess, 1))
    shape = np.ones(len(mean))
    return Estimate(
        (mean - ref_mean) / ref_sd,
        error * shape,
        np.log(sd / ref_sd),
        error / math.sqrt(2) * shape,
        shape.astype(bool),
    )
