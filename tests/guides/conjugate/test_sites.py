"""Guides made of sites: the prior, the joint normal that they sample, and what a site is told."""

import inspect
import math
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError
from guidebook.guides.conjugate.moments import clutter_moments, logistic_moments, probit_moments
from guidebook.guides.conjugate.sites import ClutterSites, LogisticSites, ProbitSites
from guidebook.models.clutter import clutter
from guidebook.models.probit import probit_regression
from guidebook.models.regression import logistic_regression

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR)
Y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
EYE = torch.eye(4, dtype=torch.float64)
REGRESSIONS = pytest.mark.parametrize("kind", [ProbitSites, LogisticSites])


@REGRESSIONS
def test_before_it_is_fitted_a_regression_guide_is_the_prior(kind: Any) -> None:
    guide = kind(scale=3.0)
    with pytest.raises(DataError, match="unknown"):
        guide.posterior()
    guide(X, Y)
    torch.testing.assert_close(guide.posterior().mean, torch.zeros(4).double())
    torch.testing.assert_close(guide.posterior().covariance_matrix, 9 * EYE)
    assert torch.equal(guide.site_precision, torch.zeros(5).double())
    assert torch.equal(guide.site_shift, torch.zeros(5, 1).double())


def test_before_it_is_fitted_the_clutter_guide_is_the_prior() -> None:
    guide = ClutterSites(prior_variance=7.0)
    guide(X)
    torch.testing.assert_close(guide.posterior().covariance_matrix, 7 * EYE[:3, :3])
    assert guide.posterior().mean.tolist() == [0, 0, 0]
    assert guide.site_shift is not None and guide.site_precision is not None
    assert torch.equal(guide.site_shift, torch.zeros(5, 3).double())
    assert torch.equal(guide.site_precision, torch.zeros(5).double())


@REGRESSIONS
def test_what_is_held_is_sampled_as_one_joint_normal(kind: Any) -> None:
    """log q of the intercept and of the coefficients given it add up to that of the joint normal."""
    guide, root = kind(), torch.randn(4, 4, dtype=torch.float64, generator=GENERATOR)
    loc = torch.tensor([1.5, -0.5, 2.0, 0.25], dtype=torch.float64)
    guide.hold(torch.ones(5), torch.ones(5, 1), loc, root @ root.mT + EYE)
    for _ in range(3):
        trace = pyro.poutine.trace(guide).get_trace(X, Y)
        theta = torch.cat([trace.nodes["intercept"]["value"][None], trace.nodes["beta"]["value"]])
        assert theta.shape == (4,)
        expected = guide.posterior().log_prob(theta)
        torch.testing.assert_close(trace.log_prob_sum(), expected)
    assert guide.loc is loc  # data seen again do not take it back to the prior


def test_the_clutter_guide_samples_what_it_holds() -> None:
    guide = ClutterSites()
    loc, covariance = torch.ones(3).double(), 0.25 * EYE[:3, :3]
    guide.hold(torch.ones(5), torch.ones(5, 3), loc, covariance)
    trace = pyro.poutine.trace(guide).get_trace(X)
    normal = torch.distributions.MultivariateNormal(loc, covariance)
    expected = normal.log_prob(trace.nodes["theta"]["value"])
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    assert guide.position({"theta": loc}) is loc


@REGRESSIONS
def test_a_regression_site_sees_its_row_and_its_class(kind: Any) -> None:
    found = kind(scale=3.0).sites(X, Y)
    moments = {ProbitSites: probit_moments, LogisticSites: logistic_moments}[kind]
    assert found.number == 5
    torch.testing.assert_close(found.precision, EYE / 9)
    assert torch.equal(found.shift, torch.zeros(4).double())
    torch.testing.assert_close(found.directions, torch.cat([torch.ones(5, 1).double(), X], 1))
    index = torch.tensor([3, 1])
    mean, variance = torch.tensor([0.5, -1.0]).double(), torch.tensor([2.0, 0.7]).double()
    told = found.tilted(index, mean[:, None], variance)
    expected = moments(Y[index], mean, variance)
    torch.testing.assert_close(told.log_mass, expected.log_mass)
    torch.testing.assert_close(told.mean, expected.mean[:, None])
    torch.testing.assert_close(told.variance, expected.variance)


