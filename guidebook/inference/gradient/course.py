r"""How many steps: a number that was given, or as many as the objective truly falls.

With N planned steps, whose first h have a constant rate, `steps="auto"` takes

.. code-block:: text

    | schedules of the objective | constant rate: h steps, then blocks | the rate falls: N - h steps |

A phase of L steps at the constant rate, L = h at first, goes on by another block of L / 3 steps while
the objective is truly lower in its last quarter, which is the last block, than in the quarter before; it
may also be judged on rows held out (`guidebook.inference.gradient.held_out`). With blocks that grow, a
slow descent is measured over ever longer windows. A fit whose first
h steps end flat takes exactly N steps, at the rates of a fit that was given steps=N. A fit that moves
at the end of the fall begins another round, once; at most `BUDGET` N steps are taken.

The rate is constant until the objective is stationary, and then falls, as in Welandawe, Andersen,
Vehtari and Huggins (2022), "Robust, automated, and accurate black-box variational inference"; a fall of
fixed length after a constant phase of any length does as well as a schedule made for that length:
Haegele et al. (2024), "Scaling laws and compute-optimal training beyond fixed training durations".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.inference.optimisers.adam import AVERAGED

BUDGET = 10
"""Most steps, in planned ones."""
ROUNDS = 2
"""Constant rate and fall, at most so many times."""


class Course:
    """The plan of a fit's steps. All that changes lies in `place`, which a checkpoint holds.

    Attributes:
        planned: N. auto: whether the plan may grow. budget: most steps.
        place: (5,) whole numbers: where the present round begins; steps at the constant rate beyond
            those planned; 0 while the rate is constant, 1 in a fall, 2 in one that the budget began;
            rounds that are over; the step at which the plan last grew.
    """

    def __init__(self, rates: Tensor, table: Tensor, falls: bool, auto: bool) -> None:
        """`rates` (N,) and `table` (N, numbers) as planned; `falls`: whether the rates do, at the end."""
        self.planned, self.auto = len(rates), auto
        self.budget = BUDGET * self.planned if auto else self.planned
        self._rates, self._table = rates, table
        self._steady = int((rates == rates[0]).sum()) if falls else self.planned
        moving = (table != table[-1]).any(-1).nonzero() if auto else torch.zeros(0)
        rest = int(moving.max()) + 1 if moving.numel() else 0
        self.place = torch.tensor([rest, 0, int(not auto), 0, 0])

    @property
    def origin(self) -> int:
        """Where the present phase of constant rate begins: after the objective's schedules."""
        return int(self.place[0])

    @property
    def hold(self) -> int:
        """Where the present phase of constant rate ends, as planned now."""
        return self.origin + int(self.place[1]) + self._steady

    @property
    def end(self) -> int:
        """The number of all steps, as planned now."""
        return self.planned if not self.auto else self.hold + self.planned - self._steady

    @property
    def falling(self) -> bool:
        """Whether the phase of constant rate is over."""
        return bool(self.place[2])

    @property
    def until(self) -> int:
        """The step before which nothing has to be decided."""
        return self.end if self.falling else self.hold

    @property
    def window(self) -> int:
        """A quarter of the present phase of constant rate: what is compared with the quarter before."""
        return (self.hold - self.origin) // 4

    @property
    def looked_at(self) -> int:
        """The last steps of a phase of constant rate, whose average is what is looked at."""
        return max(2, int(AVERAGED * self._steady))

    @property
    def halves(self) -> tuple[int, int]:
        """Where the steps begin whose parameters are averaged before `until`, and their second half."""
        last = self.falling or self._steady == self.planned
        length = max(2, int(AVERAGED * self.planned)) if last else self.looked_at
        return self.until - length, (2 * self.until - length) // 2

    @property
    def spent(self) -> bool:
        """Whether the budget ended the phase of constant rate, and not the objective."""
        return int(self.place[2]) == 2

    @property
    def grew(self) -> int:
        """The step at which the plan last grew; 0 before."""
        return int(self.place[4])

    def rates(self) -> Tensor:
        """The rate of every step as planned now, (budget,)."""
        before = self._rates[:1].expand(self.end - self.planned)
        after = self._rates[:1].expand(self.budget - self.end)
        return torch.cat([before, self._rates, after])

    def rate(self, step: int) -> float:
        """The rate of a step."""
        place = step - (self.end - self.planned)
        return float(self._rates[min(max(place, 0), self.planned - 1)])

    def table(self) -> Tensor:
        """The objective's scheduled numbers at every step, (budget, numbers)."""
        after = self._table[-1:].expand(self.budget - self.planned, -1)
        return torch.cat([self._table, after])

    def is_over(self, done: int, falls: Callable[[], bool], arrived: Callable[[], bool]) -> bool:
        """Plans on where a phase has just ended; whether no step is left.

        `falls`, whether the objective does, is asked at the end of a block at the constant rate;
        `arrived` at the end of a fall of the rate.
        """
        while done == self.until:
            if not self.falling:
                block = (self.hold - self.origin) // 3
                goes_on, room = falls(), min(block, self.budget - self.end)
                if goes_on and room >= self.looked_at:
                    self.place[1] += room
                    self.place[4] = done
                else:
                    self.place[2] = 2 if goes_on else 1
            elif self._has_round() and not arrived():
                self.place.copy_(torch.tensor([done, 0, 0, int(self.place[3]) + 1, done]))
            else:
                return True
        return False

    def words(self, held_out: bool = False) -> dict[str, str]:
        """What a fit notes of how its phase of constant rate ended; nothing of a number that was given."""
        if not self.auto:
            return {}
        what = "the bound of the rows held out" if held_out else "the ELBO (or other objective)"
        at = " at the constant rate" if self._steady < self.planned else ""
        said = f"After {self.hold:,} steps{at} {what} no longer rose."
        if self.spent:
            said = (
                f"After {self.hold:,} steps{at} {what} was still rising, and the budget "
                f"of {self.budget:,} steps was spent. Give steps= a larger number."
            )
        return {"ended": said}

    def _has_round(self) -> bool:
        left = int(self.place[3]) + 1 < ROUNDS and self.window > 0  # else too short to be judged
        return self.auto and left and self.end + self.planned <= self.budget


class Descent(NamedTuple):
    """By how much the mean objective of some steps is below that of the steps before, nats."""

    value: float
    error: float
    least: float

    @property
    def flat(self) -> bool:
        """Whether it is not clearly below: by more than 0.1 nat and 0.01 % and more than four standard
        errors (of 20 batch means).
        """
        return self.value < max(self.least, 4 * self.error)


def descent(before: np.ndarray, last: np.ndarray) -> Descent:
    """From the objective at some steps to that at later ones."""
    error = math.hypot(_batch_error(before), _batch_error(last))
    mean = float(last.mean())
    return Descent(float(before.mean()) - mean, error, 0.1 + 1e-4 * abs(mean))


def still_falls(history: np.ndarray, window: int) -> bool:
    """Whether the objective's mean over the last `window` steps is clearly below the one before."""
    return window > 0 and not descent(history[-2 * window : -window], history[-window:]).flat


def _batch_error(values: np.ndarray) -> float:
    means = [part.mean() for part in np.array_split(values, min(20, len(values)))]
    return float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else 0.0
