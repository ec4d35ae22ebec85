r"""Schedules: plain functions of the progress t in [0, 1] of a fit, for weights and temperatures.

An objective that is given one has its value follow the steps of the fit: `t` is 0 at the first step
and 1 at the last; with steps="auto" at the last of those planned, and the end of the schedule is kept
from then on. Any function from float to float will do; these are the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guidebook.errors import SettingError

Schedule = Callable[[float], float]


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda t: value


def linear(start: float, stop: float, share: float = 1.0) -> Schedule:
    r"""From `start` to `stop` over the first `share` of the fit, and `stop` afterwards.

    .. math:: s(t) = a + (b - a) \min(1, t / c)

    `linear(0.0, 1.0, 0.2)` is the warm-up of the KL weight. Raises SettingError unless share is in
    (0, 1].

    Source: Bowman, Vilnis, Vinyals et al. (2016), Generating sentences from a continuous space.

    >>> [linear(0.0, 1.0, 0.5)(t) for t in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0]
    """
    _share(share)
    return lambda t: start + (stop - start) * min(1.0, t / share)


def cyclic(start: float, stop: float, cycles: int = 4, share: float = 0.5) -> Schedule:
    """The linear schedule repeated: each cycle rises during `share` of itself, then stays.

    Raises SettingError for less than one cycle, or a share outside (0, 1].

    Source: Fu, Li, Liu et al. (2019), Cyclical annealing schedule: a simple approach to mitigating
    KL vanishing.

    >>> [cyclic(0.0, 1.0, cycles=2)(t) for t in (0.0, 0.125, 0.4, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 0.0, 1.0]
    """
    if cycles < 1:
        raise SettingError(f"cycles={cycles}: give at least one.")
    rise = linear(start, stop, share)
    return lambda t: stop if t >= 1.0 else rise(t * cycles % 1.0)


def exponential(start: float, stop: float, share: float = 1.0) -> Schedule:
    r"""From `start` to `stop` by equal factors over the first `share` of the fit, then `stop`.

    .. math:: s(t) = a (b / a)^{\min(1, t / c)}

    Temperatures of relaxed categoricals fall along it. Raises SettingError unless both ends are
    positive and share is in (0, 1].

    Source: Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax.

    >>> [round(exponential(1.0, 0.25)(t), 6) for t in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.25]
    """
    _share(share)
    if not (0 < start < math.inf and 0 < stop < math.inf):
        raise SettingError(
            f"An exponential schedule from {start} to {stop} needs positive numbers at "
            "both ends: give those, or use linear(...)."
        )
    return lambda t: start * (stop / start) ** min(1.0, t / share)


def schedule_table(objective: Any, steps: int) -> Tensor:
    """The objective's scheduled numbers at every step, (steps, numbers) in the order of their names."""
    schedules = getattr(objective, "schedules", {}).values()
    places = [step / max(1, steps - 1) for step in range(steps)]
    rows = [[float(value(t)) for value in schedules] for t in places]
    return torch.tensor(rows, dtype=torch.float64)


def _share(share: float) -> None:
    if not 0 < share <= 1:
        raise SettingError(f"share={share} is a part of the fit: give a number in (0, 1].")
