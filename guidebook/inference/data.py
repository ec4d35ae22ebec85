"""The user's data: a dict of the model's keyword arguments, checked, as tensors, by rows.

A mini-batch takes the same rows of every array whose first dimension is the number of rows N, the
longest first dimension among the arrays; other arrays and plain values go to the model whole, and
the model is told N by its argument `size`.
"""

from __future__ import annotations

import difflib
import inspect
import io
import mmap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, SettingError

PERMUTED_ROWS = 2_000_000
"""Up to this many rows an epoch visits each row once; beyond, rows are drawn with replacement, so
that memory does not grow with the number of rows."""
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
    try:
        return inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):
        return None


def check(data: Mapping[str, Any]) -> None:
    """Refuses empty arrays and values that are not finite, naming the first position.

    Raises:
        DataError: with the name and the index.
    """
    for name, value in data.items():
        if not _is_array(value):
            continue
        if 0 in np.shape(value):
            raise DataError(
                f"'{name}' is empty (shape {tuple(np.shape(value))}): give at least one row."
            )
        where = _first_not_finite(value)
        if where is not None:
            index, found = where
            raise DataError(
                f"'{name}' holds {found} at index {index}. Remove or impute the row, or mask it in "
                "the model (pyro.poutine.mask)."
            )


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, list, tuple)) and not isinstance(value, str)


def _first_not_finite(value: Any) -> tuple[tuple[int, ...], str] | None:
    array = value if isinstance(value, (Tensor, np.ndarray)) else _from_sequence(value)
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
        raise DataError(f"a list in data is ragged and makes no array: {error}.") from error
    if array.dtype == object:
        raise DataError("a list in data holds values that are not numbers.")
    return array


def as_tensors(data: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arrays as tensors on the device, floating ones in dtype; everything else as it is."""
    return {name: as_tensor(value, dtype, device) for name, value in data.items()}


def as_tensor(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """One value: an array or a list of numbers as a tensor, anything else as it is."""
    if not _is_array(value):
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
    return max((len(v) for v in data.values() if _is_array(v) and np.ndim(v) > 0), default=0)


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
            f"Here there is: {there}."
        ) from error
    return found


class Rows:
    """Mini-batches of the data, without copying it: `rows.batch(step)` is a dict of tensors.

    The rows of a step follow from (seed, step) alone, so a continued fit sees the same batches.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        batch_size: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
        with_size: bool,
    ) -> None:
        self.count = number_of_rows(data)
        if not 1 <= batch_size <= self.count:
            raise SettingError(
                f"batch_size={batch_size} is out of range: the data has {self.count} rows, so give "
                f"1 to {self.count}, or None for all rows at every step."
            )
        self.batch_size, self.seed, self.dtype, self.device = batch_size, seed, dtype, device
        self.by_row, self.whole = {}, {}
        for name, value in data.items():
            if _is_array(value) and np.ndim(value) > 0 and len(value) == self.count:
                self.by_row[name] = (
                    value if isinstance(value, (Tensor, np.ndarray)) else np.asarray(value)
                )
            else:
                self.whole[name] = as_tensor(value, dtype, device)
        if with_size:
            self.whole["size"] = self.count
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def indices(self, step: int) -> np.ndarray:
        """The rows of a step, (batch_size,)."""
        if self.count > PERMUTED_ROWS:
            return np.random.default_rng((self.seed, step)).integers(
                self.count, size=self.batch_size
            )
        per_epoch = self.count // self.batch_size
        epoch, place = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> dict[str, Any]:
        return self.take(self.indices(step))

    def take(self, index: np.ndarray) -> dict[str, Any]:
        result = dict(self.whole)
        for name, value in self.by_row.items():
            if isinstance(value, Tensor):
                piece = value.index_select(0, torch.from_numpy(index).to(value.device))
            else:
                piece = torch.from_numpy(_rows_of(value, np.sort(index)))
            result[name] = as_tensor(piece, self.dtype, self.device)
        return result


def _rows_of(array: Any, index: np.ndarray) -> np.ndarray:
    """These rows of an array; of a mapped file by reading them, not by way of the map.

    The system makes up to megabytes around every byte resident that is touched in a map, so a few
    thousand scattered rows would bring in the whole file.
    """
    mapped: Any = getattr(array, "_mmap", None)
    plain = isinstance(mapped, mmap.mmap) and array.flags.c_contiguous and len(index)
    if not plain or getattr(array, "mode", "c") == "c" or not getattr(array, "filename", None):
        return np.ascontiguousarray(array[index])
    place = array.__array_interface__["data"][0]
    place -= np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    place += array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    width = array.strides[0]
    found = np.empty((len(index), *array.shape[1:]), array.dtype)
    into = memoryview(found.data).cast("B")
    try:
        with io.FileIO(array.filename) as file:
            for number, row in enumerate(index):
                file.seek(place + int(row) * width)
                if file.readinto(into[number * width : (number + 1) * width]) != width:
                    raise OSError("the file is shorter than its map")
    except OSError:  # moved or replaced since it was mapped
        return np.ascontiguousarray(array[index])
    return found


def forget_pages(value: Any) -> None:
    """Tells the system that pages of a memory-mapped file need not stay resident."""
    mapped = getattr(value, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def chunks(
    data: Mapping[str, Any], size: int, device: torch.device, dtype: torch.dtype = torch.float64
) -> Iterator[dict[str, Any]]:
    """All rows once, in order, by at most `size`; arrays of other lengths come whole each time.

    Memory-mapped arrays are read as views and their pages are given back, so memory does not grow.
    """
    count = number_of_rows(data)
    by_row = {n: v for n, v in data.items() if _has_rows(v, count)}
    whole = {n: as_tensor(v, dtype, device) for n, v in data.items() if n not in by_row}
    for start in range(0, count, size):
        pieces = {n: v[start : start + size] for n, v in by_row.items()}
        yield {n: as_tensor(v, dtype, device) for n, v in pieces.items()} | whole
        for value in by_row.values():
            forget_pages(value)


def some_rows(
    data: Mapping[str, Any], most: int, seed: int, device: torch.device,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:  # fmt: skip
    """All rows, or `most` of them drawn by the seed where there are more."""
    count = number_of_rows(data)
    if count <= most:
        return as_tensors(data, dtype, device)
    chosen = np.random.default_rng(seed).choice(count, most, replace=False, shuffle=False)
    chosen.sort()
    taken = {
        n: (v[torch.from_numpy(chosen).to(v.device)] if isinstance(v, Tensor)
            else _rows_of(np.asanyarray(v), chosen))
        for n, v in data.items()
        if _has_rows(v, count)
    }  # fmt: skip
    for value in data.values():
        forget_pages(value)
    return as_tensors({**data, **taken}, dtype, device)


def _has_rows(value: Any, count: int) -> bool:
    return _is_array(value) and np.ndim(value) > 0 and len(value) == count
