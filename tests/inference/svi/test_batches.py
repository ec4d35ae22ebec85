"""svi on some of the rows at a time."""

import numpy as np
import pytest
import scipy.optimize
import torch
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.models.regression import logistic_regression
from tests.inference.svi.stories import DRAWS, QUIET, normal_mean


def logistic_data(rows=400):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 2))
    logits = 0.5 + X @ np.array([1.0, -0.7])
    return {"X": X, "y": (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(float)}


def laplace_by_scipy(data):
    A = np.column_stack([np.ones(len(data["X"])), data["X"]])

    def negative(w):
        logits = A @ w
        return np.logaddexp(0, logits).sum() - data["y"] @ logits + (w @ w) / (2 * 2.5**2)

    mode = scipy.optimize.minimize(negative, np.zeros(3), method="BFGS").x
    p = 1 / (1 + np.exp(-A @ mode))
    return mode, np.linalg.inv((A * (p * (1 - p))[:, None]).T @ A + np.eye(3) / 2.5**2)


@pytest.mark.slow
def test_mini_batches_reach_the_posterior_of_all_rows():
    """400 rows: the posterior is N(mode, curvature^-1) to a few hundredths of a sd."""
    data = logistic_data()
    guide = gb.guides.full_rank(logistic_regression)
    fit = gb.svi(logistic_regression, guide, data, batch_size=50, steps=1500, **QUIET)
    mode, covariance = laplace_by_scipy(data)
    sds = np.sqrt(np.diag(covariance))
    posterior = fit.posterior(DRAWS)["posterior"]
    draws = np.column_stack([posterior["intercept"].values[0], posterior["beta"].values[0]])
    np.testing.assert_allclose((draws.mean(0) - mode) / sds, 0, atol=0.15)
    np.testing.assert_allclose(draws.std(0) / sds, 1, atol=0.1)
    assert fit.history.shape == (1500,)
    assert fit.notes["batch_size"] == 50


def test_memory_mapped_arrays_and_lists_are_data_like_others(tmp_path):
    data = logistic_data(120)
    mapped = {}
    for name, value in data.items():
        np.save(tmp_path / f"{name}.npy", value)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    listed = {name: value.tolist() for name, value in data.items()}
    tensors = {name: torch.as_tensor(value) for name, value in data.items()}
    for batch in (30, None):
        histories = [
            gb.svi(logistic_regression, AutoNormal(logistic_regression), given,
                   batch_size=batch, steps=50, **QUIET).history
            for given in (data, mapped, listed, tensors)
        ]  # fmt: skip
        for history in histories[1:]:
            np.testing.assert_allclose(history, histories[0], rtol=1e-10)


def test_a_model_without_size_refuses_mini_batches():
    data = {"y": np.ones(10), "sigma": 1.0, "prior": 1.0}
    with pytest.raises(SettingError, match=r"takes size=None"):
        gb.svi(normal_mean, gb.guides.mean_field(normal_mean), data, batch_size=5, **QUIET)


def test_a_batch_of_all_rows_needs_no_size():
    data = {"y": np.ones(10), "sigma": 1.0, "prior": 1.0}
    guide = gb.guides.mean_field(normal_mean)
    fit = gb.svi(normal_mean, guide, data, batch_size=10, steps=20, **QUIET)
    assert np.isfinite(fit.history).all()
