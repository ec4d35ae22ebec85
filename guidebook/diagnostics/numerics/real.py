"""Real numbers out of an array of draws of any type, and the place of the first that is not sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from guidebook.errors import DataError

WORDS = {"U": "words", "S": "words", "T": "words", "M": "dates", "m": "durations"}


def real(what: str, held: np.ndarray) -> np.ndarray:
    """float64, or whole numbers (int64; true and false as 1 and 0).

    Arguments:
        what: names the array in the message.

    Raises:
        DataError: complex numbers, words, dates, and objects that are not real numbers.
    """
    kind = held.dtype.kind
    if kind == "O" and all(
        isinstance(x, (bool, int, float, np.number, np.bool_)) for x in held.flat
    ):
        held = np.array(held.tolist())
        kind = held.dtype.kind
    if kind == "c":
        raise DataError(
            f"{what} holds complex numbers. Give the real and the imaginary part as two variables."
        )
    if kind not in "fiub":
        found = WORDS.get(kind) or f"objects ({type(held.flat[0]).__name__})"
        raise DataError(
            f"{what} holds {found}, not numbers. Give numbers, or leave the variable out."
        )
    whole = kind in "ib" or (kind == "u" and held.dtype.itemsize < 8)
    return held.astype(np.int64 if whole else np.float64, copy=False)


def check_each(
    what: str, remedy: str, values: np.ndarray, sound: Callable[[np.ndarray], Any]
) -> None:
    """Raises DataError with the place of the first value (chain, draw, ...) that is not sound."""
    bad = np.argwhere(~np.asarray(sound(values)))
    if len(bad):
        chain, draw, *rest = map(int, bad[0])
        index = f", element {rest}" if rest else ""
        first = f"first {values[tuple(bad[0])]:g} in chain {chain}, draw {draw}{index}"
        raise DataError(f"{what}, {first}. {remedy}")
