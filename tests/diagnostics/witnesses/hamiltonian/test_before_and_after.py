"""Numbers of a run: the draws before it against those after it, in closed form."""

import math

import numpy as np
import pytest
from scipy import stats

from guidebook.diagnostics.numerics import drift


def draws_of_a_run(correlation: float = 0.3, size: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Before and after, (S, 2, 2): of two posteriors, and marginals on different scales."""
    z = np.random.default_rng(1).standard_normal((2, size, 2, 2))
    after = 3.0 * z[0] + [[1.0, -2.0], [0.0, 5.0]]
    before = correlation * 3.0 * z[0] + 2.0 * z[1] + [[2.0, -3.0], [0.5, 4.0]]
    return before, after


@pytest.mark.parametrize("correlation", [0.3, -0.5, 5.0, 100.0])
def test_the_numbers_of_a_run_in_closed_form(correlation: float) -> None:
    """r: Spearman's, of draws and of squares, from 0 on; 1 - r is at least 0.05, of squares 0.3."""
    before, after = draws_of_a_run(correlation)
    found = drift.compared(before, after, np.array([0.41, 0.4]))
    assert found.acceptance.tolist() == [0.41, 0.4]
    for i, j in np.ndindex(2, 2):
        old, new = before[:, i, j], after[:, i, j]
        sd = new.std()
        r = stats.spearmanr(old, new).statistic
        squares = np.square((old - new.mean()) / sd), np.square((new - new.mean()) / sd)
        r2 = stats.spearmanr(*squares).statistic
        forgotten = min(max(1 - r, 0.05), 1.0)
        shift = (old.mean() - new.mean()) / sd / forgotten
        assert found.sd[i, j] == pytest.approx(sd)
        assert found.shift[i, j] == pytest.approx(shift)
        assert found.mean[i, j] == pytest.approx(old.mean() - shift * sd)
        error = (old - new).std() / sd / forgotten / math.sqrt(60)
        assert found.shift_se[i, j] == pytest.approx(error)
        ratio = (old.std() / sd) ** (1 / min(max(1 - r2, 0.3), 1.0))
        assert found.sd_ratio[i, j] == pytest.approx(ratio)
        error = 0.5 * (squares[0] - squares[1]).std() / math.sqrt(60)
        assert found.sd_ratio_se[i, j] == pytest.approx(error)
        assert found.able[i, j] == (abs(r) < 0.6 and i == 0)  # an acceptance of 0.4 is too low


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_of_just_0_6_is_too_much(sign: int) -> None:
    """Of four draws it is 1 - sum d^2 / 10."""
    before = np.array([1.0, 2.0, 3.0, 4.0])[:, None, None]
    after = sign * np.array([1.0, 4.0, 2.0, 3.0])[:, None, None]
    r = sign * 0.4
    assert drift.rank_correlation(before, after)[0, 0] == pytest.approx(r)
    assert drift.compared(before, after, np.array([0.9])).able.all()
    after = sign * np.array([2.0, 1.0, 4.0, 3.0])[:, None, None]
    assert drift.rank_correlation(before, after)[0, 0] == sign * 0.6
    assert not drift.compared(before, after, np.array([0.9])).able.any()


def test_draws_without_a_spread_give_finite_numbers() -> None:
    """A standard deviation of 0 counts as 1e-300."""
    still, moving = np.zeros((20, 1, 1)), np.arange(20.0)[:, None, None]
    found = drift.compared(still, still, np.array([0.9]))
    assert found.sd[0, 0] == 1e-300 and found.sd_ratio[0, 0] == 1.0 and found.shift[0, 0] == 0.0
    ratio = drift.compared(still, moving, np.array([0.9])).sd_ratio[0, 0]
    assert 0 < ratio < 1e-290 or ratio == 0.0
    assert drift.rank_correlation(np.ones((1, 1)), np.ones((1, 1))).tolist() == [0.0]


@pytest.mark.parametrize("sign", [1, -1])
def test_two_draws_correlate_fully(sign: int) -> None:
    pair = np.array([[3.0], [8.0]])
    assert drift.rank_correlation(pair, sign * pair).tolist() == [sign]
