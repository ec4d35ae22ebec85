"""Moments and quantiles of (weighted) draws, and which parameters the approximations disagree on.

arviz_stats' `summary`, `hdi`, `eti` and `kde` take no weights, so the weighted mean and standard
deviation are written here; the weighted quantile is NumPy's.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

Array = np.ndarray

#: As many parameters as a reader takes in at once.
MOST_PARAMETERS = 12
#: The limit of k-hat that does not depend on the number of draws: Vehtari et al. (2024).
KHAT_LIMIT = 0.7
#: Columns brought to float64 at a time: an amortised posterior has a latent for every datum.
_BLOCK = 1024


@dataclass(frozen=True)
class Component:
    """One scalar of the posterior: `variable` at the flat position `index`, written `label`."""

    variable: str
    index: int
    label: str


@dataclass(frozen=True)
class Yardstick:
    """What a parameter is measured against: the mean and standard deviation of one approximation.

    `name` is that approximation, or None where none is fit to be one: then centre and scale are the
    medians over all of them. `centre` and `scale` map a variable to a flat array.
    """

    name: str | None
    weighted: bool
    centre: dict[str, Array]
    scale: dict[str, Array]

    def of(self, component: Component) -> tuple[float, float]:
        """Its mean and standard deviation of one scalar."""
        centre, scale = self.centre[component.variable], self.scale[component.variable]
        return float(centre[component.index]), float(scale[component.index])


def names_of(comparison: "Compared") -> list[str]:
    """Every approximation, the reference among them; amortised ones have no draws to show."""
    return [str(name) for name in comparison.table.index]


def sample_size(comparison: "Compared") -> int:
    """S, the number of draws of every approximation that are shown; 0 where there are none."""
    for tree in comparison.posteriors.values():
        sizes = tree["posterior"].sizes
        return int(sizes["chain"]) * int(sizes["draw"])
    return 0


def khat_limit_of(comparison: "Compared", name: str) -> float:
    """The k-hat beyond which the weights of `name` are unreliable; of a row's, where it is amortised."""
    return comparison.khat_limits.get(name, KHAT_LIMIT)


def is_reference(comparison: "Compared", name: str) -> bool:
    """Whether `name` is what the others are compared with."""
    return comparison.reference == name


def verdict_word(comparison: "Compared", name: str) -> str:
    """`trust`, `reweight`, `reject`; `reference` for the reference, `none` where there is no
    verdict.
    """
    if is_reference(comparison, name):
        return "reference"
    verdict = comparison.verdicts.get(name)
    return "none" if verdict is None else str(verdict.value)


def unsound(comparison: "Compared", name: str) -> bool:
    """Whether this is a reference that failed its own checks: what it says is worth less."""
    verdict = comparison.verdicts.get(name)
    return is_reference(comparison, name) and verdict is not None and verdict.value != "trust"


def shows_weighted(comparison: "Compared", name: str) -> bool:
    """Whether the reweighted draws say something: not of a trusted fit, whose raw ones are as good,
    and not of a rejected one, whose few heavy weights would only mislead.
    """
    usable = verdict_word(comparison, name) in ("reweight", "none")
    return usable and comparison.weights.get(name) is not None


def variables(comparison: "Compared") -> list[str]:
    """The numeric variables that every posterior has, in the order of the first one."""
    trees = list(comparison.posteriors.values())
    if not trees:
        return []
    return [
        str(variable)
        for variable, array in trees[0]["posterior"].data_vars.items()
        if all(variable in tree["posterior"].data_vars for tree in trees)
        and array.dtype.kind in "bifu"
    ]


def flat_draws(comparison: "Compared", name: str, variable: str, weighted: bool = False) -> Array:
    """The draws of one variable, shape (S, K): K the number of its scalars; those of the weights
    where they are to be weighted.
    """
    tree = comparison.posteriors[name]
    if weighted:
        tree = comparison.matched.get(name, tree)
    values = np.asarray(tree["posterior"][variable].values)
    draws = values.shape[0] * values.shape[1]
    return values.reshape(draws, -1)


def column(
    comparison: "Compared", name: str, component: Component, weighted: bool = False
) -> Array:
    """The finite draws of one scalar as float64, shape (S,); non-finite ones become NaN."""
    every = flat_draws(comparison, name, component.variable, weighted)
    draws = every[:, component.index].astype(float)
    return np.where(np.isfinite(draws), draws, np.nan)


def labels(array: xr.DataArray) -> list[str]:
    """`theta[Choate]` for every scalar of a variable, by its ArviZ coordinates."""
    dims = [dim for dim in array.dims if dim not in ("chain", "draw")]
    if not dims:
        return [str(array.name)]
    axes = [
        [str(value) for value in array.coords[dim].values]
        if dim in array.coords
        else [str(position) for position in range(array.sizes[dim])]
        for dim in dims
    ]
    shape = tuple(len(axis) for axis in axes)
    return [
        f"{array.name}[{', '.join(axis[i] for axis, i in zip(axes, index, strict=True))}]"
        for index in np.ndindex(*shape)
    ]


