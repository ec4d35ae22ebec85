"""log |det dz/du| against torch's own Jacobian, for every support; and what a site says of itself."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from guidebook.errors import ModelError
from guidebook.models.energy.boltzmann import HiddenUnits
from guidebook.models.energy.energy import Boltzmann
from guidebook.programs.sites import (
    Inverse,
    PriorDraw,
    Site,
    Substitute,
    _device,
    as_label,
    bijection,
    coordinate_names,
    latent_sites,
    log_abs_det,
    some_value,
    trace_at,
    unpack,
)
from guidebook.scope import precision


@pytest.fixture(autouse=True)
def double():
    with precision(torch.float64):
        yield


SUPPORTS = {
    "real": dist.Normal(0.0, 1.0),
    "positive": dist.LogNormal(0.0, 1.0),
    "unit interval": dist.Beta(2.0, 3.0),
    "interval": dist.Uniform(-3.0, 7.0),
    "above": dist.Pareto(2.0, 3.0),
    "vector": dist.Normal(torch.zeros(3), 1.0).to_event(1),
    "independent": dist.Gamma(torch.ones(3), 1.0).to_event(1),
    "batch": dist.HalfNormal(torch.ones(2, 2)),
    "simplex": dist.Dirichlet(torch.ones(4)),
    "simplexes": dist.Dirichlet(torch.ones(2, 3)),
    "ordered": dist.TransformedDistribution(
        dist.Normal(torch.zeros(4), 1.0).to_event(1), dist.transforms.OrderedTransform()
    ),
    "correlation": dist.LKJCholesky(3, 1.0),
    "positive, ordered": dist.ImproperUniform(constraints.positive_ordered_vector, (), (3,)),
}  # fmt: skip


def volume(fn, flat):
    """log |det| of the map from u to coordinates of z that are free, by torch.autograd.

    Where z has more numbers than u (a simplex, a correlation factor) the free ones are: all but the
    last of a simplex; those below the diagonal of a factor.
    """
    transform = bijection(fn.support)

    def free(u):
        value = transform(u.reshape(flat.shape))
        support = fn.support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if support is constraints.simplex:
            value = value[..., :-1]
        if support is constraints.corr_cholesky:
            row, column = torch.tril_indices(*value.shape[-2:], offset=-1)
            value = value[..., row, column]
        return value.reshape(-1)

    jacobian = torch.autograd.functional.jacobian(free, flat.reshape(-1))
    return float(torch.linalg.slogdet(jacobian)[1])


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("seed", range(3))
def test_the_log_jacobian_is_torchs_determinant(name, seed):
    """Equal up to rounding: both too large and too small a Jacobian fail."""
    fn = SUPPORTS[name]
    transform = bijection(fn.support)
    shape = transform.inverse_shape(fn.shape())
    flat = torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(shape)))
    value = transform(flat)
    found = log_abs_det(transform, flat, value, fn.event_dim)
    assert found.shape == fn.batch_shape
    assert float(found.sum()) == pytest.approx(volume(fn, flat), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "support",
    [constraints.positive_definite, constraints.lower_cholesky, constraints.sphere],
    ids=str,
)
def test_a_support_without_a_bijection_is_refused(support):
    def model():
        pyro.sample("z", dist.ImproperUniform(support, (), (3, 3)[: support.event_dim]))

    with pytest.raises(ModelError, match="in free coordinates"):
        latent_sites(model, {})


@pytest.mark.parametrize("name", [n for n in SUPPORTS if n != "ordered"])
def test_the_substituted_model_is_the_density_of_u(name):
    """One site: log p(z(u)) + log |det|, of the trace, against the prior and torch's Jacobian."""
    fn = SUPPORTS[name]

    def model():
        pyro.sample("z", fn if not fn.batch_shape else fn.to_event(len(fn.batch_shape)))

    (site,) = latent_sites(model, {})
    u = torch.from_numpy(np.random.default_rng(5).normal(size=site.size))
    trace, seen = trace_at(model, {}, u)
    whole = float(trace.log_prob_sum()) + float(seen.log_dets["z"].sum())
    value = bijection(fn.support)(u.reshape(site.unconstrained_shape))
    expected = float(fn.log_prob(value).sum()) + volume(fn, u.reshape(site.unconstrained_shape))
    assert whole == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("fn", "normaliser"),
    [
        (dist.LogNormal(0.3, 0.7), 0.0),
        (dist.Beta(2.0, 3.0), 0.0),
        (dist.Gamma(3.0, 2.0), 0.0),
        (dist.Uniform(-3.0, 7.0), 0.0),
    ],
)
def test_the_density_of_u_is_normalised(fn, normaliser):
    """The integral of p(z(u)) |dz/du| over the real line is 1: the Jacobian has the right sign."""
    u = torch.linspace(-40, 40, 200_001)
    transform = bijection(fn.support)
    value = transform(u)
    log_density = fn.log_prob(value) + log_abs_det(transform, u, value, 0)
    log_density = torch.where(log_density.isfinite(), log_density, -math.inf)
    total = torch.trapezoid(log_density.exp(), u)
    assert float(total.log()) == pytest.approx(normaliser, abs=1e-6)


