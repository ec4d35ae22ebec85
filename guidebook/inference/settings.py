"""Settings that are whole numbers: steps, draws, seeds, restarts, chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from guidebook.errors import SettingError


def check_whole(**given: tuple[Any, int]) -> None:
    """Raise SettingError for a setting (value, least) that is not a whole number of at least that."""
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingError(f"{name}={value!r} is out of range: give a whole number >= {least}.")
        if value >= 2**63:
            raise SettingError(f"{name}={value} is out of range: give a whole number below 2^63.")
