"""What a fit may be given as its data, and the mini-batches of each.

- a dict of arrays (or a tuple of positional arguments, or a table), with or without a batch size: rows
  drawn by the seed (`MiniBatches`);
- rows that are read (`guidebook.programs.rows.Rows`), with a batch size: the same;
- an iterable of batches, with the number `size` of all rows (`Stream`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from guidebook.errors import DataError, SettingError
from guidebook.programs.batches.finite import NotFinite, find_not_finite
from guidebook.programs.batches.minibatches import Checked, MiniBatches
from guidebook.programs.batches.stream import Stream
from guidebook.programs.data import (
    arguments,
    as_mapping,
    as_tensors,
    check_rows,
    number_of_rows,
    takes,
)
from guidebook.programs.rows import ArrayRows, Rows, RowsLeft
from guidebook.programs.values.fingerprint import fingerprint

SPREAD_ROWS = 200
"""Of data that are read by rows, read to tell them from others."""


class Batches(Protocol):
    """Mini-batches of `batch_size` rows that stand for `count` rows. `seen`: of batches that nothing tells
    beforehand, how many were read in the first pass, and their checksum.
    """

    count: int
    batch_size: int
    seen: tuple[int, str]

    def batch(self, step: int) -> dict[str, Any]:
        """The model's arguments at a step, counted from 0; the same at every call."""

    def head(self, most: int) -> dict[str, Any]:
        """The first rows, about so many."""

    def sample(self, most: int, seed: int) -> dict[str, Any]:
        """All rows, or about `most` that stand for them."""


