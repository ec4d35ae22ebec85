"""Rows of a data set, wherever they lie: some of them, all in order, a sample that stands for all.

What is read by rows has three things (`Rows`): how many rows there are, the names of what each of
them holds, and `take`, which reads some. `ArrayRows` is that of a dict of arrays, tensors and
memory-mapped files; for a table in HDF5, Zarr or Arrow a class with these three is all there is to
write:

    class Table:
        names = ("x",)
        def __init__(self, path): self.x = h5py.File(path)["x"]
        def __len__(self): return len(self.x)
        def take(self, index): return {"x": self.x[index]}

    svi(model, guide, Table("x.h5"), batch_size=128)
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from guidebook.programs.data import as_tensors, has_rows, number_of_rows
from guidebook.programs.values.arrays import as_tensor, forget_pages, native


@runtime_checkable
class Rows(Protocol):
    """N rows that can be read in any order; `names` are arguments of the model."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        """N."""

    def take(self, index: np.ndarray) -> Mapping[str, Any]:
        """The rows at these positions, (n,), rising and each once: name to an array (n, ...)."""


class ArrayRows:
    """Rows of a dict of arrays: those whose first dimension is N, the longest one.

    Rows of a file are read in rising order, and then those of every array are.

    Attributes:
        names: of the arrays that are read by row.
        whole: everything else, which goes to the model as it is.
        lists: of these the lists with an item a row, which are no arrays: they cannot be read by row.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._count = number_of_rows(data)
        self._by_row = {
            name: value if isinstance(value, Tensor) else np.asanyarray(value)
            for name, value in data.items()
            if has_rows(value, self._count)
        }
        self._rising = not all(isinstance(value, Tensor) for value in self._by_row.values())
        self.names = tuple(self._by_row)
        self.whole = {n: v for n, v in data.items() if n not in self._by_row}
        self.lists = [
            n for n, v in self.whole.items() if isinstance(v, list) and len(v) == self._count > 1
        ]

    def __len__(self) -> int:
        return self._count

    def take(self, index: np.ndarray) -> dict[str, Any]:
        """Copies of these rows, as tensors, the same rows in the same order for each name."""
        index = np.sort(index) if self._rising else index
        found: dict[str, Any] = {}
        for name, value in self._by_row.items():
            if isinstance(value, Tensor):
                found[name] = value.index_select(0, torch.from_numpy(index).to(value.device))
            else:
                found[name] = torch.from_numpy(native(_rows_of(value, index)))
        return found


class RowsLeft:
    """All rows but some: row i is the i-th of those that are left.

    Attributes:
        names: as of all rows.
    """

    def __init__(self, rows: Rows, apart: np.ndarray) -> None:
        """`apart`: the numbers of the rows that are left out, rising and each once."""
        self.names, self._rows, self._apart = rows.names, rows, apart
        self._below = apart - np.arange(len(apart))  # how many rows are left before each

    def __len__(self) -> int:
        return len(self._rows) - len(self._apart)

    def take(self, index: np.ndarray) -> Mapping[str, Any]:
        """These of the rows that are left."""
        return self._rows.take(index + np.searchsorted(self._below, index, side="right"))


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
    by_row = {n: v for n, v in data.items() if has_rows(v, count)}
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
        if has_rows(v, count)
    }  # fmt: skip
    for value in data.values():
        forget_pages(value)
    return as_tensors({**data, **taken}, dtype, device)
