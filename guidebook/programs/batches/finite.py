"""Values that are not finite among the data, and whether the model masks all of them.

What counts is what the model scores. A NaN in an argument is as good as any other number where the model
masks it; a NaN that is observed, or that reaches a log density, is refused with its name and place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import DataError, GuideError, ModelError
from guidebook.programs.data import arrays, has_rows, number_of_rows
from guidebook.programs.sites import trace_at
from guidebook.programs.values.arrays import not_finite
from guidebook.scope import local_parameters, precision, random_state, validation

MOST = 1000
"""Places of every array that are looked at."""


@dataclass(frozen=True)
class NotFinite:
    """Places of values that are not finite.

    Attributes:
        first: name of an argument to the first place in it, and what stands there.
        rows: numbers of the rows that hold such values, (n,), of the arrays that come by rows.
        infinite: whether there are others than NaN.
    """

    first: Mapping[str, tuple[tuple[int, ...], str]]
    rows: np.ndarray
    infinite: bool

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Where model or guide fail inside the block, the error names these values first."""
        try:
            yield
        except (DataError, GuideError, ModelError) as error:
            raise DataError(f"{self._refusal()} With it: {error}") from error

    def check(self, model: Callable[..., Any], data: Mapping[str, Any], dtype: torch.dtype) -> None:
        """Runs the model once on data that hold these values.

        Raises:
            DataError: one of them is observed or makes a log density NaN, and is not masked.
        """
        with (
            local_parameters(), precision(dtype), validation(False), random_state(0),
            torch.no_grad(),
        ):  # fmt: skip
            trace, _ = trace_at(model, data, None)
            trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or not self._is_spoilt(site):
                continue
            same = [n for n, v in data.items() if n in self.first and v is site["value"]]
            raise DataError(self._refusal(next(iter(same), name)))

    def _is_spoilt(self, site: Any) -> bool:
        """Whether such a value counts in the log density of a site."""
        log_prob = site["log_prob"]
        if bool(log_prob.isnan().any()) or (self.infinite and bool(log_prob.isinf().any())):
            return True
        value = site["value"]
        if not (site["is_observed"] and isinstance(value, Tensor) and value.is_floating_point()):
            return False
        spoilt = ~value.isfinite().reshape(*value.shape[: value.dim() - site["fn"].event_dim], -1)
        return bool((spoilt.any(-1) & _mask_of(site)).any())

    def _refusal(self, name: str = "") -> str:
        """Of one argument, where it is among them; else of all of them."""
        chosen = {name: self.first[name]} if name in self.first else self.first
        listed = " and ".join(f"'{n}' holds {w} at index {i}" for n, (i, w) in chosen.items())
        return (
            f"{listed}. Remove or impute the row, or mask it in the model: pyro.poutine.mask, with "
            "torch.nan_to_num of the observed values."
        )


def find_not_finite(data: Mapping[str, Any]) -> NotFinite | None:
    """The values of these arguments that are not finite; None where all are."""
    count = number_of_rows(data)
    first: dict[str, tuple[tuple[int, ...], str]] = {}
    rows, infinite = set(), False
    for name, array in arrays(data):
        for index, word in not_finite(array, MOST):
            first.setdefault(name, (index, word))
            infinite |= word != "NaN"
            if has_rows(data.get(name), count):
                rows.add(index[0])
    return NotFinite(first, np.array(sorted(rows), dtype=np.int64), infinite) if first else None


def _mask_of(site: Any) -> Tensor:
    """Where a site counts, of the mask of its handler and of its distribution."""
    mask = torch.as_tensor(True if site["mask"] is None else site["mask"])
    own = getattr(site["fn"], "_mask", None)  # of Pyro's MaskedDistribution
    return mask if own is None else mask & torch.as_tensor(own)
