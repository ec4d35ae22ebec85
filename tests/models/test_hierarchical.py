"""Eight schools against SciPy's densities, and its two parameterisations against each other."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from guidebook.models.hierarchical import eight_schools, eight_schools_centered

SIGMA = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)
Y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
MU, TAU = 4.2, 3.1
TRANS = np.linspace(-1.5, 2.0, 8)


def log_joint(model, values, **data):
    tensors = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in values.items()}
    trace = poutine.trace(poutine.condition(model, tensors)).get_trace(**data)
    return trace.log_prob_sum().item(), trace


def priors_and_likelihood(theta):
    return (
        stats.norm(0, 5).logpdf(MU)
        + stats.halfcauchy(scale=5).logpdf(TAU)
        + stats.norm(theta, SIGMA.numpy()).logpdf(Y.numpy()).sum()
    )


def test_noncentered_log_joint_is_the_equation_in_the_docstring():
    values = {"mu": MU, "tau": TAU, "theta_trans": TRANS}
    value, trace = log_joint(eight_schools, values, sigma=SIGMA, y=Y)
    expected = priors_and_likelihood(MU + TAU * TRANS) + stats.norm.logpdf(TRANS).sum()
    assert value == pytest.approx(expected, abs=1e-10)
    np.testing.assert_allclose(trace.nodes["theta"]["value"], MU + TAU * TRANS, rtol=1e-14)


def test_centered_log_joint_is_the_equation_in_the_docstring():
    theta = MU + TAU * TRANS
    value, _ = log_joint(
        eight_schools_centered, {"mu": MU, "tau": TAU, "theta": theta}, sigma=SIGMA, y=Y
    )
    expected = priors_and_likelihood(theta) + stats.norm(MU, TAU).logpdf(theta).sum()
    assert value == pytest.approx(expected, abs=1e-10)


def test_parameterisations_differ_by_the_jacobian():
    noncentered, _ = log_joint(
        eight_schools, {"mu": MU, "tau": TAU, "theta_trans": TRANS}, sigma=SIGMA, y=Y
    )
    theta = MU + TAU * TRANS
    centered, _ = log_joint(
        eight_schools_centered, {"mu": MU, "tau": TAU, "theta": theta}, sigma=SIGMA, y=Y
    )
    assert noncentered == pytest.approx(centered + 8 * np.log(TAU), abs=1e-10)


@pytest.mark.parametrize("model", [eight_schools, eight_schools_centered])
def test_without_y_it_simulates_in_the_dtype_of_sigma(model):
    with pyro.poutine.trace() as trace:
        y = model(SIGMA)
    assert y.shape == (8,)
    assert y.dtype == torch.float64
    assert {frame.name for frame in trace.trace.nodes["y"]["cond_indep_stack"]} == {"school"}
    assert all(
        node["value"].dtype == torch.float64
        for name, node in trace.trace.nodes.items()
        if node["type"] == "sample" and name in ("mu", "tau", "theta", "theta_trans")
    )


def test_prior_predictive_follows_the_prior_of_theta():
    # Given mu and tau fixed, theta of either model is N(mu, tau): Kolmogorov-Smirnov, false-alarm
    # rate 1e-4 with this fixed seed.
    pyro.set_rng_seed(0)
    sigma = torch.ones(2000, dtype=torch.float64)
    fixed = {"mu": torch.tensor(MU).double(), "tau": torch.tensor(TAU).double()}
    for model in (eight_schools, eight_schools_centered):
        trace = poutine.trace(poutine.condition(model, fixed)).get_trace(sigma)
        theta = trace.nodes["theta"]["value"].numpy()
        assert stats.kstest(theta, stats.norm(MU, TAU).cdf).pvalue > 1e-4
