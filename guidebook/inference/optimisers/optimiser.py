r"""What an optimiser is: a rule, its numbers at every step, and what it keeps of each parameter.

.. math:: g \to \min(1, c / (\|g\| + 10^{-6}))\, g, \qquad g \to \max(-d, \min(d, g)), \qquad
    s_t, \Delta_t = \mathrm{rule}(s_{t-1}, g, \phi_{t-1}; \mathrm{numbers}_t), \qquad
    \phi_t = \phi_{t-1} - \Delta_t

The norm is that of one parameter of the program, as in `pyro.optim.PyroOptim`, where each has an
optimiser of its own; c and d are infinite unless clipping was asked for.

All numbers are known before the first step. One that is the same at all steps and for all parameters is
a constant of the recorded step; one that is not is a table, which the step reads at its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Numbers = Mapping[str, Any]
"""Options of a rule by name: a number, or a tensor that broadcasts against the parameters (R, P)."""

NOWHERE = torch.zeros(0, dtype=torch.long)

CLIPS = ("norm_limit", "value_limit")
"""The names among `Numbers` of the two limits of a gradient."""


class Rule(NamedTuple):
    """A kind of optimiser.

    Attributes:
        options: the names of torch's options that it reads.
        keeps: (numbers) -> the names of the tensors that it keeps, shaped as the parameters, zero at first.
        tables: (numbers, t) -> what it needs of every step, float64; t = 1, 2, ... has the shape (steps,)
            or (steps, 1), and numbers may be tables (steps,) or (steps, groups).
        update: (phi, gradient, kept, numbers and tables of this step) -> the move; writes into kept.
    """

    options: tuple[str, ...]
    keeps: Callable[[Numbers], tuple[str, ...]]
    tables: Callable[[Numbers, Tensor], dict[str, Tensor]]
    update: Callable[[Tensor, Tensor, Mapping[str, Tensor], Numbers], Tensor]


@dataclass(frozen=True)
class Optimiser:
    """A rule with its numbers.

    Attributes:
        rates: the rate of every step, (steps,), or (steps, groups) where groups of parameters differ.
        numbers: the other options: constants, or tables of the shape of `rates`.
        averaged: whether the rate is constant and then falls, and the last iterates are averaged.
        parameter, group: (P,), which parameter of the program each entry belongs to, and which group;
            they are read where a norm is clipped, or groups differ.
    """

    rule: Rule
    rates: Tensor
    numbers: Numbers
    averaged: bool = True
    parameter: Tensor = NOWHERE
    group: Tensor = NOWHERE

    def keeps(self) -> tuple[str, ...]:
        """The names of the tensors (R, P) that a step keeps."""
        return self.rule.keeps(self.numbers)

    def tables(self, rates: Tensor) -> dict[str, Tensor]:
        """What every step needs, by name, each as long as `rates`, for rates that are not those planned."""
        t = torch.arange(1, len(rates) + 1, dtype=torch.float64)
        numbers = {**self.numbers, "lr": rates}
        varied = {k: v for k, v in self.numbers.items() if isinstance(v, Tensor)}
        made = self.rule.tables(numbers, t.view(-1, *[1] * (rates.dim() - 1)))
        return {
            name: table.expand_as(rates).contiguous() for name, table in (varied | made).items()
        }

    def settings(self) -> dict[str, Any]:
        """All that makes two optimisers of one rule different."""
        return {**self.numbers, "rates": self.rates, "group": self.group}

    def move(
        self, flat: Tensor, grad: Tensor, kept: Mapping[str, Tensor], tables: Mapping[str, Tensor],
        place: Tensor,
    ) -> Tensor:  # fmt: skip
        """What is subtracted from the parameters (R, P) at a step, `place` (1,); writes into `kept`."""
        at = {name: self._spread(t.index_select(0, place)) for name, t in tables.items()}
        numbers = {**self.numbers, **at}
        return self.rule.update(flat, self._clipped(grad, numbers), kept, numbers)

    def _spread(self, value: Tensor) -> Tensor:
        """The value of every entry, (1, P), where groups differ; as it is, (1,), where they do not."""
        return value if value.dim() == 1 else value.index_select(1, self.group)

    def _clipped(self, grad: Tensor, numbers: Numbers) -> Tensor:
        norm, most = (numbers.get(name, math.inf) for name in CLIPS)
        if isinstance(norm, Tensor) or norm < math.inf:
            squares = torch.zeros_like(grad).index_add(1, self.parameter, grad * grad)
            norms = squares.sqrt().index_select(1, self.parameter)
            grad = grad * (norm / (norms + 1e-6)).clamp(max=1.0)
        if isinstance(most, Tensor) or most < math.inf:
            grad = grad.clamp(-most, most)
        return grad


def blend(mean: Tensor, keep: Any, grad: Tensor) -> Tensor:
    """mean = keep mean + (1 - keep) grad, in place; 0 where that is subnormal.

    The mean of a dead unit falls by a tenth a step, after some thousand to subnormal numbers, which slow a
    processor down; and there it stays, because 0.9 of the least rounds up.
    """
    if isinstance(keep, Tensor):
        mean.mul_(keep).add_((1 - keep) * grad)
    else:
        mean.mul_(keep).add_(grad, alpha=1 - keep)
    return mean.mul_(mean.abs() >= torch.finfo(mean.dtype).tiny)


def blend_square(mean: Tensor, keep: Any, grad: Tensor) -> Tensor:
    """mean = keep mean + (1 - keep) grad^2, in place."""
    if isinstance(keep, Tensor):
        return mean.mul_(keep).add_((1 - keep) * grad * grad)
    return mean.mul_(keep).addcmul_(grad, grad, value=1 - keep)


def asked(number: Any) -> bool:
    """Whether an option is anything but zero; one that is a table is, somewhere."""
    return isinstance(number, Tensor) or bool(number != 0)
