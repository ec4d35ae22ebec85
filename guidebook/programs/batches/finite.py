"""Values that are not finite among the data, and whether the model masks all of them.

What counts is what the model scores. A NaN in an argument is as good as any other number where the model
masks it; a NaN that is observed, or that reaches a log density, is refused with its name and place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import DataError
from guidebook.programs.data import arrays, has_rows, number_of_rows
from guidebook.programs.sites import trace_at
from guidebook.programs.values.arrays import not_finite
from guidebook.scope import (
    local_parameters,
    precision,
    random_state,
    subsampling,
    validation,
)

MOST = 1000
"""Places of every array that are looked at."""


Places = Mapping[str, tuple[tuple[int, ...], str]]
"""Name of an argument to a place in it, and what stands there."""


@dataclass(frozen=True)
class NotFinite:
    """Places of values that are not finite.

    Attributes:
        first: name of an argument to the first place in it, and what stands there.
        rows: numbers of the rows that hold such values, (n,), of the arrays that come by rows.
        infinite: whether there are others than NaN.
    """

    first: Places
    rows: np.ndarray
    infinite: bool

    def check(
        self,
        model: Callable[..., Any],
        data: Mapping[str, Any],
        dtype: torch.dtype,
        rows: np.ndarray | None,
    ) -> None:
        """Runs the model once on data that hold these values; `rows`: on these rows alone.

        Raises:
            DataError: one of them is observed or makes a log density NaN, and is not masked; or the
                model fails.
        """
        with (
            local_parameters(), precision(dtype), validation(False), random_state(0),
            torch.no_grad(), subsampling(rows is not None),
        ):  # fmt: skip
            try:
                trace, _ = trace_at(model, data, None)
                trace.compute_log_prob()
            except Exception as error:  # whatever the user's model does with it
                words = " ".join(str(error).split())[:300]
                raise DataError(
                    f"{_refusal(self.first)} With it the model fails: {type(error).__name__}: {words}"
                ) from error
        for name, site in trace.nodes.items():
            if site["type"] != "sample":
                continue
            found = _observed_place(site)
            called = next((n for n, v in data.items() if v is site["value"]), name)
            if found is not None and called in self.first:
                place, word = found
                if rows is not None and place:
                    place = (int(rows[place[0]]), *place[1:])
                raise DataError(_refusal({called: (place, word)}))
            if found is not None or self._is_spoilt(site["log_prob"]):
                raise DataError(_refusal(self.first))

    def _is_spoilt(self, log_prob: Tensor) -> bool:
        return bool(log_prob.isnan().any()) or (self.infinite and bool(log_prob.isinf().any()))


def _refusal(places: Places) -> str:
    listed = " and ".join(f"'{n}' holds {w} at index {i}" for n, (i, w) in places.items())
    return (
        f"{listed}. Remove or impute the row, or mask it in the model: pyro.poutine.mask, with "
        "torch.nan_to_num of the observed values."
    )


def _observed_place(site: Any) -> tuple[tuple[int, ...], str] | None:
    """The place of the first value that is observed, counts, and is not finite; and the value."""
    value = site["value"]
    if not (site["is_observed"] and isinstance(value, Tensor) and value.is_floating_point()):
        return None
    mask = _mask_of(site)
    counts = mask.reshape((*mask.shape, *[1] * site["fn"].event_dim))
    value, counts = torch.broadcast_tensors(value, counts)
    for place in (~value.isfinite() & counts).nonzero()[:1].tolist():
        return tuple(place), str(float(value[tuple(place)])).replace("nan", "NaN")
    return None


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
