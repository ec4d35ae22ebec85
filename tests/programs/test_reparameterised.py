"""Sites that pyro.poutine.reparam rewrites: followed from others, neither latent nor data."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam, TransformReparam

import guidebook as gb
from guidebook.programs.potential import Potential

Y = np.array([1.4, -0.3, 2.2])


def groups(y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("group", 3):
        theta = pyro.sample("theta", dist.Normal(m, 2.0))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def exact():
    """Mean and covariance of (m, theta) | y, by the joint precision."""
    precision = np.diag([1.0 + 3 / 4, *[1 / 4 + 1.0] * 3])
    precision[0, 1:] = precision[1:, 0] = -1 / 4
    covariance = np.linalg.inv(precision)
    return covariance @ np.array([0.0, *Y]), covariance


@pytest.fixture(scope="module")
def fits():
    moved = poutine.reparam(groups, {"theta": LocScaleReparam(0.0)})
    return {name: gb.laplace(story, {"y": Y}) for name, story in
            {"centred": groups, "non-centred": moved}.items()}  # fmt: skip


def test_the_original_site_follows_from_the_new_one(fits):
    fit = fits["non-centred"]
    assert [site.name for site in fit.sites] == ["m", "theta_decentered"]
    assert fit.potential.derived == ("theta",) and fit.potential.observed == ("y",)
    tree = fit.posterior(4000, log_likelihood=True)
    draws = tree["posterior"]
    np.testing.assert_allclose(draws["theta"], draws["m"] + 2 * draws["theta_decentered"])
    assert draws["theta"].dims == ("chain", "draw", "group")
    assert set(tree["observed_data"].data_vars) == set(tree["log_likelihood"].data_vars) == {"y"}
    mean, covariance = exact()
    error = 5 * np.sqrt(np.diag(covariance) / 4000)
    assert (abs(draws["theta"].values[0].mean(0) - mean[1:]) < error[1:]).all()
    sd = draws["theta"].values[0].std(0)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance))[1:], rtol=0.06)


def test_data_that_are_rewritten_are_not_draws():
    """A transformed likelihood: the site of the data has no density, and does not move."""

    def story(y=None):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.LogNormal(m, 1.0).expand([3]).to_event(1), obs=y)

    moved = poutine.reparam(story, {"y": TransformReparam()})
    y = {"y": torch.tensor([0.4, 1.7, 3.0])}
    potential = Potential(moved, y)
    assert potential.derived == () and potential.observed == ("y_base",)
    u = torch.tensor([[0.3], [-1.2]])
    log_p = dist.Normal(0.0, 1.0).log_prob(u[:, 0])
    log_p += dist.Normal(u, 1.0).log_prob(y["y"].log()).sum(1)
    torch.testing.assert_close(potential(u)[0], log_p)


@pytest.mark.filterwarnings("ignore:Parameters missing from some approximations")
def test_a_model_is_compared_with_its_reparameterised_self(fits):
    compared = gb.compare(fits, reference="centred", effort="quick")
    row = compared.table.loc["non-centred"]
    assert row["verdict"] == "trust"
    assert row["mean_error"] < 0.1 and row["wasserstein"] < 0.1
    assert set(compared.posteriors["non-centred"]["posterior"].data_vars) == {"m", "theta"}
