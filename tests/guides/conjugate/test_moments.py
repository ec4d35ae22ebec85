"""Tilted moments: closed forms, sums over several columns, and the nodes of the quadrature."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from guidebook.guides.conjugate import moments
from guidebook.guides.conjugate.moments import (
    Tilted,
    clutter_moments,
    logistic_moments,
    probit_moments,
)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Y, MEAN, VARIANCE = numbers(0, 1, 1, 0), numbers(0.7, -2.0, 3.0, -4.0), numbers(0.5, 1.3, 9.0, 2.0)


def by_sums(log_factor: Any, mean: float, variance: float) -> tuple[float, float, float]:
    """log mass, mean and variance of exp(log_factor(s)) N(s; mean, variance) on a fine grid."""
    sd = math.sqrt(variance)
    s = np.linspace(mean - 14 * sd, mean + 14 * sd, 20_001)
    density = np.exp(log_factor(s)) * stats.norm(mean, sd).pdf(s)
    mass, first, second = (integrate.trapezoid(density * s**power, s) for power in range(3))
    return math.log(mass), first / mass, second / mass - (first / mass) ** 2


@pytest.mark.parametrize(
    ("found", "law"), [(probit_moments, special.log_ndtr), (logistic_moments, special.log_expit)]
)
def test_moments_of_several_rows_at_once_are_direct_sums(found: Any, law: Any) -> None:
    got = found(Y, MEAN, VARIANCE)
    for i in range(4):
        sign = 2 * float(Y[i]) - 1
        expected = by_sums(lambda s, c=sign: law(c * s), float(MEAN[i]), float(VARIANCE[i]))
        assert [float(column[i]) for column in got] == pytest.approx(expected, abs=1e-8)


def test_a_probit_row_far_on_the_right_side_changes_nothing() -> None:
    """Phi is 1 there, so the moments are those of the normal, and the variance never exceeds it."""
    found = probit_moments(numbers(1, 0), numbers(40, -40), numbers(2, 2))
    assert found.log_mass.tolist() == pytest.approx([0, 0], abs=1e-12)
    assert found.mean.tolist() == [40, -40]
    assert found.variance.tolist() == [2, 2]


@pytest.mark.parametrize("mean", [-1e3, -1e5, -1e7, -1e9, -1e15])
def test_a_probit_row_far_on_the_wrong_side_keeps_its_variance(mean: float) -> None:
    """Where Phi(s) is like exp(-s^2 / 2), mean and variance tend to m / (1 + v) and v / (1 + v)."""
    found = probit_moments(numbers(1), numbers(mean), numbers(3))
    assert float(found.mean) == pytest.approx(mean / 4, rel=1e-4)
    assert 0.75 * (1 - 1e-9) <= float(found.variance) <= 3
    if mean > -1e7:
        assert float(found.variance) == pytest.approx(0.75, rel=1e-4)


@pytest.mark.parametrize("sd", [30.0, 1000.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_a_logistic_row_far_on_the_wrong_side_moves_by_its_variance(y: float, sd: float) -> None:
    """There the sigmoid is exp(c s): log mass c m + v / 2, mean m + c v, and the variance is v."""
    sign, v = 2 * y - 1, sd**2
    found = logistic_moments(numbers(y), numbers(-2 * sign * v), numbers(v))
    assert float(found.log_mass) == pytest.approx(-1.5 * v, rel=1e-9)
    assert float(found.mean) == pytest.approx(-sign * v, rel=1e-9)
    assert float(found.variance) == pytest.approx(v, rel=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.8])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_a_logistic_row_whose_mode_lies_between(y: float, fraction: float) -> None:
    """At m = -f c v of a wide normal the density falls off as exp(-(1 - f) |s|) on one side of zero and
    as exp(-f |s|) on the other.
    """
    sign, v = 2 * y - 1, 1e6
    mean = -sign * fraction * v
    found = logistic_moments(numbers(y), numbers(mean), numbers(v))
    s = np.linspace(-400, 400, 80_001)
    log_density = special.log_expit(sign * s) - (s - mean) ** 2 / (2 * v)
    top = log_density.max()
    mass, first, second = (
        integrate.trapezoid(np.exp(log_density - top) * s**power, s) for power in range(3)
    )
    expected = math.log(mass) + top - 0.5 * math.log(2 * math.pi * v)
    assert float(found.log_mass) == pytest.approx(expected, rel=1e-9)
    assert float(found.mean) == pytest.approx(first / mass, abs=1e-4)
    assert float(found.variance) == pytest.approx(second / mass - (first / mass) ** 2, rel=1e-4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(rows, nodes, halvings) of every call of the quadrature, which is not done."""
    seen: list[tuple[int, int, int]] = []

    def look(sign: Tensor, mean: Tensor, sd: Tensor, nodes: int, halvings: int) -> Tilted:
        seen.append((len(sign), nodes, halvings))
        return Tilted(mean, mean, sd)

    monkeypatch.setattr(moments, "_logistic", look)
    return seen


