"""NEEDS A DOCSTRING: guidebook.inference.fits.running."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from guidebook.errors import SettingError


def bar_of(engine: str, total: int, shown: bool) -> Any:
    """A context with a function that moves a progress bar by one and shows the ELBO."""

    @contextlib.contextmanager
    def context() -> Iterator[Callable[[float], None]]:
        if not shown:
            yield lambda elbo: None
            return
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=engine, leave=False, disable=None) as bar:

            def move(elbo: float) -> None:
                bar.set_postfix(elbo=f"{elbo:.6g}", refresh=False)
                bar.update()

            yield move

    return context()


def check_whole(**given: tuple[Any, int]) -> None:
    """Raise SettingError for a setting (value, least) that is not a whole number of at least that."""
    for name, (value, least) in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingError(f"{name}={value!r} is out of range: give a whole number >= {least}.")
        if value >= 2**63:
            raise SettingError(f"{name}={value} is out of range: give a whole number below 2^63.")


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


@contextlib.contextmanager
def progress_bar(shown: bool, steps: int, done: int) -> Iterator[Callable[[int, float, str], None]]:
    """A bar with the objective and the active latent dimensions; calls (done, objective, active)."""
    if not shown:
        yield lambda done, objective, active: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=steps, initial=done, unit="step", desc="svi", leave=False, disable=None) as bar:

        def move(now: int, objective: float, active: str) -> None:
            told = {"active": active} if active else {}
            bar.set_postfix(objective=f"{objective:.4g}", **told, refresh=False)
            bar.update(now - bar.n)

        yield move
