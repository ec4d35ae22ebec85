"""The user's data: a dict of the model's keyword arguments, checked, as tensors, by rows.

A mini-batch takes the same rows of every array whose first dimension is the number of rows N, the
longest first dimension among the arrays; other arrays and plain values go to the model whole, and
the model is told N by its argument `size`.
"""

from __future__ import annotations

import difflib
import inspect
import mmap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, SettingError

BLOCK = 262_144


def arguments(model: Callable[..., Any], data: Any) -> dict[str, Any]:
    """The data as the model's keyword arguments.

    Raises:
        DataError: not a mapping, a name the model does not take, or one it needs and does not get.
    """
    if not isinstance(data, Mapping):
        raise DataError(
            f"data must be a dict of the model's keyword arguments, not {type(data).__name__}: "
            "svi(model, guide, {'y': y, ...})."
        )
    signature = _signature(model)
    if signature is None:
        return dict(data)
    kinds = signature.parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in kinds)
    known = [p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in data:
        if name not in known and not open_ended:
            near = difflib.get_close_matches(str(name), known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" It takes {known}."
            raise DataError(f"data holds '{name}', which the model does not take.{hint}")
    needed = [p.name for p in kinds
              if p.default is p.empty and p.name in known and p.name not in data]  # fmt: skip
    if needed:
        raise DataError(f"The model needs {needed}, missing from data (which holds {list(data)}).")
    return dict(data)


def takes(model: Callable[..., Any], name: str) -> bool:
    """Whether the model has an argument of this name."""
    signature = _signature(model)
    return signature is not None and name in signature.parameters


def _signature(model: Callable[..., Any]) -> inspect.Signature | None:
    told = getattr(model, "__wrapped__", model)  # a function below its owner of parameters
    try:
        return inspect.signature(told.forward if isinstance(told, nn.Module) else told)
    except (TypeError, ValueError):
        return None


def check(data: Mapping[str, Any]) -> None:
    """Refuses empty arrays and values that are not finite, naming the first position.

    Raises:
        DataError: with the name and the index.
    """
    for name, value in data.items():
        if not is_array(value):
            continue
        array = value if isinstance(value, (Tensor, np.ndarray)) else _from_sequence(value)
        if 0 in array.shape:
            raise DataError(
                f"'{name}' is empty (shape {tuple(array.shape)}): give at least one row."
            )
        where = _first_not_finite(array)
        if where is not None:
            index, found = where
            raise DataError(
                f"'{name}' holds {found} at index {index}. Remove or impute the row, or mask it in "
                "the model (pyro.poutine.mask)."
            )


def is_array(value: Any) -> bool:
    """Whether the value is a tensor, an array or a list of what may be numbers."""
    return isinstance(value, (Tensor, np.ndarray, list, tuple)) and not isinstance(value, str)


def _first_not_finite(array: Any) -> tuple[tuple[int, ...], str] | None:
    for start in range(0, max(1, len(array) if np.ndim(array) else 1), BLOCK):
        block = array[start : start + BLOCK] if np.ndim(array) else array
        block = block.detach().cpu().numpy() if isinstance(block, Tensor) else np.asarray(block)
        if block.dtype.kind not in "fc":
            return None
        if not np.isfinite(block).all():
            index = np.argwhere(~np.isfinite(block))[0] if block.ndim else np.array([], int)
            found = str(block[tuple(index)])
            if len(index):
                index[0] += start
            return tuple(int(i) for i in index), "NaN" if found == "nan" else found
        forget_pages(array)
    return None


def _from_sequence(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"A list in data is ragged, so it cannot become an array: give lists of equal length "
            f"({error})."
        ) from error
    if array.dtype == object:
        raise DataError(
            "A list in data holds values that are not numbers: give numbers, or leave it out."
        )
    return array


def as_tensors(data: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arrays as tensors on the device, floating ones in dtype; everything else as it is."""
    return {name: as_tensor(value, dtype, device) for name, value in data.items()}


def as_tensor(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """One value: an array or a list of numbers as a tensor, anything else as it is."""
    if not is_array(value):
        return value
    if not isinstance(value, Tensor):
        array = np.asarray(value) if isinstance(value, np.ndarray) else _from_sequence(value)
        if array.dtype.kind not in "fiub":
            return value
        value = torch.from_numpy(np.array(array))
    value = value.detach()
    return value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)


def number_of_rows(data: Mapping[str, Any]) -> int:
    """N, the longest first dimension; 0 where no array has one."""
    return max((len(v) for v in data.values() if is_array(v) and np.ndim(v) > 0), default=0)


def has_rows(value: Any, count: int) -> bool:
    """Whether the value is an array with this many rows."""
    return is_array(value) and np.ndim(value) > 0 and len(value) == count


def find_device(device: str | torch.device | None, data: Any) -> torch.device:
    """The device asked for, or the one the data are on.

    Raises:
        SettingError: an unknown device, or one that is not there.
    """
    if device is None:
        tensors = [v for v in data.values() if isinstance(v, Tensor)] if isinstance(
            data, Mapping
        ) else []  # fmt: skip
        return tensors[0].device if tensors else torch.device("cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = "cpu" + (", cuda" if torch.cuda.is_available() else " (no CUDA device is visible)")
        raise SettingError(
            f"device={device!r} cannot be used ({str(error).splitlines()[0][:120]}). "
            f"Available: {there}."
        ) from error
    return found


def forget_pages(value: Any) -> None:
    """Tells the system that pages of a memory-mapped file need not stay resident."""
    mapped = getattr(value, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
