"""NEEDS A DOCSTRING: guidebook.programs.rows."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.programs.data import _is_array, as_tensor, as_tensors, forget_pages, number_of_rows

PERMUTED_ROWS = 2_000_000
"""Up to this many rows an epoch visits each row once; beyond, rows are drawn with replacement, so
that memory does not grow with the number of rows."""


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
