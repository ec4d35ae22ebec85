"""How many chains the Hamiltonian run takes: what is affordable, and where the first suffice."""

import math
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.drift import Transport
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses import transport as room
from tests.diagnostics.witnesses.hamiltonian.posteriors import COVARIANCES, Gaussian, start, subject


@pytest.mark.parametrize(
    ("posteriors", "cost", "draws", "chains"),
    [
        (1, 1, 9000, 8192),
        (1, 1, 9, 9),
        (1, 277_777, 9000, 1000),  # 2e10 numbers, 72 gradients each
        (1, 10**9, 9000, 512),
        (2, 1, 2000, 1024),
        (2, 173_611, 2000, 200),  # of a fourth of them
        (2, 10**9, 2000, 64),
    ],
)
def test_how_many_chains_can_be_afforded(
    posteriors: int, cost: int, draws: int, chains: int
) -> None:
    density: Any = type("Counted", (Gaussian,), {"cost": cost})()

    def lacking(u: Tensor) -> tuple[Tensor, Tensor]:
        density.asked.append(len(u))
        return u[..., 0] / 0, u

    density.value_and_grad = lacking
    u = np.zeros((draws, posteriors, 1))
    assert room.transport(density, u, np.ones((posteriors, 1, 1))) is None
    assert density.asked == [chains]


class One(Gaussian):
    """The first of the two posteriors alone."""

    cost = 1

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = super().value_and_grad(u.expand(-1, 2, -1))
        return value[:, :1], grad[:, :1]


def test_more_chains_run_only_where_the_first_leave_it_open() -> None:
    """Tuned once, on the first; of all of them the moments are those of one run."""
    u = start(3000).numpy()[:, :1]
    for clear, chains in ((True, [2048]), (False, [2048, 952])):
        density: Any = One()
        seen: list[Transport] = []

        def asked(moved: Transport, clear: bool = clear, seen: list[Transport] = seen) -> bool:
            seen.append(moved)
            return clear

        found = room.transport(density, u, COVARIANCES[:1], 0, None, asked)
        assert found is not None and len(seen) == len(chains)
        assert [n for n in dict.fromkeys(density.asked) if n != 256] == chains
        sd = np.sqrt(np.diagonal(COVARIANCES[0]))
        error = 5 / math.sqrt(sum(chains))  # at five standard errors: 1e-6 each
        assert np.abs(found.sd[0] / sd - 1).max() < error
        assert found.shift_se.max() < 2 / math.sqrt(sum(chains))
    density = One()
    assert room.transport(density, u, COVARIANCES[:1]) is not None
    assert 3000 in density.asked and 2048 not in density.asked  # nobody is asked: all at once


@pytest.mark.parametrize(
    ("shift", "usable", "clear"),
    [
        (0.0, True, True), (0.0, False, True),  # right
        (0.07, True, False), (0.07, False, False),  # 0.07 + 2 * 0.02: open
        (0.3, True, False), (0.3, False, True),  # off: of use where the weights may mend it
    ],
)  # fmt: skip
def test_what_is_clear_after_the_first_chains(shift: float, usable: bool, clear: bool) -> None:
    one = np.ones((1, 2))
    moved = Transport(0 * one, one, shift * one, 0.02 * one, one, 0.01 * one, one > 0, np.ones(1))
    told = Testimony(importance.NAME, against_weighted=["" if usable else "Few are effective."])
    assert room._clear(subject(), {importance.NAME: told}, moved) is clear
    assert room._clear(subject(), {}, moved) is (shift != 0.07)
    unseen = Transport(**(vars(moved) | {"able": one < 0}))
    assert not room._clear(subject(), {}, unseen)
