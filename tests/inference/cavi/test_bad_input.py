"""Degenerate data, and what coordinate ascent refuses."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.inference.cavi import cavi
from guidebook.models.mixture import GaussianMixture
from tests.inference.cavi.clusters import COVARIANCES, clusters, fitted, mixture


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    "x",
    [
        clusters(n=2),
        clusters(n=1),
        np.repeat(clusters(n=2), 10, 0),
        np.zeros((10, 2)),
        np.column_stack([clusters(n=20)[:, 0], np.full(20, 3.0)]),
    ],
    ids=["fewer rows than components", "one row", "duplicates", "all the same", "constant column"],
)
def test_degenerate_rows_are_held_by_the_prior(covariance, x):
    fit = fitted(mixture(covariance), x)
    assert np.isfinite(fit.history).all() and fit.status is Status.CONVERGED
    hyper = fit.guide.hyper()
    assert all(bool(v.isfinite().all()) for v in hyper.values())
    share = fit.guide.responsibilities(torch.from_numpy(x))
    torch.testing.assert_close(share.sum(1), torch.ones(len(x)).double())
    if covariance == "full":  # no covariance has become singular
        eigenvalues = torch.linalg.eigvalsh(hyper["inverse_scale"])
        assert float(eigenvalues.min()) > 1.3 - 1e-6


def test_draws_given_one_row_have_finite_densities():
    tree = fitted(mixture("full"), clusters(n=1)).posterior(100)
    assert np.isfinite(tree["sample_stats"]["lp"].values).all()
    assert np.isfinite(tree["sample_stats"]["log_q"].values).all()


def test_a_component_without_rows_keeps_its_prior():
    x = np.repeat([[0.0, 0.0], [9.0, 9.0]], 20, 0)
    model = GaussianMixture(4, 2, "full", 0.01, 4.5, 1.0)
    hyper = fitted(model, x, tolerance=0.0, sweeps=200).guide.hyper()
    empty = hyper["concentration"] < 0.011
    assert int(empty.sum()) >= 1
    prior = model.prior(hyper["loc"])
    for name, value in hyper.items():
        torch.testing.assert_close(value[empty], prior[name][empty], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(wrong):
    x = clusters()
    x[17, 1] = wrong
    with pytest.raises(DataError, match=r"'x' holds (NaN|inf) at index \(17, 1\)"):
        fitted(mixture("full"), x)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"\(rows, 2\)"):
        fitted(mixture("full"), clusters(D=3))
    with pytest.raises(DataError, match=r"\(rows, 2\)"):
        fitted(mixture("full"), clusters()[:, 0])
    with pytest.raises(DataError, match="empty"):
        fitted(mixture("full"), np.empty((0, 2)))


def test_a_guide_without_structure_is_told_what_it_lacks():
    def model(x=None):
        pyro.sample("a", dist.Normal(0.0, 1.0))

    def plain(x=None):
        pyro.sample("a", dist.Normal(0.0, 1.0))

    with pytest.raises(GuideError, match=r"plain lacks families, prior.*MixtureMeanField.*svi"):
        cavi(model, plain, {"x": clusters()})

    class Half(MixtureMeanField):
        local = property()

    with pytest.raises(GuideError, match=r"Half lacks local\."):
        cavi(mixture("full"), Half(mixture("full")), {"x": clusters()})


def test_an_update_that_lowers_the_elbo_is_found_out():
    class Wrong(MixtureMeanField):
        def local(self, x, expected):
            bound, message = super().local(x, expected)
            return bound, {name: 0.5 * value for name, value in message.items()}

    model = mixture("full")
    with pytest.raises(GuideError, match="lowered the ELBO"):
        cavi(model, Wrong(model), {"x": clusters(apart=1.0)}, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [{"sweeps": 0}, {"sweeps": 1.5}, {"restarts": 0}, {"seed": -1}, {"chunk": 0}, {"chunk": True},
     {"tolerance": -1e-3}, {"tolerance": 1.0}, {"tolerance": math.nan}, {"seed": 2**63}],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        fitted(mixture("full"), clusters(), **wrong)


def test_the_guide_of_another_model_is_refused():
    with pytest.raises(GuideError):
        cavi(mixture("unit"), MixtureMeanField(mixture("full")), {"x": clusters()}, progress=False)
