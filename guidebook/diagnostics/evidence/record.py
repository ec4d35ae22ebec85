"""What a file says of the fit that its draws come from, checked: the group `vi_fit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.diagnostics.numerics.real import real
from guidebook.errors import DataError
from guidebook.inference.fits.status import Status

if TYPE_CHECKING:
    import xarray as xr

KINDS = ("density", "point", "chains", "particles")


def record(name: str, data: xr.Dataset) -> xr.Dataset:
    """The group vi_fit: how the fit was made and ended. Raises DataError for what cannot be so."""
    said = {key: scalar(value) for key, value in data.attrs.items()}
    said = {k: v for k, v in said.items() if v is not None and not (isinstance(v, str) and v == "")}
    known: dict[str, tuple[Callable[[Any], bool], str]] = {
        "kind": (lambda v: v in KINDS, f"one of {', '.join(KINDS)}"),
        "status": (lambda v: v in Status.__members__, f"one of {', '.join(Status.__members__)}"),
        "seconds": (lambda v: isinstance(v, (int, float)), "a number"),
        "discrete": (lambda v: isinstance(v, (int, float)) and v in (0, 1), "0 or 1"),
        "engine": (lambda v: isinstance(v, str), "a word"),
        "family": (lambda v: isinstance(v, str), "a word"),
        "notes": (_is_record, "a JSON object as text"),
    }
    for key, (holds, wanted) in known.items():
        if key in said and not (np.ndim(said[key]) == 0 and holds(said[key])):
            raise DataError(
                f"'{name}': the attribute '{key}' of vi_fit is {str(said[key])[:60]!r} and should be "
                f"{wanted}. Correct it, or leave the group out with drop_nodes('vi_fit')."
            )
    made = data.assign_attrs(said)
    made.attrs = said
    if "objective" in data.data_vars:
        history = data["objective"]
        if history.ndim != 1:
            raise DataError(
                f"'{name}': 'objective' in vi_fit has the dimensions {list(history.dims)}: give one value "
                "a step, or leave it out with drop_vars('objective')."
            )
        made["objective"] = history.copy(
            data=real(f"'{name}': 'objective' in vi_fit", history.values)
        )
    return made


def scalar(value: Any) -> Any:
    """What an attribute holds; netCDF files bring a single value as an array of one."""
    if isinstance(value, (np.ndarray, list, tuple)) and np.size(value) == 1:
        value = np.asarray(value).reshape(-1)[0]
    return value.item() if isinstance(value, np.generic) else value


def _is_record(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), dict)
    except ValueError:
        return False
