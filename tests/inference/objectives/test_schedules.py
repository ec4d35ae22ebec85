"""Schedules at their corners and between them."""

import math

import pytest

from guidebook.errors import SettingError
from guidebook.inference.objectives.schedules import constant, cyclic, exponential, linear


def test_constant() -> None:
    assert [constant(0.3)(t) for t in (0.0, 0.4, 1.0)] == [0.3] * 3


def test_linear_rises_during_its_share_and_stays() -> None:
    whole, part = linear(2.0, 5.0), linear(2.0, 5.0, 0.5)
    assert [whole(t) for t in (0.0, 0.5, 1.0)] == [2.0, 3.5, 5.0]
    assert [part(t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)] == [2.0, 3.5, 5.0, 5.0, 5.0]


def test_cyclic_rises_anew_in_every_cycle() -> None:
    four = cyclic(1.0, 3.0)  # four cycles, each rising during its first half
    assert [four(t) for t in (0.0, 1 / 16, 1 / 8, 0.2, 0.25, 5 / 16, 0.5, 0.75)] == [
        1.0, 2.0, 3.0, 3.0, 1.0, 2.0, 1.0, 1.0,
    ]  # fmt: skip
    assert four(1.0) == 3.0  # not the start of a fifth
    assert cyclic(0.0, 1.0, cycles=1, share=1.0)(0.9) == pytest.approx(0.9)


def test_exponential_falls_by_equal_factors() -> None:
    whole, part = exponential(2.0, 0.5), exponential(2.0, 0.5, 0.5)
    assert [whole(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.5])
    assert [part(t) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([2.0, 1.0, 0.5, 0.5])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_is_above_zero_and_at_most_one(share: float) -> None:
    for schedule in (linear, exponential):
        with pytest.raises(SettingError, match="share"):
            schedule(1.0, 2.0, share)
        assert schedule(1.0, 2.0, 1.0)(1.0) == 2.0 == schedule(1.0, 2.0, 0.01)(1.0)


def test_at_least_one_cycle() -> None:
    with pytest.raises(SettingError, match="cycles=0"):
        cyclic(0.0, 1.0, cycles=0)


@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.inf, 1.0), (1.0, math.inf)]
)
def test_an_exponential_has_positive_finite_ends(ends: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="exponential"):
        exponential(*ends)
    assert exponential(0.5, 0.25)(1.0) == 0.25