@pytest.mark.parametrize(
    ("sd", "nodes", "halvings"),
    [(0.01, 128, 1), (1.0, 128, 1), (3.0, 128, 2), (100.0, 2500, 7), (7.0, 175, 3), (1e4, 20_000, 14)],
)  # fmt: skip
def test_nodes_are_0_8_apart_over_ten_standard_deviations_to_each_side(
    calls: list[tuple[int, int, int]], sd: float, nodes: int, halvings: int
) -> None:
    """At least 128 and at most 20,000; halvings bring c v to within one standard deviation."""
    logistic_moments(numbers(1, 0), numbers(0, 0), numbers(sd**2, 0.001))
    assert calls == [(2, nodes, halvings)]


def test_four_million_numbers_are_held_at_once(calls: list[tuple[int, int, int]]) -> None:
    wide = torch.full((201,), 1e8, dtype=torch.float64)  # 20,000 nodes a row
    found = logistic_moments(torch.ones_like(wide), torch.arange(201).double(), wide)
    assert [rows for rows, *_ in calls] == [200, 1]
    assert found.mean.tolist() == list(range(201))


def test_a_row_that_is_too_wide_for_the_memory_goes_by_itself(
    calls: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "NUMBERS_AT_ONCE", 100)
    logistic_moments(Y, MEAN, VARIANCE)
    assert [rows for rows, *_ in calls] == [1, 1, 1, 1]


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_clutter_in_two_columns_is_a_mixture_of_two_normals(share: float) -> None:
    """Of weights r and 1 - r, means m + g e and m, variances v (1 - v / (v + 1)) and v; the variance
    told is the average over the columns.
    """
    x = numbers(2.0, -1.0, 0.3, 4.0, -1.0, 0.5).reshape(3, 2)
    m, v, a = x.flip(0) - 0.5, numbers(3.0, 0.4, 1.2), 10.0
    found = clutter_moments(x, m, v, share, a)
    for i in range(3):
        wide = math.sqrt(float(v[i]) + 1)
        seen = (1 - share) * stats.norm(m[i].numpy(), wide).pdf(x[i].numpy()).prod()
        apart = share * stats.norm(0, math.sqrt(a)).pdf(x[i].numpy()).prod()
        r, g = seen / (seen + apart), float(v[i]) / (float(v[i]) + 1)
        of_seen = m[i] + g * (x[i] - m[i])
        mean = r * of_seen + (1 - r) * m[i]
        second = r * (g + of_seen.square()) + (1 - r) * (float(v[i]) + m[i].square())
        assert float(found.log_mass[i]) == pytest.approx(math.log(seen + apart), rel=1e-12)
        torch.testing.assert_close(found.mean[i], mean)
        variance = float((second - mean.square()).mean())
        assert float(found.variance[i]) == pytest.approx(variance, rel=1e-10)