def moments(draws: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Mean and standard deviation over the first axis under `weights` (S,) that sum to 1.

    m = sum_s w_s x_s,  v = sum_s w_s (x_s - m)^2 / (1 - sum_s w_s^2): the unbiased form, which is
    the usual 1/(S - 1) for equal weights.
    """
    if weights is None:
        weights = np.full(len(draws), 1.0 / len(draws))
    lost = max(1.0 - float(np.sum(weights**2)), np.finfo(float).tiny)
    flat = np.asarray(draws).reshape(len(draws), -1)
    mean, variance = np.empty(flat.shape[1]), np.empty(flat.shape[1])
    for start in range(0, flat.shape[1], _BLOCK):
        block = flat[:, start : start + _BLOCK].astype(float)
        mean[start : start + _BLOCK] = centre = weights @ block
        variance[start : start + _BLOCK] = weights @ (block - centre) ** 2 / lost
    shape = np.shape(draws)[1:]
    return mean.reshape(shape), np.sqrt(np.maximum(variance, 0.0)).reshape(shape)


def quantiles(draws: Array, levels: tuple[float, ...], weights: Array | None = None) -> Array:
    """Quantiles of one scalar's finite draws (S,) at `levels`; NaN where none is finite."""
    keep = np.isfinite(draws)
    if not keep.any():
        return np.full(len(levels), np.nan)
    if weights is None or not np.sum(weights[keep]) > 0:
        return np.quantile(draws[keep], levels)
    return np.quantile(draws[keep], levels, weights=weights[keep], method="inverted_cdf")


def yardstick(comparison: "Compared") -> Yardstick:
    """The reference; without one the first trusted approximation, else the first reweighted one."""
    words = {name: verdict_word(comparison, name) for name in comparison.posteriors}
    chosen = next(
        (
            name
            for word in ("reference", "trust", "reweight")
            for name in words
            if words[name] == word
        ),
        None,
    )
    weighted = chosen is not None and words[chosen] == "reweight"
    weights = comparison.weights.get(chosen) if weighted and chosen is not None else None
    centre, scale = {}, {}
    for variable in variables(comparison):
        if chosen is not None:
            mean, sd = moments(flat_draws(comparison, chosen, variable, weighted), weights)
        else:
            each = [moments(flat_draws(comparison, n, variable)) for n in comparison.posteriors]
            mean = np.median([pair[0] for pair in each], axis=0)
            sd = np.median([pair[1] for pair in each], axis=0)
        centre[variable] = mean
        scale[variable] = np.where(sd > 0, sd, 1.0)
    return Yardstick(chosen, weighted, centre, scale)


def largest_disagreements(
    comparison: "Compared", measure: Yardstick, limit: int
) -> tuple[list[Component], int]:
    """The `limit` scalars the approximations disagree on most, in the order of the posterior.

    The disagreement of one approximation is |mean difference| / sd + |log ratio of the sds|, both
    against `measure`; a scalar counts by its worst approximation. Also gives how many were left
    out.
    """
    scores: list[tuple[float, int, Component]] = []
    for variable in variables(comparison):
        centre, scale = measure.centre[variable], measure.scale[variable]
        score = np.zeros(centre.shape)
        for name in comparison.posteriors:
            mean, sd = moments(flat_draws(comparison, name, variable))
            with np.errstate(divide="ignore"):
                off = np.abs(mean - centre) / scale + np.abs(np.log(sd / scale))
            score = np.fmax(score, np.nan_to_num(off, nan=1e9, posinf=1e9))
        first = next(iter(comparison.posteriors.values()))["posterior"]
        names = labels(first.data_vars[variable])
        # Only the worst of a variable can be among the worst of all.
        for index in np.argsort(-score, kind="stable")[:limit]:
            component = Component(variable, int(index), names[int(index)])
            scores.append((float(score[index]), len(scores), component))
    total = sum(array.size for array in measure.centre.values())
    order = {variable: i for i, variable in enumerate(variables(comparison))}
    chosen = [item[2] for item in sorted(scores, key=lambda item: (-item[0], item[1]))[:limit]]
    chosen.sort(key=lambda component: (order[component.variable], component.index))
    return chosen, total - len(chosen)


def left_out(comparison: "Compared", limit: int = MOST_PARAMETERS) -> int:
    """How many scalars of the posterior the forest and the densities do not show."""
    if not comparison.posteriors:
        return 0
    posterior = next(iter(comparison.posteriors.values()))["posterior"]
    draws = sample_size(comparison)
    total = sum(posterior[variable].size // draws for variable in variables(comparison))
    return max(0, total - limit)