def test_a_clutter_site_sees_its_row_and_the_share() -> None:
    found = ClutterSites(share=0.2, clutter_variance=5.0, prior_variance=4.0).sites(X)
    assert found.number == 5 and found.directions is None
    torch.testing.assert_close(found.precision, EYE[:3, :3] / 4)
    index, mean = torch.tensor([3, 1]), X[:2] + 1
    variance = torch.tensor([2.0, 0.7]).double()
    told = found.tilted(index, mean, variance)
    for one, other in zip(told, clutter_moments(X[index], mean, variance, 0.2, 5.0), strict=True):
        torch.testing.assert_close(one, other)
    assert ClutterSites().sites(X[:, :1]).precision.tolist() == [[pytest.approx(0.01)]]


def test_positions_have_the_intercept_first() -> None:
    values = {"intercept": torch.tensor([1.0, 2.0]), "beta": torch.tensor([[3.0, 4.0, 5.0]] * 2)}
    found = ProbitSites().position(values)
    assert found.tolist() == [[1.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0]]
    batched = {n: v.expand(3, *v.shape) for n, v in values.items()}
    assert torch.equal(LogisticSites().position(batched), found.expand(3, 2, 4))


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (ProbitSites, probit_regression),
        (LogisticSites, logistic_regression),
        (ClutterSites, clutter),
    ],
)
def test_the_defaults_are_those_of_the_model(kind: Any, model: Any) -> None:
    of_model, guide = inspect.signature(model).parameters, kind()
    for name in inspect.signature(kind).parameters:
        assert getattr(guide, name) == of_model[name].default, name


@REGRESSIONS
def test_the_limits_of_the_scale(kind: Any) -> None:
    assert kind(scale=0.5).scale == 0.5
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SettingError, match="scale="):
            kind(scale=wrong)


@pytest.mark.parametrize("name", ["share", "clutter_variance", "prior_variance"])
def test_the_limits_of_the_clutter(name: str) -> None:
    for right in (0.5, 0.999):
        assert getattr(ClutterSites(**{name: right}), name) == right
    for wrong in (0.0, -1.0, 1.0 if name == "share" else math.inf, math.nan):
        with pytest.raises(SettingError, match=f"{name}={wrong}"):
            ClutterSites(**{name: wrong})


@pytest.mark.parametrize("wrong", [2.0, 0.5, -1.0])
def test_classes_are_zero_and_one(wrong: float) -> None:
    y = Y.clone()
    y[2] = wrong
    with pytest.raises(DataError, match="0 and 1"):
        ProbitSites().sites(X, y)
    for all_of in (0.0, 1.0):
        assert ProbitSites().sites(X, torch.full_like(Y, all_of)).number == 5


def test_rows_are_one_matrix_and_all_of_them() -> None:
    def refused(match: str, X: Tensor, y: Tensor | None, size: int | None = None) -> None:
        with pytest.raises(DataError, match=match):
            ProbitSites().sites(X, y, size)

    refused("no observed rows", X, None)
    refused(r"observed \(4,\)", X, Y[:4])
    refused(r"X \(5, 3, 1\)", X.unsqueeze(-1), Y)
    refused(r"observed \(5, 1\)", X, Y.unsqueeze(-1))
    refused("all 60 rows", X, Y, 60)
    assert ProbitSites().sites(X, Y, 5).number == 5
    for x in (X[:, 0], X.unsqueeze(-1)):
        with pytest.raises(DataError, match=r"needs X \(n, P\)"):
            ClutterSites().sites(x)
    with pytest.raises(DataError, match="all 60 rows"):
        ClutterSites().sites(X, 60)
    assert ClutterSites().sites(X, 5).number == 5
