"""The predictive check: what the approximations would have observed, beside what was observed."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from guidebook.reports.elements.style import REFERENCE, colours, figure, gridlines, shorten, styled
from guidebook.reports.elements.summaries import Array, labels

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

_MOST_VARIABLES = 3
_MOST_DATA = 40


@styled
def predictive_check(comparison: "Compared") -> Figure | None:
    """Replicated data of every approximation that has them, against the observed.

    Few data: the 50 % and 94 % predictive interval of each. Many: the observed distribution
    function and the 94 % band of the replicated ones. Zeros and ones: observed frequency against
    predicted probability, in groups of equal size (a calibration curve).
    """
    pairs = _replicated(comparison)
    if not pairs:
        return None
    shown = list(pairs)[:_MOST_VARIABLES]
    drawn = figure(3.1 * len(shown) + 0.3)
    grid = drawn.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, variable in zip(grid, shown, strict=True):
        observed, replicated = _observed(comparison, variable), pairs[variable]
        keep = np.isfinite(observed)
        replicated = {n: draws[:, keep] for n, draws in replicated.items()}
        if np.isin(observed[keep], (0.0, 1.0)).all() and observed.size > _MOST_DATA:
            _calibration(comparison, axes, observed[keep], replicated)
        elif observed.size <= _MOST_DATA:
            names = [
                label
                for label, kept in zip(_names(comparison, variable), keep, strict=True)
                if kept
            ]
            _intervals(comparison, axes, observed[keep], replicated, names)
        else:
            _distribution_functions(comparison, axes, observed[keep], replicated)
        axes.set_title(variable)
    palette = colours(comparison)
    names = list(dict.fromkeys(name for variable in shown for name in pairs[variable]))
    handles = [Line2D([], [], color=REFERENCE, marker="D", ms=5, ls="", label="observed")]
    handles += [Line2D([], [], color=palette[n], lw=3, label=shorten(n)) for n in names]
    drawn.legend(handles=handles, loc="outside upper left", ncols=min(6, len(handles)))
    return drawn


def _replicated(comparison: "Compared") -> dict[str, dict[str, Array]]:
    """variable -> approximation -> replicated data (S, n), for what was observed and replicated."""
    result: dict[str, dict[str, Array]] = {}
    for name, tree in comparison.posteriors.items():
        if "posterior_predictive" not in tree.children or "observed_data" not in tree.children:
            continue
        for variable, observed in tree["observed_data"].data_vars.items():
            if variable not in tree["posterior_predictive"].data_vars:
                continue
            draws = np.asarray(tree["posterior_predictive"].data_vars[variable].values)
            numbers = draws.dtype.kind in "bifu" and observed.dtype.kind in "bifu"
            if numbers and observed.size and draws.size % observed.size == 0:
                flat = draws.reshape(-1, observed.size).astype(float)
                result.setdefault(str(variable), {})[name] = flat
    return result


def _array(comparison: "Compared", variable: str) -> xr.DataArray:
    """What was observed, from the first of the trees that has it."""
    for tree in comparison.posteriors.values():
        if "observed_data" in tree.children and variable in tree["observed_data"].data_vars:
            return tree["observed_data"].data_vars[variable]
    raise KeyError(variable)


def _observed(comparison: "Compared", variable: str) -> Array:
    return np.asarray(_array(comparison, variable).values, dtype=float).ravel()


def _names(comparison: "Compared", variable: str) -> list[str]:
    return [
        label.removeprefix(variable).strip("[]") for label in labels(_array(comparison, variable))
    ]


def _intervals(
    comparison: "Compared",
    axes: Axes,
    observed: Array,
    replicated: dict[str, Array],
    names: list[str],
) -> None:
    """Per datum the predictive intervals of each approximation and the observed value."""
    palette = colours(comparison)
    width = 0.7 / max(1, len(replicated))
    x = np.arange(observed.size)
    for i, (name, draws) in enumerate(replicated.items()):
        at = x + (i - (len(replicated) - 1) / 2) * width
        low, left, right, high = np.nanquantile(draws, (0.03, 0.25, 0.75, 0.97), axis=0)
        axes.vlines(at, low, high, color=palette[name], lw=1.2)
        axes.vlines(at, left, right, color=palette[name], lw=3.4)
    axes.plot(x, observed, "D", ms=5, color=REFERENCE, zorder=3)
    axes.set_xticks(x)
    crowded = max((len(n) for n in names), default=0) * observed.size > 110
    axes.set_xticklabels(
        [shorten(n, 14) for n in names],
        rotation=45 if crowded else 0,
        ha="right" if crowded else "center",
    )
    axes.set_ylabel("50 % and 94 % predictive")
    gridlines(axes, "y")


def _distribution_functions(
    comparison: "Compared", axes: Axes, observed: Array, replicated: dict[str, Array]
) -> None:
    """The observed distribution function over the 94 % band of the replicated ones."""
    palette = colours(comparison)
    reach = [np.nanquantile(draws, (0.002, 0.998)) for draws in replicated.values()]
    low = min(float(observed.min()), *(float(r[0]) for r in reach))
    high = max(float(observed.max()), *(float(r[1]) for r in reach))
    grid = np.linspace(low, high, 200)
    for name, draws in replicated.items():
        some = draws[:: max(1, len(draws) // 200)]
        shares = np.stack(
            [np.searchsorted(np.sort(row), grid, side="right") / row.size for row in some]
        )
        bottom, top = np.quantile(shares, (0.03, 0.97), axis=0)
        axes.fill_between(grid, bottom, top, color=palette[name], alpha=0.22, lw=0)
        axes.plot(grid, np.median(shares, axis=0), color=palette[name], lw=1.2)
    axes.step(
        np.sort(observed),
        np.arange(1, observed.size + 1) / observed.size,
        color=REFERENCE,
        where="post",
    )
    axes.set_ylabel("share of data below")
    gridlines(axes, "y")


def _calibration(
    comparison: "Compared",
    axes: Axes,
    observed: Array,
    replicated: dict[str, Array],
    groups: int = 10,
) -> None:
    """Observed frequency of ones against predicted probability, in groups of equal size."""
    palette = colours(comparison)
    axes.plot([0, 1], [0, 1], color=REFERENCE, lw=1.0, ls="--")
    for name, draws in replicated.items():
        probability = np.nanmean(draws, axis=0)
        parts = np.array_split(np.argsort(probability, kind="stable"), min(groups, observed.size))
        predicted = np.array([probability[part].mean() for part in parts])
        seen = np.array([observed[part].mean() for part in parts])
        counts = np.stack([draws[:, part].mean(axis=1) for part in parts])
        low, high = np.nanquantile(counts, (0.03, 0.97), axis=1)
        axes.vlines(predicted, low, high, color=palette[name], lw=1.2, alpha=0.6)
        axes.plot(predicted, seen, "o-", ms=5, lw=1.0, color=palette[name])
    axes.set(
        xlabel="predicted probability (bars: 94 % of replications)", ylabel="observed frequency"
    )
    gridlines(axes, "y")
