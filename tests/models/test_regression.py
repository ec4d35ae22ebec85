"""Regression models against SciPy's densities and their own equations."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from guidebook.errors import SettingError
from guidebook.models.regression import linear_predictor, linear_regression, logistic_regression

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(12, generator=GENERATOR, dtype=torch.float64)
BETA = torch.tensor([0.4, -1.2, 0.7], dtype=torch.float64)
INTERCEPT = torch.tensor(0.3, dtype=torch.float64)
SIGMA2 = torch.tensor(0.8, dtype=torch.float64)


def log_joint(model, values, **data):
    return poutine.trace(poutine.condition(model, values)).get_trace(**data).log_prob_sum().item()


def test_linear_log_joint_is_the_equation_in_the_docstring():
    values = {"sigma2": SIGMA2, "intercept": INTERCEPT, "beta": BETA}
    w = np.concatenate([[0.3], BETA.numpy()])
    expected = (
        stats.invgamma(3.0, scale=1.5).logpdf(0.8)
        + stats.norm(0, 2.0 * np.sqrt(0.8)).logpdf(w).sum()
        + stats.norm(0.3 + X.numpy() @ w[1:], np.sqrt(0.8)).logpdf(Y.numpy()).sum()
    )
    found = log_joint(linear_regression, values, X=X, y=Y, shape=3.0, rate=1.5, scale=2.0)
    assert found == pytest.approx(expected, abs=1e-10)


def test_logistic_log_joint_is_the_equation_in_the_docstring():
    y = (Y > 0).double()
    w = np.concatenate([[0.3], BETA.numpy()])
    p = 1 / (1 + np.exp(-(0.3 + X.numpy() @ w[1:])))
    expected = stats.norm(0, 2.5).logpdf(w).sum() + stats.bernoulli(p).logpmf(y.numpy()).sum()
    values = {"intercept": INTERCEPT, "beta": BETA}
    assert log_joint(logistic_regression, values, X=X, y=y) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("model", [linear_regression, logistic_regression])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_y_it_simulates_in_the_dtype_of_the_columns(model, dtype):
    y = model(X.to(dtype))
    assert y.shape == (12,)
    assert y.dtype == dtype
    if model is logistic_regression:
        assert set(y.tolist()) <= {0.0, 1.0}


def test_simulated_y_is_the_likelihood():
    # Standardised residuals at fixed parameters are standard normal: false-alarm rate 1e-4.
    pyro.set_rng_seed(1)
    design = torch.randn(3000, 3, dtype=torch.float64)
    values = {"sigma2": SIGMA2, "intercept": INTERCEPT, "beta": BETA}
    y = poutine.condition(linear_regression, values)(design)
    residual = ((y - INTERCEPT - design @ BETA) / SIGMA2.sqrt()).numpy()
    assert stats.kstest(residual, stats.norm.cdf).pvalue > 1e-4


def test_linear_predictor_has_the_two_documented_shapes():
    particles = torch.randn(5, 1, 3, dtype=torch.float64)
    assert linear_predictor(X, BETA).shape == (12,)
    found = linear_predictor(X, particles)
    expected = torch.stack([X @ beta[0] for beta in particles])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("model", [linear_regression, logistic_regression])
def test_size_below_the_number_of_rows_is_an_error(model):
    with pytest.raises(SettingError, match=r"size=5 .* 12 rows"):
        model(X, size=5)
