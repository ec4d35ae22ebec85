"""NEEDS A DOCSTRING: guidebook.diagnostics.witnesses.testimony."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def _widened(estimate: Estimate | None, tails: np.ndarray) -> Estimate | None:
    if estimate is None:
        return None
    return replace(estimate, log_ratio_se=estimate.log_ratio_se * tails)


def _attribute(tree: xr.DataTree, name: str) -> Any:
    group = tree.children.get("vi_fit")
    return group.attrs.get(name, "") if group is not None else ""


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


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


MEAN_LIMIT = 0.1
"""In posterior standard deviations; with the sd limits, the definition of a good approximation."""


SD_LOW, SD_HIGH = 1 / 1.2, 1.2
"""Within 20 % on the scale of the logarithm, the stricter side of 'within 20 %' below."""


ERRORS = 2.0
"""Standard errors added to an estimated error before it is held against its limit."""


@dataclass(frozen=True)
class Estimate:
    """One witness's estimate of the errors of draws, per marginal (M,), with its own errors.

    shift: (mean of q - mean of p) / sd of p; log_ratio: log(sd of q / sd of p). `able` says for
    which marginals the witness could see an error of the size that matters.
    """

    shift: np.ndarray
    shift_se: np.ndarray
    log_ratio: np.ndarray
    log_ratio_se: np.ndarray
    able: np.ndarray

    def good(self) -> bool:
        """Everything was seen, and everything is within bounds, errors included."""
        return bool(self.able.all()) and self.within(ERRORS)

    def within(self, errors: float) -> bool:
        """Whether all errors, moved by this many standard errors away from zero, are in bounds."""
        shift = np.abs(self.shift) + errors * self.shift_se
        ratio = np.abs(self.log_ratio) + errors * self.log_ratio_se
        return bool((shift < MEAN_LIMIT).all() and (ratio < math.log(SD_HIGH)).all())

    def bad(self) -> bool:
        """Some error that was seen is out of bounds by more than two standard errors."""
        shift = np.abs(self.shift) - 2 * self.shift_se > MEAN_LIMIT
        ratio = np.abs(self.log_ratio) - 2 * self.log_ratio_se > math.log(SD_HIGH)
        return bool((self.able & (shift | ratio)).any())

    def worst(self, names: list[str]) -> str:
        """The marginal that is most off, in words."""
        shift = np.abs(self.shift) / MEAN_LIMIT
        ratio = np.abs(self.log_ratio) / math.log(SD_HIGH)
        if shift.max() >= ratio.max():
            i = int(shift.argmax())
            way = "high" if self.shift[i] > 0 else "low"
            return f"the mean of {names[i]} is {abs(self.shift[i]):.2g} sd too {way}"
        i = int(ratio.argmax())
        way = "narrow" if self.log_ratio[i] < 0 else "wide"
        return f"{names[i]} is too {way} (sd ratio {math.exp(self.log_ratio[i]):.2g})"
