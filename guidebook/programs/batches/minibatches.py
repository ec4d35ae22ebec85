"""Mini-batches of rows drawn by a seed: rows without replacement, epoch after epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError
from guidebook.programs.data import as_tensors, check
from guidebook.programs.rows import Rows
from guidebook.programs.values.arrays import as_tensor

PERMUTED_ROWS = 2_000_000
"""Up to this many rows an epoch visits each row once; beyond, rows are drawn with replacement, so
that memory does not grow with the number of rows."""


class MiniBatches:
    """Mini-batches of rows, without copying the data: `batch(step)` is a dict of tensors.

    The rows of a step follow from (seed, step) alone, so a continued fit sees the same batches. With
    N rows and a batch B of them, an average over steps of N / |B| sum_{i in B} f(x_i) is the sum over
    all rows.

    Attributes:
        count: N; batch_size: |B|. seen: none, and no checksum: all rows are there from the beginning.
    """

    seen = 0, ""

    def __init__(
        self,
        rows: Rows,
        whole: dict[str, Any],
        batch_size: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`whole` goes to the model with every batch.

        Raises:
            SettingError: a batch size below 1 or above N.
        """
        self.rows, self.count = rows, len(rows)
        if not 1 <= batch_size <= self.count:
            raise SettingError(
                f"batch_size={batch_size} is out of range: the data has {self.count} rows, so give "
                f"1 to {self.count}, or None for all rows at every step."
            )
        self.batch_size, self.seed, self.dtype, self.device = batch_size, seed, dtype, device
        self.whole = as_tensors(whole, dtype, device)
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
        """The model's arguments at a step, counted from 0."""
        return self.take(self.indices(step))

    def head(self, most: int) -> dict[str, Any]:
        """The first rows, at most so many."""
        return self.take(np.arange(min(most, self.count)))

    def sample(self, most: int, seed: int) -> dict[str, Any]:
        """All rows, or about `most` drawn by the seed that stand for them; at least a batch."""
        count = min(self.count, max(most, self.batch_size))
        if count == self.count:
            return self.head(count)
        return self.take(np.random.default_rng(seed).integers(self.count, size=count))

    def take(self, index: np.ndarray) -> dict[str, Any]:
        """The model's arguments with these rows, (n,)."""
        taken = self.rows.take(index)
        return self.whole | {n: as_tensor(v, self.dtype, self.device) for n, v in taken.items()}


class Checked:
    """Rows of any source, asked for in rising order without repeats, and checked as they come."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.names = rows, tuple(rows.names)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> dict[str, Any]:
        """The rows in the order of the index.

        Raises:
            DataError: other names, another number of rows, or a value that is not finite.
        """
        places, inverse = np.unique(index, return_inverse=True)
        taken = self.rows.take(places)
        if set(taken) != set(self.names):
            raise DataError(
                f"take(index) returned {sorted(taken)}, and `names` lists {sorted(self.names)}: return an "
                "array for each name."
            )
        for name, value in taken.items():
            if np.ndim(value) == 0 or len(value) != len(places):
                raise DataError(
                    f"take(index) returned '{name}' of shape {tuple(np.shape(value))} for {len(places)} "
                    f"rows: its first dimension must be {len(places)}."
                )
        check(taken)
        return {n: _reordered(v, inverse) for n, v in taken.items()}


def _reordered(value: Any, order: np.ndarray) -> Any:
    if isinstance(value, Tensor):
        return value[torch.from_numpy(order).to(value.device)]
    return np.asarray(value)[order]
