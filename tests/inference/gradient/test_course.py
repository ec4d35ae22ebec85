"""The plan of the steps: at most its budget, today's rates where nothing is added, blocks by thirds."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from guidebook.inference.gradient.course import BUDGET, Course, descent, still_falls
from guidebook.inference.optimisers.adam import AVERAGED, schedule

N = 1000
NO_TABLE = torch.zeros(N, 0)


def course(auto=True, falls=True, table=NO_TABLE):
    rates = schedule(0.01, N) if falls else torch.full((N,), 0.01, dtype=torch.float64)
    return Course(rates, table, falls, auto)


def walked(plan, falls=lambda: False, arrived=lambda: True):
    """The steps at which something was decided, until the last."""
    stops = []
    while not plan.is_over(plan.until, falls, arrived):
        stops.append(plan.until)
        assert len(stops) < 100
    return stops


def test_a_number_is_taken_to_the_letter():
    plan = course(auto=False)
    assert plan.until == plan.end == plan.budget == N
    assert plan.is_over(N, lambda: True, lambda: False)
    assert torch.equal(plan.rates(), schedule(0.01, N))
    assert plan.words() == {}


def test_a_flat_start_takes_the_planned_steps_at_the_planned_rates():
    plan = course()
    assert plan.until == 300
    assert walked(plan) == [N]
    assert torch.equal(plan.rates()[:N], schedule(0.01, N))
    assert plan.halves == (800, 900)


def test_the_phase_grows_by_a_third_and_the_fall_is_the_planned_one():
    plan, answers = course(), iter([True, True, False])
    assert walked(plan, lambda: next(answers)) == [400, 533, 533 + 700]
    assert plan.grew == 400
    rates = plan.rates()
    np.testing.assert_array_equal(rates[:533], 0.01)
    assert torch.equal(rates[233:1233], schedule(0.01, N))
    assert [plan.rate(s) for s in (0, 532, 900, 1232)] == [
        float(rates[s]) for s in (0, 532, 900, 1232)
    ]
    assert "After 533 steps" in plan.words()["ended"]


def test_without_a_falling_rate_the_planned_steps_are_the_first_phase():
    plan, answers = course(falls=False), iter([True, False])
    assert plan.until == N
    assert walked(plan, lambda: next(answers)) == [N + 333]
    assert plan.end == N + 333
    assert bool((plan.rates() == 0.01).all())
    length = int(AVERAGED * N)
    assert plan.halves == (N + 333 - length, (2 * (N + 333) - length) // 2)


def test_the_budget_is_never_exceeded_and_is_said():
    plan = course()
    walked(plan, lambda: True)
    assert plan.spent and BUDGET * N - plan.looked_at < plan.end <= BUDGET * N
    assert "budget of 10,000 steps" in plan.words()["ended"]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_answered_the_course_ends_within_its_budget(seed):
    rng = np.random.default_rng(seed)
    plan = course(falls=bool(seed % 2))
    stops = walked(plan, lambda: rng.random() < 0.8, lambda: rng.random() < 0.5)
    assert stops == sorted(stops) and plan.end <= plan.budget
    assert len(plan.rates()) == plan.budget


def test_a_fit_that_still_moves_begins_another_round_once():
    plan = course()
    assert walked(plan, arrived=lambda: False) == [N, N + 300, 2 * N]
    rates = plan.rates()
    assert torch.equal(rates[N : 2 * N], schedule(0.01, N))
    assert plan.origin == N


def test_schedules_of_the_objective_come_before_the_phase():
    """A weight that rises over the first fifth of the planned steps is at rest from step 200 on."""
    weight = (torch.arange(N, dtype=torch.float64) / 200).clamp(max=1)[:, None]
    plan = course(table=weight)
    assert (plan.origin, plan.until) == (200, 500)
    assert walked(plan) == [N + 200]
    assert torch.equal(plan.table()[:N], weight)
    assert bool((plan.table()[N:] == 1).all())


def test_place_is_all_that_a_course_remembers():
    plan, answers = course(), iter([True, True, False])
    walked(plan, lambda: next(answers))
    again = course()
    again.place.copy_(plan.place)
    assert (again.hold, again.end, again.until) == (plan.hold, plan.end, plan.until)
    assert torch.equal(again.rates(), plan.rates())


def steps(gain, noise, seed, window=200):
    """An objective that is lower by `gain` in the second of two windows."""
    rng = np.random.default_rng(seed)
    return 50 + noise * rng.normal(size=2 * window) - gain * (np.arange(2 * window) >= window)


def test_a_gain_counts_above_a_tenth_of_a_nat_and_four_errors():
    """Without noise the limit is 0.1 nat and 0.01 % of 50."""
    assert not still_falls(steps(0.104, 0, 0), 200)
    assert still_falls(steps(0.106, 0, 0), 200)
    noise = steps(0, 1, 1)
    found = descent(noise[:200], noise[200:])
    for beyond in (-1e-6, 1e-6):
        raised = noise[:200] + 4 * found.error - found.value + beyond
        assert descent(raised, noise[200:]).flat is (beyond < 0)
    assert not still_falls(steps(9.0, 0, 0), 0)


def test_the_error_of_a_gain_is_that_of_independent_noise():
    """The mean of 200 squared errors is 2 / 200: each has 38 degrees of freedom; false alarm 1e-4."""
    errors = [descent(*np.split(steps(0, 1.0, seed), 2)).error for seed in range(200)]
    low, high = stats.norm.interval(1 - 1e-4, 2 / 200, math.sqrt(2 / 38 / 200) * 2 / 200)
    assert low < np.mean(np.square(errors)) < high


def test_flat_noise_is_called_falling_at_most_once_in_a_thousand():
    """Four errors with 38 degrees of freedom: 1.4e-4, so more than 3 of 1,000 have probability 2e-5."""
    alarms = sum(still_falls(10 * steps(0, 1.0, seed), 200) for seed in range(1000))
    assert alarms <= 3


def test_any_steady_slope_is_found_however_slow():
    """A line falls by slope * w between windows, and spreads by 0.37 slope * w in four errors."""
    line = 50 - 0.01 * np.arange(400)
    assert still_falls(line, 200)
