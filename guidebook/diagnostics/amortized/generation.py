r"""What a decoder generates: held-out bound, reconstruction, nearest neighbours, and two distances.

Samples much nearer to the training data than fresh data are, were memorised; samples much farther
away are not like the data. Squared error is not a distance of pictures: a shifted picture is far and
a picture with a piece missing near; the structural similarity is looked at beside it.

Sources: Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to
structural similarity" (SSIM); Doersch 2016, "Tutorial on variational autoencoders", figure 3 (the
altered and the shifted digit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from guidebook.diagnostics.amortized.gap import importance_bound
from guidebook.diagnostics.amortized.rows import (
    decoded,
    draw_rows,
    has_points,
    latents_of,
    observed,
    prior_draws,
    rows_of,
    some_rows,
)
from guidebook.diagnostics.measures.information import Estimate
from guidebook.errors import DataError
from guidebook.inference.fits.fit import Fit
from guidebook.programs.graphs.recorded import recording
from guidebook.scope import local_parameters, precision, random_state

MEMORISED = 0.5
"""Median distance of samples over that of fresh rows below which samples look memorised."""


@dataclass(frozen=True)
class Generation:
    """Per row used, in the data's units; distances are Euclidean, over all P numbers.

    `bound`: importance-weighted, nats a row, of held-out rows where there are some, else of the
    fit's own (`held_out` says which); NaN for deterministic guides. `error`: squared error of the
    reconstruction, a row. `samples` (S, P) with the training rows nearest to them `neighbours` (S, P);
    `sample_distance` (S,), `fresh_distance`: the same of held-out rows, or of training rows to their
    nearest other one.
    """

    held_out: bool
    bound: Estimate
    error: Estimate
    samples: np.ndarray
    neighbours: np.ndarray
    sample_distance: np.ndarray
    fresh_distance: np.ndarray

    @property
    def ratio(self) -> float:
        """Median distance of samples to the training data over that of fresh rows."""
        if not len(self.fresh_distance):  # one row, or all rows the same
            return math.nan
        fresh = float(np.median(self.fresh_distance))
        return float(np.median(self.sample_distance)) / fresh if fresh > 0 else math.nan

    @property
    def memorised(self) -> bool:
        """Samples are nearer to training rows than fresh rows are, by far more than chance."""
        if not len(self.fresh_distance):
            return False
        nearer = mannwhitneyu(self.sample_distance, self.fresh_distance, alternative="less")
        return self.ratio < MEMORISED and float(nearer.pvalue) < 1e-3

    def sentence(self) -> str:
        """The finding in words."""
        which = "held-out rows" if self.held_out else "training rows (no held-out rows were given)"
        parts = []
        if math.isfinite(self.bound.value):
            parts.append(
                f"importance-weighted bound {self.bound.value:.4g} +- {self.bound.se:.2g} nats"
            )
        parts.append(
            f"squared error of reconstructions {self.error.value:.3g} +- {self.error.se:.1g}"
        )
        told = (
            f"On {which}: {', '.join(parts)} a row. Samples are {self.ratio:.2f} times as far from "
        )
        told += "the training data as " + (
            "held-out rows" if self.held_out else "training rows are from each other"
        )
        advice = ": the decoder has memorised training rows; use more data or a smaller decoder."
        return told + (advice if self.memorised else ".")


def generation(
    fit: Fit,
    *,
    held_out: Any = None,
    rows: int = 500,
    samples: int = 48,
    draws: int = 500,
    seed: int = 0,
) -> Generation:
    """Compares samples of the fit's decoder with held-out rows and up to 5,000 training rows.

    Arguments: `held_out`, rows like the fit's data that were not trained on; `draws` of the bound,
    on up to `rows` rows; `samples` decoded from the prior (their means). Raises DataError for
    held-out rows of another shape.
    """
    own = rows_of(fit, observed(fit), some_rows(len(observed(fit)), 5000, seed))
    fresh = own if held_out is None else rows_of(fit, held_out)
    if fresh.shape[1:] != own.shape[1:]:
        raise DataError(
            f"Held-out rows have the shape {tuple(fresh.shape[1:])}, those trained on "
            f"{tuple(own.shape[1:])}: give rows of the same shape."
        )
    looked = fresh[torch.from_numpy(some_rows(len(fresh), rows, seed))]
    with (
        local_parameters(), precision(own.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        latents, point = latents_of(fit, looked), has_points(fit, looked)
        z, _ = draw_rows(fit, looked, 1 if point else 20)
        made = decoded(fit, z.mean(0), latents)
        drawn = decoded(fit, prior_draws(fit, samples, latents, z.mean(0)), latents)
    flat = _flat(looked)
    error = np.square(made - flat).sum(1)
    bound = Estimate(math.nan, math.nan)
    if not point:
        values, _ = importance_bound(fit, looked, draws=draws, seed=seed)
        bound = _mean(values)
    train = _flat(own)
    far = cdist(drawn, train)
    between = cdist(flat, train)
    if held_out is None:
        between[between == 0] = np.inf  # a row to itself, and to its copies
    nearest = between.min(1)
    return Generation(
        held_out is not None, bound, _mean(error), drawn, train[far.argmin(1)], far.min(1),
        nearest[np.isfinite(nearest)],
    )  # fmt: skip


def _flat(x: torch.Tensor) -> np.ndarray:
    result: np.ndarray = x.reshape(len(x), -1).double().cpu().numpy()
    return result


def _mean(values: np.ndarray) -> Estimate:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), error)
