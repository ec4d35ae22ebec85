"""Supports as plain values: what comes back draws the same region by the same transform."""

import copy
import io
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import biject_to

from guidebook.errors import FileError
from guidebook.inference.fits.supports import (
    PLAIN,
    decode_site,
    decode_support,
    encode_site,
    encode_support,
)
from guidebook.models.energy.energy import plus_minus_one
from guidebook.programs.sites import Site

LIMIT = torch.tensor([0.5, 2.0])
CONTINUOUS = {
    "real": dist.Normal(0.0, 1.0),
    "positive": dist.Gamma(2.0, 1.0),
    "unit_interval": dist.Beta(2.0, 2.0),
    "simplex": dist.Dirichlet(torch.ones(3)),
    "vector": dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    "correlations": dist.LKJCholesky(3, 2.0),
    "interval of tensors": dist.Uniform(LIMIT, LIMIT + 3).to_event(1),
    "half line": dist.Pareto(2.0, 3.0),
    "independent": dist.Gamma(2.0, 1.0).expand([2, 3]).to_event(2),
}


def through_a_file(value):
    handle = io.BytesIO()
    torch.save(value, handle)
    handle.seek(0)
    return torch.load(handle, weights_only=True)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_transform_is_the_same(name):
    fn = CONTINUOUS[name]
    again = decode_support(through_a_file(encode_support(fn.support)))
    u = torch.randn(biject_to(fn.support).inverse_shape(fn.shape()))
    torch.testing.assert_close(biject_to(again)(u), biject_to(fn.support)(u), rtol=0, atol=0)
    assert again.event_dim == fn.support.event_dim
    assert bool(again.check(fn.sample()).all())


@pytest.mark.parametrize(
    ("support", "inside", "outside"),
    [
        (constraints.boolean, 1.0, 0.5),
        (constraints.nonnegative_integer, 3.0, -1.0),
        (constraints.integer_interval(0, 4), 4.0, 5.0),
        (plus_minus_one, -1.0, 0.0),
    ],
)
def test_discrete_supports_stay_discrete(support, inside, outside):
    again = decode_support(through_a_file(encode_support(support)))
    assert again.is_discrete
    assert bool(again.check(torch.tensor(inside)))
    assert not bool(again.check(torch.tensor(outside)))


def test_a_site_comes_back():
    shape = torch.Size((3, 2))
    plates = (("group", -1, 3),)
    site = Site("rates", shape, shape, 1, constraints.independent(constraints.positive, 1), plates)
    again = decode_site(through_a_file(encode_site(site)))
    for name in ("name", "shape", "unconstrained_shape", "event_dim", "plates", "varying"):
        assert getattr(again, name) == getattr(site, name)
    assert repr(again.support) == repr(site.support)


def test_a_support_that_other_sites_decide_is_not_kept():
    shape = torch.Size(())
    bound = constraints.interval(0.0, torch.tensor(0.7))
    again = decode_site(encode_site(Site("beta", shape, shape, 0, bound, (), varying=True)))
    assert again.varying and again.support is constraints.real


def test_a_support_of_the_users_own_names_the_remedy():
    class Even(constraints.Constraint):
        is_discrete, event_dim = False, 0

    with pytest.raises(FileError, match=r"torch\.distributions\.constraints"):
        encode_support(Even())


def test_a_support_without_bounds_is_kept_by_its_name():
    for name in filter(partial(hasattr, constraints), PLAIN):
        support = getattr(constraints, name)
        again = decode_support(encode_support(support))
        assert type(again) is type(support) and repr(again) == repr(support)
    assert encode_support(constraints.positive) == ["positive"]
    assert encode_support(copy.copy(constraints.simplex)) == ["simplex"]
    assert encode_support(constraints.greater_than(0.0))[1:] == [0.0]


def test_bounds_are_kept_without_their_gradients():
    low = torch.tensor(1.0, requires_grad=True)
    kept = encode_support(constraints.interval(low, 4.0))
    assert float(kept[1]) == 1.0 and not kept[1].requires_grad and kept[2] == 4.0
    nested = constraints.independent(constraints.interval(1.0, 4.0), 2)
    again = decode_support(encode_support(nested))
    assert again.event_dim == 2
    assert (again.base_constraint.lower_bound, again.base_constraint.upper_bound) == (1.0, 4.0)
