"""Moments by coordinate ascent against those of Gibbs and of enumeration."""

import math

import numpy as np
import pyro
import pytest
import torch

from guidebook import Status
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.inference.gibbs import gibbs
from guidebook.models.mixture import GaussianMixture
from tests.inference.cavi.clusters import COVARIANCES, clusters, fitted, mixture


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def moments(sampler):
    """Means and standard deviations of `loc` (K, D) by Gibbs, and the means' standard errors."""
    loc = sampler.potential.constrain(sampler.draws.flatten(0, 1))["loc"].numpy()
    sd = loc.std(0, ddof=1)
    return loc.mean(0), sd, sd / math.sqrt(sampler.notes["ess"])


def in_order(fit):
    """The hyperparameters of q, its components in the model's order."""
    hyper = fit.guide.hyper()
    order = fit.model.canonical_order(hyper)
    return {name: value[order].numpy() for name, value in hyper.items()}


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_means_are_those_of_gibbs_where_clusters_are_apart(covariance):
    # Six means within 4.5 standard errors; beyond that a fiftieth of a posterior standard
    # deviation, for what the factorisation itself moves. False alarm below 1e-4, fixed seeds.
    x, model = clusters(n=60, apart=8.0), mixture(covariance)
    q = in_order(fitted(model, x))
    sampler = gibbs(model, MixtureMeanField(model), {"x": x}, draws=400, tune=50, progress=False)
    assert sampler.status is Status.CONVERGED
    mean, sd, error = moments(sampler)
    off = np.abs(q["loc"] - mean)
    assert (off < 4.5 * error + 0.02 * sd).all(), f"means differ by {off / sd} posterior sds"


def test_variances_are_smaller_than_those_of_gibbs_where_clusters_overlap():
    # Means 2.5 sd apart: uncertain assignments widen the posterior, and q does not see them.
    x = clusters(n=150, apart=2.5, D=1, K=2, seed=3)
    model = GaussianMixture(2, 1, "unit", None, 0.0, 0.1)
    fit = fitted(model, x)
    sampler = gibbs(model, MixtureMeanField(model), {"x": x}, draws=2000, tune=200, progress=False)
    assert sampler.status is Status.CONVERGED
    q = in_order(fit)
    mean, sd, error = moments(sampler)
    ratio = (1 / q["mean_precision"] / sd[:, 0] ** 2).round(4)
    # a variance's relative standard error is sqrt(2 / ess)
    noise = math.sqrt(2 / sampler.notes["ess"])
    said = f"variances of CAVI over those of Gibbs: {ratio} +- {noise:.3f}"
    assert (ratio < 1 - 4 * noise).all(), said
    assert (ratio > 0.3).all(), said
    off = np.abs(q["loc"] - mean)
    assert (off < 4.5 * error + 0.25 * sd).all(), f"means differ by {off / sd} posterior sds"


def test_variances_are_smaller_than_the_enumerated_ones():
    """The variances of the sorted means by 100,000 independent exact draws: known to 0.5 %."""
    x = clusters(n=12, apart=4.0, D=1, K=2, seed=1)
    model = GaussianMixture(2, 1, "unit", None, 2.0, 0.05)
    posterior, _ = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    index = posterior.mixture_distribution.sample(torch.Size([100_000]))
    given = posterior.component_distribution.base_dist  # of which each draw needs only one
    drawn = torch.normal(given.loc[index], given.scale[index]).squeeze(-1)
    exact = drawn.sort(-1).values.var(0)
    variance = 1 / fitted(model, x).guide.hyper()["mean_precision"]
    ratio = (variance / exact).numpy()
    assert ((ratio > 0.3) & (ratio < 0.98)).all(), f"CAVI's variances over the exact ones: {ratio}"
