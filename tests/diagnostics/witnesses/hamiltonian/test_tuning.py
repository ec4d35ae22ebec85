"""The step of the Hamiltonian run, tuned on its acceptance rate."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from guidebook.diagnostics.witnesses import transport as room
from tests.diagnostics.witnesses.hamiltonian.posteriors import COVARIANCES, Gaussian


def tuned(rate: Callable[[float], Any], state: Any = None) -> tuple[float | None, list[float]]:
    """The step chosen, and those that were tried, where step h is accepted rate(h) of the time."""
    tried = []

    class Rated(room._Hamiltonian):
        def transition(self, state: Any, step: float, length: float = 1.5) -> Any:
            tried.append(step)
            return state, np.atleast_1d(rate(step))

    nothing = torch.zeros(1, 1, 1)
    run = Rated(Gaussian(), COVARIANCES, 0)  # type: ignore[arg-type]
    return run.tuned_step(state or (nothing, nothing[0], nothing)), tried


@pytest.mark.parametrize(
    ("rate", "change"), [(0.5, -0.3), (0.2, -0.6), (0.21, -0.59), (0.19, -1.22), (0.05, -1.5)]
)
def test_the_logarithm_of_a_step_is_moved_by_the_error_of_its_rate(
    rate: float, change: float
) -> None:
    """rate - 0.8, twice that below 0.2; fifteen trials at most, and none below a thousandth."""
    step, tried = tuned(lambda _: rate)
    np.testing.assert_allclose(tried, np.exp(change * np.arange(15)))
    assert step == (tried[-1] if math.exp(14 * change) > 1e-3 else None)


def test_a_step_is_at_most_that_of_e_to_0_4() -> None:
    step, tried = tuned(lambda _: 1.0)
    np.testing.assert_allclose(tried, np.exp(np.minimum(0.2 * np.arange(15), 0.4)))
    assert step == pytest.approx(math.exp(0.4))


@pytest.mark.parametrize(
    ("rate", "trials"), [(0.8, 2), (0.8799, 2), (0.8801, 15), (0.7201, 2), (0.7199, 15)]
)
def test_a_rate_within_0_08_of_0_8_is_enough(rate: float, trials: int) -> None:
    """Of all posteriors together, from the second trial on."""
    step, tried = tuned(lambda _: [rate - 0.1, rate + 0.1])
    assert len(tried) == trials and step == tried[-1]


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_step_below_a_thousandth_is_none(factor: float) -> None:
    """Fourteen equal changes of the logarithm end at this many thousandths."""
    step, tried = tuned(lambda _: 0.8 + math.log(factor * 1e-3) / 14)
    assert tried[-1] == pytest.approx(factor * 1e-3)
    assert (step is None) is (factor < 1)


@pytest.mark.parametrize(("posteriors", "chains"), [(1, 256), (2, 128), (32, 8), (64, 8)])
def test_a_step_is_tuned_on_256_trajectories(posteriors: int, chains: int) -> None:
    seen = []

    class Seen(room._Hamiltonian):
        def transition(self, state: Any, step: float, length: float = 1.5) -> Any:
            seen.append([len(part) for part in state])
            return state, np.full(posteriors, 0.8)

    u = torch.zeros(300, posteriors, 1)
    Seen(Gaussian(), COVARIANCES, 0).tuned_step((u, u[..., 0], u))  # type: ignore[arg-type]
    assert seen == [[chains] * 3] * 2
