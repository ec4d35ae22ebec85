"""The E-step and the M-step of a linear decoder."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats

from guidebook.guides.conjugate.factor import NOISE_FLOOR, FactorPosterior
from guidebook.models.decoders.factor import FactorAnalysis
from tests.guides.conjugate.factor.decoders import both, decoder

PARAMETERS = ("weight", "bias", "log_scale")


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def parameters_of(model, center):
    return {n: getattr(model, n).detach().clone() for n in PARAMETERS} | {"center": center}


def test_one_e_step_by_hand():
    # One column, one factor, W = 2, b = 1, sigma = 1: M = 5, E z = 2 (x - 1) / 5, var z = 1/5.
    model = FactorAnalysis(1, 1).double()
    one = torch.ones(1, dtype=torch.float64)
    parameters = {
        "weight": 2 * one.reshape(1, 1), "bias": one, "log_scale": 0 * one, "center": 0 * one,
    }  # fmt: skip
    x = torch.tensor([[1.0], [6.0]], dtype=torch.float64)
    statistics, log_evidence = FactorPosterior(model).e_step({"x": x}, parameters)
    means = np.array([0.0, 2.0])
    expected = {
        "count": 2.0, "sum_x": [7.0], "sum_xx": [37.0], "sum_z": [2.0], "sum_xz": [[12.0]],
        "sum_zz": [[(means**2 + 0.2).sum()]],
    }  # fmt: skip
    assert statistics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(statistics[name], value, rtol=0, atol=1e-12)
    evidence = stats.norm(1, math.sqrt(5)).logpdf([1.0, 6.0]).sum()
    assert log_evidence.item() == pytest.approx(evidence, abs=1e-12)


@both
@torch.no_grad()
def test_expected_log_joint_and_entropy_make_the_evidence(kind):
    # ELBO = E_q log p(x, z) + H(q) equals log p(x) where q is the posterior.
    model = decoder(kind)
    x = model(size=30)
    guide = FactorPosterior(model)
    parameters = parameters_of(model, x.mean(0) + 0.3)  # any origin of the statistics
    statistics, log_evidence = guide.e_step({"x": x}, parameters)
    entropy = guide.posterior(x).entropy().sum()
    elbo = guide.expected_log_joint(statistics, parameters) + entropy
    assert elbo.item() == pytest.approx(log_evidence.item(), abs=1e-9)
    assert log_evidence.item() == pytest.approx(guide.log_evidence(x).sum().item(), abs=1e-9)


@both
def test_the_m_step_is_a_maximum_of_the_expected_log_joint(kind):
    model = decoder(kind)
    with torch.no_grad():
        x = decoder(kind)(size=40)
        guide = FactorPosterior(model)
        parameters = parameters_of(model, x.mean(0))
        statistics, _ = guide.e_step({"x": x}, parameters)
        best = guide.m_step(statistics, parameters)
    free = {n: best[n].clone().requires_grad_() for n in PARAMETERS}
    top = guide.expected_log_joint(statistics, best | free)
    for gradient in torch.autograd.grad(top, list(free.values())):
        np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-8)
    assert top > guide.expected_log_joint(statistics, parameters)
    for name in PARAMETERS:  # a stationary point from which every way leads down
        for _ in range(5):
            moved = best | {name: best[name] + 0.05 * torch.randn_like(best[name])}
            assert guide.expected_log_joint(statistics, moved) < top


@both
def test_the_m_step_with_a_prior_is_conditional_and_climbs(kind):
    model = decoder(kind)
    guide = FactorPosterior(model, alpha=3.0)
    with torch.no_grad():
        x = decoder(kind)(size=40)
        parameters = parameters_of(model, x.mean(0))
        statistics, _ = guide.e_step({"x": x}, parameters)
        best = guide.m_step(statistics, parameters)

    def value(at):
        return guide.expected_log_joint(statistics, at) + guide.log_prior(at)

    # W and b at the former sigma: there the gradient in W and b is zero.
    free = {n: best[n].clone().requires_grad_() for n in ("weight", "bias")}
    at = parameters | free
    for gradient in torch.autograd.grad(value(at), list(free.values())):
        np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-8)
    log_scale = best["log_scale"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(best | {"log_scale": log_scale}), [log_scale])
    np.testing.assert_allclose(gradient, 0, rtol=0, atol=1e-8)
    assert value(best) > value(parameters)


def test_the_prior_is_scipys_normal():
    model = decoder(FactorAnalysis)
    parameters = parameters_of(model, torch.zeros(6, dtype=torch.float64))
    expected = stats.norm(0, 1 / math.sqrt(2.5)).logpdf(parameters["weight"].numpy()).sum()
    found = FactorPosterior(model, alpha=2.5).log_prior(parameters).item()
    assert found == pytest.approx(expected, abs=1e-10)
    assert FactorPosterior(model).log_prior(parameters).item() == 0


@both
@torch.no_grad()
def test_statistics_of_chunks_add_up_to_those_of_all_rows(kind):
    model = decoder(kind)
    guide, x = FactorPosterior(model), 100 + model(size=50)
    parameters = parameters_of(model, x.mean(0))
    whole, evidence = guide.e_step({"x": x}, parameters)
    parts = [guide.e_step({"x": piece}, parameters) for piece in x.split(7)]
    for name, value in whole.items():
        summed = torch.stack([statistics[name] for statistics, _ in parts]).sum(0)
        np.testing.assert_allclose(summed, value, rtol=1e-12, atol=1e-9)
    assert sum(e for _, e in parts).item() == pytest.approx(evidence.item(), rel=1e-12)


def test_noise_never_falls_below_its_bound():
    x = torch.randn(30, 4).double()
    x[:, 1] = 3 * x[:, 0]  # one factor explains both columns without noise
    guide = FactorPosterior(FactorAnalysis(4, 1))
    parameters = guide.start({"x": x}, 0)
    for _ in range(60):
        statistics, _ = guide.e_step({"x": x}, parameters)
        parameters = guide.m_step(statistics, parameters)
    share = (2 * parameters["log_scale"]).exp() / x.var(0, correction=0)
    np.testing.assert_allclose(share[:2], NOISE_FLOOR, rtol=1e-6)
    assert share[2:].min() > 0.01
    below = parameters | {"log_scale": parameters["log_scale"] - 1}
    assert guide.expected_log_joint(statistics, below) == -math.inf


def test_the_origin_of_the_statistics_has_no_gradient():
    model = decoder(FactorAnalysis)
    guide = FactorPosterior(model)
    parameters = parameters_of(model, torch.ones(6, dtype=torch.float64))
    statistics, _ = guide.e_step({"x": model(size=9).detach()}, parameters)
    at = parameters | {n: parameters[n].clone().requires_grad_() for n in ("bias", "center")}
    value = guide.expected_log_joint(statistics, at)
    of_bias, of_center = torch.autograd.grad(value, [at["bias"], at["center"]], allow_unused=True)
    assert of_center is None and bool((of_bias != 0).any())
