"""The search for the mode, made once: for tests of what comes after it.

Every guide of one model and its data starts at the same mode. `tests/programs/test_mode.py` is about
the search itself.
"""

import contextlib
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace

import pytest
from torch import Tensor

from guidebook.programs.potential import Potential
from guidebook.programs.start import mode

_find_start = mode.find_start


def story_of(potential: Potential) -> Hashable:
    """What a start is found from: the model and the tensors of the data."""
    held = sorted((n, v) for n, v in potential.data.items() if isinstance(v, Tensor))
    return (potential.model, *((n, v.dtype, v.shape, v.numpy().tobytes()) for n, v in held))


@contextlib.contextmanager
def searched_once(
    found: dict[Hashable, mode.Start], key: Callable[[Potential], Hashable] = story_of
) -> Iterator[None]:
    """Inside the block a search is made where `found` has no start of this key, and kept there."""

    def find(potential: Potential, *iterations: int) -> mode.Start:
        name = (key(potential), *iterations)
        if name not in found:
            found[name] = _find_start(potential, *iterations)
        start = found[name]
        return replace(start, center=start.center.clone(), factor=start.factor.clone())

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("guidebook.") and vars(module).get("find_start") is _find_start:
                patch.setattr(module, "find_start", find)
        yield
