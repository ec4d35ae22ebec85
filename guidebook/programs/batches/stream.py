"""An iterable of batches, such as a torch DataLoader, as a source of mini-batches.

The iterable gives dicts of the model's arguments and starts anew at every `iter(...)`; N, the number
of rows that all of it stands for, is said beside it, since an iterable does not know it. With n rows
in each batch an average over steps of N / n sum_{i in batch} f(x_i) is the sum over all rows, where
the iterable shows every row as often as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError
from guidebook.programs.data import as_mapping, as_tensors, check, has_rows, number_of_rows
from guidebook.programs.values.fingerprint import fingerprint
from guidebook.scope import alone

KEPT_ROWS = 500
"""Of the first batches, kept to be looked at when the fit is done."""


class Stream:
    """The batches of an iterable, step by step, pass after pass, checked as they come.

    Batch `step` is the next one, whatever pass it lies in. The iterable draws its random numbers
    (the shuffling of a DataLoader without a generator of its own) from a stream that follows from
    the seed and the number of the pass, apart from those of the fit.

    Attributes:
        count: N, as given; batch_size: the rows of every batch.
        seen: how many batches of the first pass were read so far, and their checksum.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        size: int,
        whole: dict[str, Any],
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
        model: Callable[..., Any],
    ) -> None:
        """Reads the first batch; `whole` goes to the model with every batch, whose arguments a batch that
        is a list or tuple holds in their order.

        Raises:
            SettingError: `size` is smaller than a batch.
            DataError: of the first batch.
        """
        if isinstance(batches, Iterator):
            raise DataError(
                f"The batches are a {type(batches).__name__}, which can be read only once, and a fit "
                "reads them in several passes. Give a DataLoader, a list, or an object whose __iter__ "
                "starts again at the first batch."
            )
        self.batches, self.count, self.whole, self.model = batches, size, whole, model
        self.seed, self.dtype, self.device = seed, dtype, device
        self._kinds: dict[str, Any] = {}
        self._kept: list[dict[str, Any]] = []
        self._restart()
        self.first = self._now = self._next()
        self.batch_size = number_of_rows(self.first)

    def batch(self, step: int) -> dict[str, Any]:
        """The model's arguments at a step, counted from 0.

        A step that lies before the last one asked for is reached from the beginning.

        Raises:
            DataError: the iterable ends at once; or a batch is no dict, holds other names, shapes or
                plain values than the first, or a value that is not finite.
            SettingError: a pass shows more rows than `size`.
        """
        if step == 0:
            return self.first
        if step < self._step:
            self._restart()
        while self._step < step:
            self._now = self._next()
        return self._now

    def head(self, most: int) -> dict[str, Any]:
        """The first batches that the fit has read, joined: about `most` rows, at most 500."""
        return self.first if most <= self.batch_size else self._joined(self._kept)

    def sample(self, most: int, seed: int) -> dict[str, Any]:
        """The first batches of a pass read for this alone, joined, until they hold `most` rows.

        Which rows come first is the iterable's choice, and not the seed's.
        """
        if most <= self.batch_size:
            return self.first
        settings = self.count, self.whole, self.seed, self.dtype, self.device, self.model
        again = Stream(self.batches, *settings)
        found = [again.first]
        while again._seen < most and (batch := again._following()) is not None:
            found.append(batch)
        return self._joined(found)

    def _joined(self, batches: list[dict[str, Any]]) -> dict[str, Any]:
        return self.first | {
            name: torch.cat([batch[name] for batch in batches])
            for name, value in self.first.items()
            if isinstance(value, Tensor) and has_rows(value, self.batch_size)
        }

    def _restart(self) -> None:
        self._step, self._pass, self.seen = -1, -1, (0, "")
        self._iterator: Iterator[Any] = iter(())
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._pass += 1
        self._number, self._seen = 0, 0
        entropy = np.random.SeedSequence((self.seed, self._pass)).generate_state(1, np.uint32)
        self._random = torch.Generator().manual_seed(int(entropy[0])).get_state()
        self._iterator = iter(())
        with alone(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            self._iterator = iter(self.batches)
            self._random = torch.get_rng_state()

    def _next(self) -> dict[str, Any]:
        batch = self._following()
        if batch is None and self._number:
            self._begin_pass()
            batch = self._following()
        if batch is None:
            raise DataError(
                f"The iterable of batches yielded no batch in pass {self._pass + 1}: it must yield all "
                "batches every time it is iterated. Give a DataLoader or a list."
            )
        self._step += 1
        if self._pass == 0:
            self.seen = self._step + 1, fingerprint((self.seen[1], batch))
        if self._step == len(self._kept) and self._seen <= KEPT_ROWS and self._pass == 0:
            self._kept.append(batch)
        return batch

    def _following(self) -> dict[str, Any] | None:
        """The next batch of this pass; None at its end."""
        with alone(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            found = next(self._iterator, None)
            self._random = torch.get_rng_state()
        return None if found is None else self._accepted(found)

    def _accepted(self, found: Any) -> dict[str, Any]:
        """The batch as tensors, with what goes to the model beside it."""
        self._number += 1
        where = f"Batch {self._number} of pass {self._pass + 1}"
        try:
            given = as_mapping(self.model, tuple(found) if isinstance(found, list) else found)
            if given is None:
                raise DataError(
                    f"it is a {type(found).__name__}, and must be a dict of the model's keyword arguments "
                    "or a tuple of its positional ones: give a Dataset of such items, or a collate_fn."
                )
            check(given)
            batch = as_tensors(given, self.dtype, self.device)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        kinds = {name: _kind(value) for name, value in batch.items()}
        self._kinds = self._kinds or kinds
        if kinds != self._kinds:
            raise DataError(f"{where} {_difference(self._kinds, kinds)}")
        self._seen += number_of_rows(batch)
        if self._seen > self.count:
            raise SettingError(
                f"size={self.count} is smaller than the {self._seen} rows that the first "
                f"{self._number} batches of a pass hold: size is the number of rows of the whole "
                "data set."
            )
        return batch | self.whole


def _kind(value: Any) -> Any:
    """What must be the same in every batch: the shape and dtype of a tensor, a plain value itself."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "SU":  # words may be of any length
        return value.shape, value.dtype.kind
    if isinstance(value, (Tensor, np.ndarray)):
        return tuple(value.shape), value.dtype
    if isinstance(value, (list, tuple)):
        return [_kind(one) for one in value]
    return {k: _kind(v) for k, v in value.items()} if isinstance(value, dict) else value


def _difference(first: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if set(first) != set(now):
        return f"holds {sorted(now)}, and the first batch {sorted(first)}: give all the same names."
    name = next(n for n in first if first[n] != now[n])
    return (
        f"has '{name}' of {now[name]}, and the first batch of {first[name]}: every batch must have "
        "the same shapes and plain values. A last batch with fewer rows is left out by "
        "DataLoader(..., drop_last=True)."
    )