def chain(y=None):
    """a ~ U(0, 1), b | a ~ U(0, 1 - a): the support of b depends on a; w a simplex in a plate."""
    a = pyro.sample("a", dist.Uniform(0.0, 1.0))
    pyro.sample("b", dist.Uniform(0.0, 1.0 - a))
    with pyro.plate("group", 2):
        pyro.sample("w", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def test_sites_in_the_order_of_the_model():
    sites = latent_sites(chain, {"y": torch.tensor(0.0)})
    assert [site.name for site in sites] == ["a", "b", "w"]
    assert [site.varying for site in sites] == [False, True, False]
    w = sites[2]
    assert (w.shape, w.unconstrained_shape, w.event_dim, w.size) == ((2, 3), (2, 2), 1, 4)
    assert w.plates == (("group", -1, 2),)
    assert not w.discrete
    assert coordinate_names(sites) == ["a", "b", "w[0, 0]", "w[0, 1]", "w[1, 0]", "w[1, 1]"]


def test_a_position_is_cut_into_the_sites_and_back():
    sites = latent_sites(chain, {"y": torch.tensor(0.0)})
    u = torch.arange(6.0)
    pieces = {site.name: piece for site, piece in unpack(sites, u)}
    assert float(pieces["b"]) == 1.0
    assert torch.equal(pieces["w"], torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    # as Pyro's vectorised particles stand: left of the plates
    several = {site.name: piece for site, piece in unpack(sites, u.expand(7, 1, 6))}
    assert several["a"].shape == (7, 1)
    assert several["w"].shape == (7, 2, 2)


def test_inverse_undoes_substitute():
    data = {"y": torch.tensor(0.0)}
    u = torch.from_numpy(np.random.default_rng(0).normal(size=6))
    substitute = Substitute(u)
    with substitute:
        chain(**data)
    inverse = Inverse(substitute.values)
    with inverse:
        chain(**data)
    flat = torch.cat([inverse.flat[name].reshape(-1) for name in ("a", "b", "w")])
    np.testing.assert_allclose(flat, u, atol=1e-12)


def test_draws_of_the_prior_are_the_priors():
    """Mean and variance of 4,000 draws of z = T(u), 4 standard errors each: false alarm 3e-4."""
    torch.manual_seed(0)

    def model():
        pyro.sample("z", dist.Gamma(3.0, 2.0))

    values = []
    for _ in range(4000):
        drawn = PriorDraw()
        with drawn:
            model()
        values.append(float(drawn.flat["z"].exp()))
    values = np.array(values)
    assert abs(values.mean() - 1.5) < 4 * math.sqrt(0.75 / 4000)
    # Var of (z - 1.5)^2 is mu4 - sigma^4 = (3 + 6/3) 0.75^2 - 0.75^2
    assert abs(((values - 1.5) ** 2).mean() - 0.75) < 4 * math.sqrt(4 * 0.75**2 / 4000)


def test_a_flat_prior_is_drawn_from_a_wide_normal():
    """N(0, 2^2) in u, by mean and standard deviation of 2,000 draws: false alarm 2e-4."""
    torch.manual_seed(0)
    flat = dist.ImproperUniform(constraints.real, (), ())
    values = []
    for _ in range(2000):
        drawn = PriorDraw()
        with drawn:
            pyro.sample("z", flat)
        values.append(float(drawn.flat["z"]))
    assert abs(np.mean(values)) < 4 * 2 / math.sqrt(2000)
    assert abs(np.std(values) - 2) < 4 * 2 / math.sqrt(4000)


def discrete():
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    pyro.sample("k", dist.Binomial(3, p))


def test_a_discrete_site_has_no_unconstrained_scale():
    with pytest.raises(ModelError, match="'k' is discrete"):
        latent_sites(discrete, {})
    sites = latent_sites(discrete, {}, discrete=True)
    assert [site.discrete for site in sites] == [False, True]
    trace, seen = trace_at(discrete, {}, torch.tensor([0.0, 2.0]))
    assert float(seen.values["k"]) == 2.0
    assert float(seen.log_dets["k"]) == 0.0
    assert float(seen.log_dets["p"]) == pytest.approx(math.log(0.25))
    assert float(trace.nodes["k"]["fn"].log_prob(trace.nodes["k"]["value"])) == pytest.approx(
        math.log(3 / 8)
    )


def test_some_value_lies_in_the_support_and_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for fn in (dist.Bernoulli(0.3), dist.Poisson(2.0), dist.Multinomial(4, torch.ones(3) / 3)):
        assert bool(fn.support.check(some_value(fn)).all())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_label_is_a_whole_number_of_torch():
    labels = dist.Categorical(torch.ones(3))
    assert as_label(labels, torch.tensor(2.0)).dtype is torch.long
    assert as_label(labels.expand([2]).to_event(1), torch.tensor([2.0, 1.0])).dtype is torch.long
    assert as_label(dist.Poisson(1.0), torch.tensor(2.0)).dtype is torch.float64


def test_a_site_is_a_value():
    made = Site("a", torch.Size([2]), torch.Size([2]), 0, constraints.real, ())
    assert made == Site("a", torch.Size([2]), torch.Size([2]), 0, constraints.real, ())
    with pytest.raises(AttributeError):
        made.name = "b"


class Edge(dist.LogNormal):
    """Draws of which one lies on the edge of the support."""

    def sample(self, *_):
        return torch.tensor([0.0, 1.0])


def test_a_draw_on_the_edge_of_the_support_is_drawn_anew():
    drawn = PriorDraw()
    with drawn:
        value = pyro.sample("z", Edge(torch.zeros(2), 1.0).to_event(1))
    assert bool(drawn.flat["z"].isfinite().all()) and bool((value > 0).all())


def test_the_log_jacobian_of_a_support_without_event_is_summed_over_the_event():
    flat = torch.arange(30.0).reshape(5, 2, 3)
    found = log_abs_det(bijection(constraints.positive), flat, flat.exp(), 1)
    assert torch.equal(found, flat.sum(-1))
    assert torch.equal(log_abs_det(bijection(constraints.positive), flat, flat.exp(), 0), flat)


def test_sites_are_looked_at_where_their_distribution_lies():
    scale = torch.ones(2, device="meta")
    fn = dist.Normal(scale, scale, validate_args=False)
    assert _device(fn).type == _device(fn.to_event(1)).type == "meta"
    parts = dist.Categorical(logits=scale, validate_args=False)
    mixed = dist.MixtureSameFamily(parts, fn, validate_args=False)
    machine = Boltzmann(torch.zeros(2, 2, device="meta"), scale, 1.0, 0.0, validate_args=False)
    hidden = HiddenUnits(machine, 1, restricted=True)  # has no tensor of its own
    assert {_device(made).type for made in (mixed, machine, hidden)} == {"meta"}
    assert _device(dist.Normal(torch.zeros(2), 1.0)).type == "cpu"


def test_a_bound_that_a_real_site_moves():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Uniform(x, x + 1))

    assert [site.varying for site in latent_sites(model, {})] == [False, True]


def test_a_whole_number_stays_one_a_step_away():
    seen = []

    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0))
        seen.append(float(pyro.sample("n", dist.Poisson(3.0))))

    latent_sites(model, {}, discrete=True)
    assert seen and all(number == round(number) for number in seen)
