"""What a fit is, and draws of it: four kinds, told by what a guide or an engine says or does."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal

import guidebook as gb
from guidebook.errors import DataError, GuideError
from guidebook.inference.fits.approximation import Approximation
from guidebook.programs.sites import latent_sites
from guidebook.programs.statements import make_local
from guidebook.scope import local_parameters

Y = {"y": torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64)}


def model(y=None):
    """scale ~ Gamma(2, 1), mu ~ N(0, 2), y ~ N(mu, 1)."""
    pyro.sample("scale", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 3):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def free(y=None):
    pyro.sample("scale", dist.Gamma(3.0, 2.0))
    pyro.sample("mu", dist.Normal(0.5, 0.4))


def half_fixed(y=None):
    pyro.sample("scale", dist.Gamma(3.0, 2.0))
    pyro.sample("mu", dist.Delta(torch.tensor(0.5, dtype=torch.float64)))


def transformed(y=None):
    """A Delta at a transform of a draw, as autoguides make them: a density."""
    pyro.sample("scale", dist.Gamma(3.0, 2.0))
    u = pyro.sample("u", dist.Normal(0.5, 0.4), infer={"is_auxiliary": True})
    pyro.sample("mu", dist.Delta(2 * u, log_density=-math.log(2.0)))


def of(guide, story=model, draws=None, draws_are="chains"):
    torch.set_default_dtype(torch.float64)
    try:
        sites = latent_sites(story, Y)
        if isinstance(guide, torch.nn.Module):
            make_local(guide)
            with local_parameters():
                guide(**Y)  # an autoguide makes its parameters
    finally:
        torch.set_default_dtype(torch.float32)
    return Approximation(story, guide, Y, sites, draws, draws_are)


def both():
    guide = AutoGuideList(model)
    guide.append(AutoDelta(pyro.poutine.block(model, expose=["mu"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["scale"])))
    return guide


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: free, "density"),
        (lambda: transformed, "density"),
        (lambda: half_fixed, "point"),
        (lambda: AutoDelta(model), "point"),
        (lambda: AutoNormal(model), "density"),
        (both, "point"),
        (lambda: gb.guides.mean_field(model), "density"),
        (lambda: gb.guides.flow(model, 1, 8, 4), "density"),
        (lambda: gb.guides.delta(model), "point"),
    ],
    ids=["function", "transform", "half", "AutoDelta", "AutoNormal", "list", "mean_field", "flow",
         "delta"],
)  # fmt: skip
def test_a_guide_is_a_density_unless_a_site_has_no_spread(make, kind):
    one = of(make())
    assert one.kind == kind
    u, log_q = one.draw(30, seed=0)
    assert u.shape == (1, 30, 2)
    assert (log_q is None) == (kind == "point")
    fixed = (u[0] == u[0, 0]).all(0)
    assert bool(fixed.any()) == (kind == "point")


def test_the_look_at_a_guide_leaves_the_random_state_and_the_draws():
    before = torch.get_rng_state()
    looked = of(free)
    assert looked.kind == "density"
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(looked.draw(5, seed=3)[0], of(free).draw(5, seed=3)[0])


def test_log_q_of_a_function_is_its_density_on_the_unconstrained_scale():
    u, log_q = of(free).draw(200, seed=1)
    scale, mu = np.exp(u[0, :, 0].numpy()), u[0, :, 1].numpy()
    expected = (
        scipy.stats.gamma(3.0, scale=0.5).logpdf(scale)
        + np.log(scale)  # d scale / du
        + scipy.stats.norm(0.5, 0.4).logpdf(mu)
    )
    np.testing.assert_allclose(log_q[0].numpy(), expected, rtol=1e-10)


def test_a_guide_over_positions_is_scored_where_it_lives():
    one = of(gb.guides.full_rank(model))
    u, log_q = one.draw(50, seed=1)
    q = one.over_positions()
    expected = scipy.stats.multivariate_normal(
        q.mean.detach().numpy(), q.covariance_matrix.detach().numpy()
    )
    np.testing.assert_allclose(log_q[0].numpy(), expected.logpdf(u[0].numpy()), rtol=1e-10)
    assert of(free).over_positions() is None


@pytest.mark.parametrize("draws_are", ["chains", "particles"])
def test_draws_of_an_engine_are_what_it_says_and_kept_as_they_are(draws_are):
    kept = torch.randn(2, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = of(None, draws=kept, draws_are=draws_are)
    assert one.kind == draws_are
    u, log_q = one.draw(1000, seed=0)
    torch.testing.assert_close(u, kept, rtol=0, atol=0)
    assert log_q is None


def test_discrete_sites_may_be_points_and_have_a_density():
    """A Delta of a discrete site is a probability of one, and log q = 0 is its logarithm."""

    def coin(y=None):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Normal(k, 1.0), obs=y)

    sites = latent_sites(coin, Y, discrete=True)
    one = Approximation(coin, lambda y=None: pyro.sample("k", dist.Delta(torch.ones(()))), Y, sites)
    assert one.discrete and one.kind == "density"
    assert not of(free).discrete


def test_without_its_data_only_a_guide_over_positions_can_be_drawn_from():
    whole = of(gb.guides.mean_field(model))
    alone = dataclasses.replace(whole, model=None, data=None)
    assert not alone.has_joint
    values, log_q = alone.draw_values(40, seed=2)
    u, expected = whole.draw(40, seed=2)
    np.testing.assert_allclose(values["scale"].numpy(), u[0, :, 0].exp().numpy(), rtol=1e-12)
    np.testing.assert_allclose(log_q.numpy(), (expected[0] - u[0, :, 0]).numpy(), rtol=1e-10)
    _, nothing = dataclasses.replace(of(gb.guides.delta(model)), model=None).draw_values(3, seed=0)
    assert nothing is None
    with pytest.raises(DataError, match=r"model=model, data=data"):
        _ = alone.potential
    with pytest.raises(DataError, match=r"model=\.\.\., data=\.\.\."):
        dataclasses.replace(of(free), data=None).draw_values(3, seed=0)


def test_nothing_is_not_an_approximation():
    with pytest.raises(GuideError, match="neither a guide nor draws"):
        _ = of(None).kind


def test_exact_refuses_a_guide_that_holds_a_site_fixed():
    """log p(x, z) - log q(z) is constant at one value of z, and the guide no posterior."""

    def normal(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def fixed(y=None):
        pyro.sample("mu", dist.Delta(torch.tensor(0.4, dtype=torch.float64)))

    with pytest.raises(GuideError, match=r"one value.*svi"):
        gb.exact(normal, fixed, {"y": torch.tensor(0.8)})
