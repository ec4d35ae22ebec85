r"""Rows held out of a fit: where a decoder is trained too, its bound on other rows says when to end.

A model with trained parameters overfits while the bound of its training rows rises. So a fit of
`steps="auto"` keeps a tenth of the rows apart, and goes on while the objective on those,

.. math:: b_i = - \frac{1}{n_i} \, \text{objective}(\text{the } n_i \text{ rows of group } i), \qquad
    i = 1, \dots, 10

(minus the ELBO, or another bound) in nats a row, truly rises from look to look: the difference of two
looks is paired, with the same rows and the same random numbers, and its standard error is that of ten
groups. The parameters are those of the end, or of the best look where the end is clearly below it. The
rows are not given back: so the bound that is stated is that of the parameters that are returned, on
rows that they have not seen (as with `validation_fraction` in scikit-learn).

Sources: Prechelt (1998), "Early stopping - but when?"; Wu, Burda, Salakhutdinov and Grosse (2017), "On
the quantitative analysis of decoder-based generative models" (bounds of held-out rows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.inference.gradient.course import descent
from guidebook.inference.protocols.rows import RowGuide, RowPosterior
from guidebook.programs.owned import parameters_of
from guidebook.programs.rows import ArrayRows, Rows
from guidebook.programs.statements import evaluated
from guidebook.scope import local_parameters, random_state, subsampling, validation

SHARE, MOST_ROWS, LEAST_OF_ALL = 0.1, 1000, 200
"""Rows held out: a tenth, at most 1,000, and none of fewer than 200: 20 rows tell nothing."""
GROUPS = 10
ROWS_AT_A_LOOK = 4000
"""Rows that a look evaluates: those held out, each with as many draws as that allows. A step of 128 rows
with its gradient costs a tenth of it, and there are about a dozen looks."""
LEAST = 0.01
"""Nats a row (and 0.01 % of the bound): a gain below it is none."""
GOES_ON, STILL, CLEAR = 1.0, 2.0, 3.0
"""Standard errors: to take another block, where a false alarm costs steps and a miss costs nats; to say at
the end that the bound still rises; and to say that it has fallen from the best of several looks."""
LOOKS = 100


Bounds = Callable[[Tensor], Tensor]
"""The bounds of the groups (10,) at some parameters (P,)."""


class Look(NamedTuple):
    """The number of steps taken, and the bounds of the groups (10,) then, nats a row."""

    step: int
    bounds: Tensor


class Change(NamedTuple):
    """Of the bound from one look to another, nats a row, with its standard error and the least that
    counts.
    """

    value: float
    error: float
    least: float

    def rises(self, errors: float) -> bool:
        """Whether the bound rose by more than these errors and more than the least."""
        return self.value > max(self.least, errors * self.error)

    def falls(self, errors: float) -> bool:
        """Whether it fell so."""
        return -self.value > max(self.least, errors * self.error)


def change(before: Tensor, now: Tensor) -> Change:
    """From the bounds of the groups (10,) at one look to those at another."""
    moved = now - before
    error = float(moved.std()) / math.sqrt(len(moved))
    return Change(float(moved.mean()), error, LEAST + 1e-4 * abs(float(now.mean())))


def rows_apart(
    model: Any, guide: Any, rows: Rows | None, batch_size: int | None, seed: int
) -> np.ndarray | None:
    """The rows to hold out, rising; None where the model has nothing to overfit with, where the latents
    are not those of single rows, or where the rows are few or cannot be read by number.
    """
    if rows is None or len(rows) < LEAST_OF_ALL or not isinstance(guide, RowPosterior | RowGuide):
        return None
    if isinstance(rows, ArrayRows) and rows.lists:
        return None  # their items belong to rows, and would stay whole
    if guide.observed not in rows.names or not any(p.requires_grad for p in parameters_of(model)):
        return None
    count = len(rows)
    apart = min(MOST_ROWS, int(SHARE * count))
    if batch_size is not None and batch_size > count - apart:
        return None
    chosen = np.random.default_rng((seed, 1)).choice(count, apart, replace=False, shuffle=False)
    return np.sort(chosen)


class HeldOut:
    """Rows that a fit does not see, and what the objective is on them at each look.

    Attributes:
        count, rest: how many rows, and how many the fit has left. groups: which rows are in each of ten
            groups, every one as often as draws are taken for it. looks: (100, 11), of each look the
            number of the step, and the bounds of the groups. kept: (P,), the parameters of the best look.
            Both belong in a checkpoint.
    """

    def __init__(
        self,
        objective: Any,
        data: Mapping[str, Any],
        names: Collection[str],
        rows: tuple[int, int],
        seed: int,
    ) -> None:
        """`data`: the model's arguments with these rows, `size` among them where it takes that;
        `names`: of those arguments that are held by row; `rows`: how many are held out, and are left.
        """
        self.objective, self.seed = objective, seed
        count, self.rest = rows
        self.count = count
        self.looks = torch.full((LOOKS, 1 + GROUPS), math.nan, dtype=torch.float64)
        self.kept = torch.zeros(0)
        draws = max(1, ROWS_AT_A_LOOK // count)
        self._data, self._names = data, names
        self.groups = [places.repeat(draws) for places in torch.arange(count).tensor_split(GROUPS)]

    def begin(self, flat: Tensor) -> None:
        """Makes room for parameters of this shape (P,)."""
        self.kept = torch.zeros_like(flat)

    def bounds(self, model: Any, guide: Any) -> Tensor:
        """Minus the objective, nats a row, of each group (10,), at the parameters of now."""
        with (
            local_parameters(), validation(False), evaluated(model, guide), torch.no_grad(),
            random_state(self.seed), subsampling(False),
        ):  # fmt: skip
            means = [
                self.objective.loss(model, guide, **_with_rows(self._data, self._names, rows))
                / len(rows)
                for rows in self.groups
            ]
        return -torch.tensor(means, dtype=torch.float64)

    def look(self, step: int, now: Tensor, flat: Tensor) -> Change | None:
        """Notes the bounds (10,) at the parameters flat (P,); the change from the best look before."""
        before = self.best
        found = None if before is None else change(before.bounds, now)
        if bool(now.isfinite().all()) and len(self.taken) < LOOKS:
            self.looks[len(self.taken)] = torch.cat([torch.tensor([step]), now])
            if before is None or bool(now.mean() > before.bounds.mean()):
                self.kept.copy_(flat)
        return found

    def rises(self, step: int, flat: Tensor, bounds: Bounds) -> bool:
        """Looks at the parameters flat (P,): whether the bound has risen since the best look before.

        The first look has nothing to be compared with, and a second one is asked for.
        """
        found = self.look(step, bounds(flat), flat)
        return found is None or found.rises(GOES_ON)

    def still_rises(self, first: Tensor, second: Tensor, bounds: Bounds) -> bool:
        """Whether the bound at the second half's parameters (P,) is clearly above that at the first's, and
        above that of the best look: else what rises is what was lost since.
        """
        now, best = bounds(second), self.best
        rises = change(bounds(first), now).rises(STILL)
        return rises and (best is None or change(best.bounds, now).rises(STILL))

    def ends(
        self, result: Tensor, bounds: Bounds, history: np.ndarray, window: int
    ) -> tuple[Tensor, dict[str, Any]]:
        """The parameters to return, (1, P), and what is noted of them: those of the end (1, P), or of the
        best look where the end is clearly below it. `window`: steps over which a look averages.
        """
        end, best = Look(len(history), bounds(result[0])), self.best
        chosen, told = end, dict[str, Any]()
        if best is not None:
            found = change(best.bounds, end.bounds)
            before, last = (history[at - window : at] for at in (best.step, end.step))
            if found.falls(CLEAR):
                chosen, result = best, self.kept[None]
                if not descent(before, last).flat:
                    told["overfitting"] = self._overfitting(best, found, before, last)
        error = float(chosen.bounds.std()) / math.sqrt(GROUPS)
        told |= {
            "held_out_rows": self.count,
            "held_out_bound": float(chosen.bounds.mean()),
            "held_out_error": error,
            "training_bound": -float(history[chosen.step - window : chosen.step].mean())
            / self.rest,
        }
        return result, told

    def _overfitting(self, best: Look, found: Change, before: np.ndarray, last: np.ndarray) -> str:
        mean, rest = float(best.bounds.mean()), self.rest
        return (
            f"Overfitting: after {best.step:,} steps the bound of {self.count:,} rows held out fell from "
            f"{mean:.4g} to {mean + found.value:.4g} nats a row (by {-found.value:.2g}, standard error "
            f"{found.error:.1g}), while that of the training rows rose from {-before.mean() / rest:.4g} "
            f"to {-last.mean() / rest:.4g}. The parameters are those of step {best.step:,}. Remedies: a "
            "smaller decoder, weight decay (pyro.optim.AdamW), or more data."
        )

    @property
    def taken(self) -> list[Look]:
        """All looks so far."""
        count = int(self.looks[:, 0].isfinite().sum())
        return [Look(int(row[0]), row[1:]) for row in self.looks[:count]]

    @property
    def best(self) -> Look | None:
        """The look of the highest bound; None before the first."""
        return max(self.taken, key=lambda look: float(look.bounds.mean()), default=None)


def _with_rows(data: Mapping[str, Any], names: Collection[str], index: Tensor) -> dict[str, Any]:
    """The model's arguments with these rows (n,), which stand for themselves alone."""
    taken = {
        name: value.index_select(0, index.to(value.device)) if name in names else value
        for name, value in data.items()
    }
    return taken | ({"size": len(index)} if "size" in data else {})
