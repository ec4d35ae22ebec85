"""Sites on the unconstrained scale: the Jacobian against autodiff, and where each slice goes."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.programs.sites import (
    Inverse,
    PriorDraw,
    Site,
    as_label,
    bijection,
    coordinate_names,
    latent_sites,
    log_abs_det,
    some_value,
    trace_at,
    unpack,
)

ONE = torch.ones((), dtype=torch.float64)
SUPPORTS = {
    "real": dist.Normal(ONE, 1.0),
    "positive": dist.Gamma(2 * ONE, 1.0),
    "interval": dist.Uniform(-ONE, 3 * ONE),
    "simplex": dist.Dirichlet(torch.ones(4, dtype=torch.float64)),
    "ordered": dist.TransformedDistribution(
        dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1),
        [dist.transforms.OrderedTransform()],
    ),
    "correlation": dist.LKJCholesky(3, 2 * ONE),
    "vector": dist.LogNormal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1),
    "matrix": dist.LogNormal(torch.zeros(2, 3, dtype=torch.float64), 1.0).to_event(2),
}


def free_part(support: str, value: Tensor) -> Tensor:
    """The coordinates of a value that are free: a simplex has one too many, a Cholesky factor zeros."""
    if support == "simplex":
        return value[..., :-1]
    if support == "correlation":  # the entries below the diagonal
        return torch.stack([value[..., 1, 0], value[..., 2, 0], value[..., 2, 1]], -1)
    return value


@pytest.mark.parametrize("support", SUPPORTS)
def test_the_log_jacobian_is_that_of_autodiff(support: str) -> None:
    fn = SUPPORTS[support]
    transform = bijection(fn.support)
    shape = transform.inverse_shape(fn.shape())
    flat = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(
        lambda u: free_part(support, transform(u)).reshape(-1), flat
    )
    expected = torch.linalg.slogdet(jacobian.reshape(-1, flat.numel()))[1]
    found = log_abs_det(transform, flat, transform(flat), fn.event_dim)
    assert found.shape == torch.Size([])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("support", SUPPORTS)
def test_it_is_summed_over_the_event_and_not_over_plates(support: str) -> None:
    fn = SUPPORTS[support].expand((2, 5, 3))
    transform = bijection(fn.support)
    flat = torch.randn(transform.inverse_shape(fn.shape()), dtype=torch.float64)
    found = log_abs_det(transform, flat, transform(flat), fn.event_dim)
    assert found.shape == (2, 5, 3)
    single = log_abs_det(transform, flat[1, 3, 2], transform(flat[1, 3, 2]), fn.event_dim)
    torch.testing.assert_close(found[1, 3, 2], single)


def test_a_discrete_value_has_no_jacobian() -> None:
    fn = dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(1)
    transform = bijection(fn.support)
    found = log_abs_det(transform, torch.ones(2, 3), torch.ones(2, 3), 1)
    assert found.tolist() == [0.0, 0.0]


def story(y: Tensor | None = None) -> None:
    """tau > 0; p in the simplex of 3 for each of 2 groups; b in (0, tau); y observed."""
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("outer", 4, dim=-2), pyro.plate("group", 2, dim=-1):
        pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    b = pyro.sample("b", dist.Uniform(0.0, tau))
    pyro.sample("y", dist.Normal(b, 1.0), obs=torch.tensor(0.3) if y is None else y)


def test_each_site_takes_its_slice_in_order() -> None:
    u = torch.linspace(-1, 1, 1 + 4 * 2 * 2 + 1)
    trace, seen = trace_at(story, {}, u)
    assert list(seen.values) == ["tau", "p", "b"]
    tau = seen.values["tau"]
    torch.testing.assert_close(tau, u[0].exp())
    p = bijection(constraints.simplex)(u[1:17].reshape(4, 2, 2))
    torch.testing.assert_close(seen.values["p"], p)
    torch.testing.assert_close(seen.values["b"], tau * u[17].sigmoid())
    torch.testing.assert_close(seen.log_dets["tau"], u[0])
    half = torch.nn.functional.logsigmoid
    torch.testing.assert_close(seen.log_dets["b"], tau.log() + half(u[17]) + half(-u[17]))
    assert seen.log_dets["p"].shape == (4, 2)
    assert float(trace.nodes["y"]["value"]) == pytest.approx(0.3)
    again, _ = trace_at(story, {}, u)  # nothing is left from the run before
    assert torch.equal(again.nodes["b"]["value"], trace.nodes["b"]["value"])
    _, origin = trace_at(story, {}, None)
    assert float(origin.values["tau"]) == 1.0 and float(origin.values["b"]) == 0.5


def test_what_is_said_of_a_site() -> None:
    tau, p, b = latent_sites(story, {})
    assert (tau.name, p.name, b.name) == ("tau", "p", "b")
    assert p.shape == (4, 2, 3) and p.unconstrained_shape == (4, 2, 2) and p.event_dim == 1
    assert p.plates == (("outer", -2, 4), ("group", -1, 2)) and tau.plates == ()
    assert (tau.size, p.size, b.size) == (1, 16, 1)
    assert (tau.varying, p.varying, b.varying) == (False, False, True)
    assert not any(site.discrete for site in (tau, p, b))
    assert coordinate_names((tau, b)) == ["tau", "b"]
    assert coordinate_names((p,))[:5] == [
        f"p[{i}]" for i in ("0, 0, 0", "0, 0, 1", "0, 1, 0", "0, 1, 1", "1, 0, 0")
    ]
    assert latent_sites(lambda: None, {}) == ()


def test_supports_that_depend_on_a_site_through_their_parts() -> None:
    def independent() -> None:
        tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
        pyro.sample("a", dist.Uniform(tau * torch.zeros(3), torch.ones(3)).to_event(1))
        pyro.sample("b", dist.Uniform(tau * torch.ones(3), 9 * torch.ones(3)).to_event(1))

    tau, a, b = latent_sites(independent, {})
    assert (tau.varying, a.varying, b.varying) == (False, False, True)


def discrete() -> None:
    pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("k", dist.Categorical(torch.ones(3)))
    pyro.sample("n", dist.Poisson(torch.full((2,), 3.0)).to_event(1))


def test_discrete_sites_are_refused_or_stand_as_they_are() -> None:
    with pytest.raises(ModelError, match="'k' is discrete"):
        latent_sites(discrete, {})
    x, k, n = latent_sites(discrete, {}, discrete=True)
    assert (x.discrete, k.discrete, n.discrete) == (False, True, True)
    assert (x.size, k.size, n.size) == (1, 1, 2) and k.shape == () and n.unconstrained_shape == (2,)
    _, seen = trace_at(discrete, {}, torch.tensor([0.5, 2.0, 4.0, 7.0]))
    assert seen.values["k"].dtype is torch.long and int(seen.values["k"]) == 2
    assert seen.values["n"].tolist() == [4.0, 7.0] and float(seen.log_dets["n"]) == 0.0


def test_sites_that_are_summed_out_are_left_alone() -> None:
    def enumerated() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})

    assert [site.name for site in latent_sites(enumerated, {})] == ["x"]


def test_some_value_of_a_discrete_distribution() -> None:
    state = torch.get_rng_state()
    assert some_value(dist.Poisson(torch.tensor([3.0]))).tolist() == [0.0]
    assert some_value(dist.Geometric(torch.tensor([0.5])).expand((2,))).tolist() == [0.0, 0.0]
    ones = dist.OneHotCategorical(torch.ones(3))
    drawn = some_value(ones)
    assert float(drawn.sum()) == 1.0 and torch.equal(drawn, some_value(ones))
    assert torch.equal(torch.get_rng_state(), state)
    spins = dist.TransformedDistribution(
        dist.Bernoulli(torch.tensor([0.5])), [dist.transforms.AffineTransform(-1.0, 2.0)]
    )
    assert as_label(dist.Categorical(torch.ones(3)).expand((2,)), torch.ones(2)).dtype is torch.long
    assert as_label(spins, torch.ones(1)).dtype is torch.float32


def site(name: str, shape: tuple[int, ...], free: tuple[int, ...], event_dim: int) -> Site:
    return Site(name, torch.Size(shape), torch.Size(free), event_dim, constraints.real, ())


def test_slices_in_the_shape_of_each_site() -> None:
    sites = (site("a", (), (), 0), site("b", (2, 3), (2, 2), 1), site("c", (3, 3), (3,), 2))
    u = torch.arange(8.0)
    found = {one.name: value for one, value in unpack(sites, u)}
    assert float(found["a"]) == 0.0 and found["b"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found["c"].tolist() == [5.0, 6.0, 7.0]
    many = {one.name: value for one, value in unpack(sites, torch.stack([u, u + 8])[:, None])}
    # two particles to the left of the plate of b (2): a (2, 1), b (2, 2, 2), c, an event of one dimension
    assert many["a"].shape == (2, 1) and many["c"].shape == (2, 1, 3)
    assert many["b"].shape == (2, 2, 2) and float(many["b"][1, 0, 0]) == 9.0
    assert math.prod(many["b"].shape) == 8


def test_a_site_does_not_vary_unless_it_is_said() -> None:
    assert not site("a", (), (), 0).varying


class Whole:
    """What is asked of a discrete distribution over positive whole numbers or spins."""

    def __init__(self, support: constraints.Constraint, *shape: int) -> None:
        self.support, self.sampled = support, torch.full(shape, 7.0)

    def shape(self) -> torch.Size:
        return self.sampled.shape

    def sample(self) -> Tensor:
        return self.sampled


def test_some_value_is_zero_or_one_in_every_place_or_a_draw() -> None:
    assert some_value(Whole(constraints.positive_integer, 2)).tolist() == [1.0, 1.0]
    mixed = constraints.integer_interval(torch.tensor([0.0, 3.0]), torch.tensor([4.0, 4.0]))
    assert some_value(Whole(mixed, 2)).tolist() == [7.0, 7.0]


def test_values_are_pulled_back_and_the_others_left() -> None:
    values = {"tau": torch.tensor(2.0), "b": torch.tensor(0.5), "y": torch.tensor(1.0)}
    pyro.set_rng_seed(0)
    with Inverse(values) as seen:
        trace = pyro.poutine.trace(story).get_trace(torch.tensor(0.3))
    assert set(seen.flat) == {"tau", "b"}
    torch.testing.assert_close(seen.flat["tau"], torch.tensor(2.0).log())
    torch.testing.assert_close(seen.flat["b"], torch.tensor(0.25).logit())
    assert trace.nodes["tau"]["value"] is not None and float(trace.nodes["b"]["value"]) == 0.5
    assert float(trace.nodes["y"]["value"]) == pytest.approx(0.3)
    u = torch.cat([seen.flat["tau"][None], torch.zeros(16), seen.flat["b"][None]])
    again, _ = trace_at(story, {}, u)
    torch.testing.assert_close(again.nodes["b"]["value"], torch.tensor(0.5))


def flat_prior() -> None:
    pyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()).expand([4000]).to_event(1))
    pyro.sample("z", dist.LogNormal(1.0, 0.5).expand([4000]).to_event(1))
    pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))


def test_a_draw_of_the_prior_on_the_unconstrained_scale() -> None:
    """log z ~ N(1, 0.5^2); a flat prior gives N(0, 2^2). Five errors of 4,000 draws: 1e-6."""
    pyro.set_rng_seed(0)
    with PriorDraw() as seen:
        trace = pyro.poutine.trace(flat_prior).get_trace()
    assert set(seen.flat) == {"a", "z"}
    for name, mean, sd in (("a", 0.0, 2.0), ("z", 1.0, 0.5)):
        flat = seen.flat[name]
        assert flat.shape == (4000,)
        assert abs(float(flat.mean()) - mean) < 5 * sd / math.sqrt(4000)
        assert abs(float(flat.std()) / sd - 1) < 5 / math.sqrt(2 * 4000)
        torch.testing.assert_close(trace.nodes[name]["value"], flat.exp())
