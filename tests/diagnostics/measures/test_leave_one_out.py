"""Leave-one-out of a conjugate regression in closed form, whatever approximation the draws are of."""

from typing import Any

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm, t

import guidebook as gb
from guidebook.diagnostics.measures.leave_one_out import LeaveOneOut, _numbers, leave_one_out
from guidebook.guides.autoguides.mixture import NormalMixture
from guidebook.inference.fits.opening import opened
from guidebook.inference.fits.status import Status

N = 40
rng = np.random.default_rng(3)
X = rng.normal(size=(N, 2))
Y = X @ [1.0, -1.0] + rng.normal(size=N)


def regression(X: torch.Tensor, y: torch.Tensor | None = None) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def without_plate(X: torch.Tensor, y: torch.Tensor | None = None) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    pyro.sample("y", dist.Normal(X @ b, 1.0).to_event(1), obs=y)


def signs(X: torch.Tensor, y: torch.Tensor | None = None) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def posterior_of(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    covariance = np.linalg.inv(np.eye(2) / 9 + X.T @ X)
    return covariance @ X.T @ y, covariance


def placed(model: Any, y: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> gb.Fit:
    """A fit whose approximation is this normal."""
    data = {"X": torch.tensor(X), "y": torch.tensor(y)}
    with opened("placed", model, NormalMixture(model, 1), data, seed=0, device=None) as run:
        factor = torch.tensor(np.linalg.cholesky(covariance))[None]
        run.guide.place(torch.zeros(1), torch.tensor(mean)[None], factor)
    fit: gb.Fit = run.fit(Status.CONVERGED, sites=run.guide.sites)
    return fit


def exactly(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(y_i | y_{-i}) and p(y~_i <= y_i | y_{-i}), (N,)."""
    rows, pit = [], []
    for i in range(N):
        kept = np.arange(N) != i
        mean, covariance = posterior_of(X[kept], y[kept])
        predictive = norm(X[i] @ mean, np.sqrt(1 + X[i] @ covariance @ X[i]))
        rows.append(predictive.logpdf(y[i]))
        pit.append(predictive.cdf(y[i]))
    return np.array(rows), np.array(pit)


MEAN, COVARIANCE = posterior_of(X, Y)


@pytest.fixture(scope="module")
def off() -> gb.Fit:
    """An approximation that is shifted by half a standard deviation and 1.3 times too wide."""
    shift = 0.5 * np.sqrt(np.diagonal(COVARIANCE))
    return placed(regression, Y, MEAN + shift, 1.69 * COVARIANCE)


def of(fit: gb.Fit, seed: int = 0, draws: int = 2000) -> LeaveOneOut:
    found = leave_one_out(fit, fit.posterior(draws, seed), seed)
    assert found is not None
    return found


def test_elpd_and_pit_are_the_exact_ones_although_the_approximation_is_off(off: gb.Fit) -> None:
    """The mean over six seeds of elpd, and of each row, by a t-test: one alarm in 2,000 for elpd, and
    one in 2,000 among all rows. LOO-PIT of 2,000 draws of which half are effective: 5 standard errors.
    """
    each = [of(off, seed) for seed in range(6)]
    rows, pit = exactly(Y)
    elpd = np.array([one.elpd for one in each])
    limit = t.isf(0.00025, 5) / np.sqrt(6)
    assert abs(elpd.mean() - rows.sum()) < limit * elpd.std(ddof=1)
    by_row = np.stack([one.rows for one in each])
    limit = t.isf(0.00025 / N, 5) / np.sqrt(6)
    assert (np.abs(by_row.mean(0) - rows) < limit * by_row.std(0, ddof=1)).all()
    first = each[0]
    assert first.pit is not None
    assert (np.abs(first.pit - pit) < 5 * np.sqrt(pit * (1 - pit) / 1000) + 1e-3).all()
    assert (first.plate, first.draws, first.unreliable) == ("row", 2000, 0)
    assert first.elpd_se == pytest.approx(np.sqrt(N) * rows.std(), rel=0.02)
    assert abs(first.parameters - 2) < 1.0  # two coefficients; the rows are few


def test_it_is_arviz_stats_own_for_approximate_posteriors(off: gb.Fit) -> None:
    tree = off.posterior(1000, 5, log_likelihood=True)
    found, stats = leave_one_out(off, tree), tree["sample_stats"]
    theirs = arviz_stats.loo_approximate_posterior(
        tree, stats["lp"], stats["log_q"], pointwise=True, var_name="y"
    )
    assert found is not None and found.limit == theirs.good_k
    np.testing.assert_allclose(found.rows, theirs.elpd_i.values, rtol=1e-8)
    np.testing.assert_allclose(found.khat, theirs.pareto_k.values, atol=1e-8)
    assert found.elpd == pytest.approx(theirs.elpd)


def test_uniform_where_the_model_is_right_and_not_where_it_is_wrong(off: gb.Fit) -> None:
    """A Kolmogorov-Smirnov test: one alarm in 1,000; data of three times the noise are found."""
    assert of(off).pit_pvalue > 0.001
    y = X @ [1.0, -1.0] + 3 * np.random.default_rng(5).normal(size=N)
    assert of(placed(regression, y, *posterior_of(X, y))).pit_pvalue < 0.001


def test_a_row_far_from_all_others_is_unreliable() -> None:
    """A row 40 standard deviations off moves the posterior by several of its own."""
    y = Y.copy()
    y[7] += 40.0
    found = of(placed(regression, y, *posterior_of(X, y)))
    assert int(np.argmax(found.khat)) == 7 and found.unreliable >= 1


def test_where_it_does_not_apply(off: gb.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert leave_one_out(placed(without_plate, Y, MEAN, COVARIANCE), off.posterior(100)) is None
    tree = off.posterior(100)
    monkeypatch.setattr("guidebook.diagnostics.measures.leave_one_out.MOST_ROWS", N)
    assert leave_one_out(off, tree) is not None
    monkeypatch.setattr("guidebook.diagnostics.measures.leave_one_out.MOST_ROWS", N - 1)
    assert leave_one_out(off, tree) is None


def test_zeros_and_ones_have_no_pit() -> None:
    y = (Y > 0).astype(float)
    found = of(placed(signs, y, np.array([1.0, -1.0]), 0.2 * np.eye(2)), draws=1000)
    assert found.pit is None and np.isnan(found.pit_pvalue)


def test_rows_of_which_all_draws_say_the_same_have_no_tail() -> None:
    """As a sure row of a logistic regression, whose probability rounds to one: log p(y_i | z) is one number,
    and so is its elpd. A few values in the tail, as of discrete draws, are no tail either.
    """
    rng = np.random.default_rng(0)
    by_row = np.log(rng.uniform(0.3, 0.6, (1000, 5)))
    by_row[:, 1] = -1e-17
    by_row[:, 2] = np.where(rng.random(1000) < 0.5, -0.5, -0.6)
    by_row[:, 4] = -np.minimum(
        1e-6 * rng.pareto(1.0, 1000), 0.1
    )  # nearly sure: a tail without weight
    found = _numbers(by_row, np.zeros(1000), "row", None, 0)
    assert found.khat[4] == -np.inf
    assert found.khat[1] == found.khat[2] == -np.inf and np.isfinite(found.khat[[0, 3]]).all()
    np.testing.assert_allclose(found.rows[1], by_row[0, 1], atol=1e-12)
    expected = -np.log(np.exp(-by_row[:, 2]).mean())  # the harmonic mean, unsmoothed
    np.testing.assert_allclose(found.rows[2], expected, rtol=1e-9)
    assert found.unreliable == 0
