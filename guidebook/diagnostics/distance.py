"""Distances between sets of draws, marginal by marginal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from arviz_stats import wasserstein

if TYPE_CHECKING:
    import xarray as xr

LARGEST = 200
"""Marginals whose Wasserstein distance is computed; with more, every so many-th."""


@dataclass(frozen=True)
class Marginals:
    """All scalar marginals of a posterior group: names and values (S, M)."""

    names: list[str]
    values: np.ndarray
    discrete: bool = False

    @property
    def least_sd(self) -> float:
        """Standard deviations below it count as this one. Of whole numbers it is that of a value
        seen a hundred times in all the draws, whose own error is 5 %; rarer ones are judged by
        their means alone.
        """
        return 20 / math.sqrt(len(self.values)) if self.discrete else 1e-300

    def in_order_of(self, names: list[str]) -> np.ndarray | None:
        """The values in the order of other names; None where one is missing."""
        place = {name: i for i, name in enumerate(self.names)}
        if any(name not in place for name in names):
            return None
        return self.values[:, [place[name] for name in names]]


def marginals_of(tree: xr.DataTree, only: set[str] | None = None) -> Marginals:
    """Chains and draws joined; a variable of shape (3,) gives 'beta[0]' to 'beta[2]'."""
    names, columns = [], []
    for name, variable in tree["posterior"].data_vars.items():
        if only is not None and name not in only:
            continue
        ordered = variable.transpose("chain", "draw", ...)
        values = ordered.values.reshape(ordered.shape[0] * ordered.shape[1], -1)
        shape = ordered.shape[2:]
        for place, index in enumerate(np.ndindex(*shape)):
            label = f"[{', '.join(map(str, index))}]" if shape else ""
            names.append(f"{name}{label}")
            columns.append(values[:, place])
    origin = tree.children.get("vi_fit")
    discrete = bool(origin is not None and origin.attrs.get("discrete", 0))
    return Marginals(names, np.column_stack(columns).astype(float), discrete)


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