@dataclass(frozen=True)
class Source:
    """Data that were admitted, and how they come: at once, by mini-batches, or as batches.

    Attributes:
        data: a checked dict, rows that are read, or an iterable of batches.
        batch_size: rows of a mini-batch; None for all rows at once, or what the iterable gives.
        size: N, of an iterable.
        apart: numbers of rows that are not among those that are read, rising; None: all are.
        not_finite: of a dict, the values that only a model that masks them can have; None without any.
    """

    data: Any
    batch_size: int | None
    size: int | None
    apart: np.ndarray | None = None
    not_finite: NotFinite | None = None

    @property
    def held(self) -> dict[str, Any] | None:
        """The dict; None of other sources, whose rows are not kept by a fit."""
        return self.data if isinstance(self.data, dict) else None

    @property
    def rows(self) -> ArrayRows | Checked | None:
        """All rows, those that are apart too; None of an iterable, whose rows have no numbers."""
        if self.held is not None:
            return ArrayRows(self.held)
        return Checked(self.data) if self.size is None else None

    def whole(
        self, dtype: torch.dtype, device: torch.device, index: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The arguments with these rows (n,) as tensors; None: with all that are not apart."""
        rows = self.rows
        if rows is None or (index is None and self.apart is None):
            return as_tensors(self.data, dtype, device)
        if index is None:
            index = np.setdiff1d(np.arange(len(rows)), self.apart if self.apart is not None else ())
        beside = rows.whole if isinstance(rows, ArrayRows) else {}
        return as_tensors({**beside, **rows.take(index)}, dtype, device)

    def checksums(self) -> dict[str, str]:
        """What tells the data from others, by name: all of a dict, some rows of those that are read, and
        nothing of an iterable, whose batches are seen as they come (`Batches.seen`).
        """
        if self.held is not None:
            return {name: fingerprint(value) for name, value in self.held.items()}
        if self.rows is None:
            return {}
        spread = np.linspace(0, len(self.rows) - 1, SPREAD_ROWS).astype(np.int64)
        return {n: fingerprint(v) for n, v in self.rows.take(np.unique(spread)).items()}

    def check_not_finite(
        self, model: Callable[..., Any], dtype: torch.dtype, device: torch.device, by_rows: bool
    ) -> None:
        """Whether the model masks what is not finite; `by_rows`: run on the rows that hold such values.

        Raises:
            DataError: it does not.
        """
        if self.not_finite is None or self.held is None:
            return
        rows = self.not_finite.rows if by_rows and len(self.not_finite.rows) else None
        given = self.whole(dtype, device, rows)
        if rows is not None and takes(model, "size"):
            given["size"] = number_of_rows(self.held)
        self.not_finite.check(model, given, dtype, rows)

    def batches(
        self, model: Callable[..., Any], seed: int, dtype: torch.dtype, device: torch.device
    ) -> Batches | None:
        """The mini-batches; None of a dict without a batch size. A model that takes `size` gets N.

        Raises:
            SettingError: a batch size out of range, or a model without `size` and batches of fewer
                than all rows.
            DataError: of a batch; see `Stream`.
        """
        sized = takes(model, "size")
        if self.batch_size is not None:
            found: Batches = self._drawn(sized, seed, dtype, device)
        elif self.size is not None:
            whole = {"size": self.size} if sized else {}
            found = Stream(self.data, self.size, whole, seed, dtype, device, model)
        else:
            return None
        if self.held is None:
            arguments(model, found.batch(0))
        if not sized and found.batch_size < found.count:
            raise SettingError(
                "Mini-batches need a model that takes size=None and gives it to its plate "
                '(pyro.plate("row", size, ...)): otherwise the ELBO of a batch is not an estimate '
                "of the full one."
            )
        return found

    def _drawn(
        self, sized: bool, seed: int, dtype: torch.dtype, device: torch.device
    ) -> MiniBatches:
        assert self.batch_size is not None
        found = self.rows
        for name in found.lists if isinstance(found, ArrayRows) else ():
            raise DataError(
                f"'{name}' is a list of as many items as there are rows, and no array of numbers: a batch "
                "takes its rows from arrays. Give a tensor (ragged items padded to one shape, with their "
                "lengths beside them), or leave batch_size out."
            )
        assert found is not None
        whole = dict(found.whole) if isinstance(found, ArrayRows) else {}
        rows: Rows = found if self.apart is None else RowsLeft(found, self.apart)
        if sized:
            whole["size"] = len(rows)
        return MiniBatches(rows, whole, self.batch_size, seed, dtype, device)


def admitted(
    model: Callable[..., Any], data: Any, *, batch_size: int | None, size: int | None
) -> Source:
    """The data as a source: a dict is checked now, whole; anything else as it is read.

    Raises:
        DataError: data of none of the three kinds; names or values of a dict.
        SettingError: `size` or `batch_size` where the data do not need it, or missing where they do.
    """
    by_name = None if size is not None and isinstance(data, tuple) else as_mapping(model, data)
    if by_name is not None:
        if size is not None:
            raise SettingError(
                f"size={size} is for an iterable of batches. The arrays of a dict have a known number "
                "of rows: leave size out, and give batch_size for mini-batches."
            )
        given = arguments(model, data)
        check_rows(given)
        return Source(given, batch_size, None, not_finite=find_not_finite(given))
    if isinstance(data, Rows):
        if batch_size is None or size is not None:
            raise SettingError(
                "Data read by take(index) come in mini-batches, and their number of rows is len(data): "
                "give batch_size, and leave size out."
            )
        return Source(data, batch_size, None)
    if size is None or not isinstance(data, Iterable):
        raise DataError(
            f"data must be a dict of the model's keyword arguments, not {type(data).__name__}: "
            "svi(model, guide, {'y': y, ...}); or a tuple of its positional arguments. An iterable of such "
            "dicts or tuples, one per batch, needs size=, the number of rows of the whole data set."
        )
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SettingError(f"size={size!r} is out of range: give a whole number >= 1.")
    if batch_size is not None:
        raise SettingError(
            f"batch_size={batch_size} is for a dict of arrays. An iterable of batches sets the rows of "
            "each batch itself: leave batch_size out."
        )
    return Source(data, None, size)
