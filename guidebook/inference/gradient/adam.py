r"""Adam and its schedule: the rate of every step is known before the first one.

.. math:: m_t = b_1 m + (1 - b_1) g, \qquad v_t = b_2 v + (1 - b_2) g^2, \qquad
    \phi_t = \phi - \mathrm{rate}_t \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^t)} + \epsilon}

The result is the average of the last iterates, whose noise is smaller than that of any one of them.

Sources: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; Polyak and Juditsky 1992,
"Acceleration of stochastic approximation by averaging".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guidebook.programs.graphs.recorded import CannotRecord

AVERAGED = 0.2
"""The share of the steps, the last ones, whose iterates are averaged."""


@dataclass(frozen=True)
class Optimiser:
    """Adam: `rates` (steps,), its constants, and whether the last iterates are averaged."""

    rates: Tensor
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    averaged: bool = True


def schedule(rate: float, steps: int, least: float = 0.01) -> Tensor:
    """Constant for 30 % of the steps, then along a cosine to `least` of it, shape (steps,)."""
    place = torch.linspace(0, 1, steps, dtype=torch.float64)
    fall = ((place - 0.3) / 0.7).clamp(min=0)
    return rate * (least + (1 - least) * 0.5 * (1 + torch.cos(math.pi * fall)))


def schedule_table(objective: Any, steps: int) -> Tensor:
    """The objective's scheduled numbers at every step, (steps, numbers) in the order of their names."""
    schedules = getattr(objective, "schedules", {}).values()
    places = [step / max(1, steps - 1) for step in range(steps)]
    rows = [[float(value(t)) for value in schedules] for t in places]
    return torch.tensor(rows, dtype=torch.float64)


def adam_of(optim: Any) -> Callable[[int], Optimiser]:
    """Pyro's Adam as an Optimiser of a given number of steps, at its constant rate.

    Raises:
        CannotRecord: any other optimiser; the reference path runs it as it is.
    """
    options = getattr(optim, "pt_optim_args", None)
    kind = getattr(optim, "pt_optim_constructor", None)
    clipped = getattr(optim, "pt_clip_args", None)
    known = {"lr", "betas", "eps"}
    if kind is not torch.optim.Adam or not isinstance(options, dict) or clipped:
        raise CannotRecord("pyro.optim.Adam({...}) is the only optimiser that can be recorded")
    if set(options) - known:
        raise CannotRecord(f"Adam's options {sorted(set(options) - known)} cannot be recorded")
    b1, b2 = options.get("betas", (0.9, 0.999))

    def of(steps: int) -> Optimiser:
        rates = torch.full((steps,), float(options.get("lr", 1e-3)), dtype=torch.float64)
        return Optimiser(rates, b1, b2, options.get("eps", 1e-8), averaged=False)

    return of
