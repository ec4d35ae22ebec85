"""The loop of an engine: numbered steps, one progress bar, one interruption; and whole numbers checked.

Ctrl-C does not break a step in two. It sets a flag that the loop reads, so that the engine ends with
what it has; a second Ctrl-C interrupts at once, as Python does.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from guidebook.errors import SettingError

MOST = 20_000_000
"""Steps of a fit whose objective is kept, and draws that are held at once."""


def check_whole(**given: tuple[Any, int] | tuple[Any, int, int]) -> None:
    """Raise SettingError for a setting (value, least) or (value, least, most) that is no such number."""
    for name, (value, least, *most) in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingError(f"{name}={value!r} is out of range: give a whole number >= {least}.")
        if value >= 2**63:
            raise SettingError(f"{name}={value} is out of range: give a whole number below 2^63.")
        if most and value > most[0]:
            raise SettingError(
                f"{name}={value} is out of range: so many are kept in memory, at most {most[0]:,}."
            )


class Steps:
    """Iterates over the numbers of the steps, from `done` to `total` - 1, until Ctrl-C.

    Attributes:
        total, done: all steps, and those that lie behind.
        stopped: whether Ctrl-C was pressed; a long step may read it and end early.
    """

    def __init__(self, total: int, done: int, stop: threading.Event, bar: Any) -> None:
        self.total, self.done = total, done
        self._stop, self._bar = stop, bar

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def __iter__(self) -> Iterator[int]:
        while self.done < self.total and not self.stopped:
            yield self.done
            self.advance()

    def advance(self, steps: int = 1) -> None:
        """Counts steps taken; iterating does it by itself, one at a time."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(steps)

    def plan(self, total: int) -> None:
        """There will be so many steps."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def show(self, **values: float | str) -> None:
        """Numbers and words beside the bar; those that are not finite or empty are left out."""
        if self._bar is None:
            return
        words = {name: _written(value) for name, value in values.items()}
        self._bar.set_postfix({name: word for name, word in words.items() if word}, refresh=False)


def _written(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""


@contextlib.contextmanager
def counted(
    engine: str, total: int, *, shown: bool, unit: str = "step", done: int = 0
) -> Iterator[Steps]:
    """The steps of an engine; with a progress bar if it is `shown` and the screen is a terminal."""
    with stoppable() as stop:
        if not shown:
            yield Steps(total, done, stop, None)
            return
        from tqdm.auto import tqdm

        with tqdm(
            total=total, initial=done, desc=engine, unit=unit, leave=False, disable=None
        ) as bar:
            yield Steps(total, done, stop, bar)


@contextlib.contextmanager
def said(words: str, *, shown: bool) -> Iterator[None]:
    """A line that stays while something without steps of its own goes on, where a bar would be shown."""
    if not shown:
        yield
        return
    from tqdm.auto import tqdm

    with tqdm(desc=words, bar_format="{desc} ...", leave=False, disable=None):
        yield


@contextlib.contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so a step is never left half done; a second Ctrl-C interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
