"""The progress bar of engines that count sweeps, iterations or steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


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
