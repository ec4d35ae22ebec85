"""The log density on the unconstrained scale, against SciPy and by hand."""

import math
import pickle
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
import torch
from pyro.distributions import constraints

import guidebook as gb
from guidebook.errors import ModelError
from guidebook.programs import recordings as room
from guidebook.programs.graphs.recorded import CannotRecord, record
from guidebook.programs.nodes import plate_nesting, sample_nodes
from guidebook.programs.potential import Potential
from guidebook.programs.recordings import eager_hessian, rounded


def regression(x, y=None):
    """A positive scale, a free slope, a probability: three kinds of support."""
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.HalfCauchy(3.0))
    mix = pyro.sample("mix", dist.Beta(2.0, 3.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(slope * x * mix, scale), obs=y)


def garch(y):
    """The support of the second site depends on the first: beta in (0, 1 - alpha)."""
    alpha = pyro.sample("alpha", dist.Uniform(0.0, 1.0))
    beta = pyro.sample("beta", dist.Uniform(0.0, 1.0 - alpha))
    pyro.sample("y", dist.Normal(alpha + 2 * beta, 0.3).expand([len(y)]).to_event(1), obs=y)


def supports(y):
    """One site of every support that needs a transform of several coordinates."""
    pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample("L", dist.LKJCholesky(3, 2.0))
    pyro.sample("cuts", dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()))  # fmt: skip
    with pyro.plate("group", 2):
        pyro.sample("rates", dist.Gamma(2.0, 1.0))
    centre = pyro.sample("centre", dist.Uniform(-1.0, 4.0))
    pyro.sample("y", dist.Normal(centre, 1.0).expand([len(y)]).to_event(1), obs=y)


def mixture(y):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    with pyro.plate("component", 2):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        probabilities = torch.stack([weight, 1 - weight])
        z = pyro.sample("z", dist.Categorical(probabilities), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mean[z], 0.7), obs=y)


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


Y = tensor([0.4, -0.7, 1.9, 0.1])
X = tensor([1.0, -1.0, 2.0, 0.5])
CASES = {
    "regression": (regression, {"x": X, "y": Y}),
    "garch": (garch, {"y": Y}),
    "supports": (supports, {"y": Y}),
    "mixture": (mixture, {"y": Y}),
}
EVERY = pytest.mark.parametrize("name", CASES)


def positions(potential, count=5, seed=0):
    rng = np.random.default_rng(seed)
    return tensor(rng.normal(size=(count, potential.dimension)))


def test_value_is_scipys_log_joint_plus_the_log_jacobian():
    potential = Potential(*CASES["regression"])
    u = positions(potential)
    log_joint, log_det = potential(u)
    for row, joint, jacobian in zip(u.numpy(), log_joint, log_det, strict=True):
        slope, scale, mix = row[0], math.exp(row[1]), scipy.special.expit(row[2])
        expected = (
            scipy.stats.norm(0, 2).logpdf(slope)
            + scipy.stats.halfcauchy(scale=3).logpdf(scale)
            + scipy.stats.beta(2, 3).logpdf(mix)
            + scipy.stats.norm(slope * X.numpy() * mix, scale).logpdf(Y.numpy()).sum()
        )
        assert float(joint) == pytest.approx(expected, rel=1e-12)
        assert float(jacobian) == pytest.approx(row[1] + math.log(mix * (1 - mix)), rel=1e-12)


def test_a_support_that_depends_on_another_site():
    potential = Potential(*CASES["garch"])
    assert [site.varying for site in potential.sites] == [False, True]
    u = positions(potential)
    values = potential.constrain(u)
    a, b = scipy.special.expit(u.numpy()).T
    np.testing.assert_allclose(values["alpha"], a, rtol=1e-12)
    np.testing.assert_allclose(values["beta"], b * (1 - a), rtol=1e-12)
    log_joint, log_det = potential(u)
    spread = scipy.stats.norm(0, 0.3)
    mean = a + 2 * b * (1 - a)
    expected = -np.log1p(-a) + spread.logpdf(Y.numpy()[None] - mean[:, None]).sum(1)
    np.testing.assert_allclose(log_joint, expected, rtol=1e-11)
    jacobian = np.log(a * (1 - a)) + np.log(b * (1 - b) * (1 - a))
    np.testing.assert_allclose(log_det, jacobian, rtol=1e-11)


def test_an_enumerated_mixture_is_the_log_sum_over_components():
    potential = Potential(*CASES["mixture"])
    assert [site.name for site in potential.sites] == ["weight", "mean"]
    u = positions(potential)
    log_joint, _ = potential(u)
    weight = scipy.special.expit(u[:, 0].numpy())
    prior = scipy.stats.beta(2, 2).logpdf(weight)
    prior = prior + scipy.stats.norm(0, 3).logpdf(u[:, 1:].numpy()).sum(1)
    parts = scipy.stats.norm(0, 0.7).logpdf(Y.numpy()[None, :, None] - u[:, None, 1:].numpy())
    parts = parts + np.log(np.stack([weight, 1 - weight], -1))[:, None]
    expected = prior + scipy.special.logsumexp(parts, axis=-1).sum(1)
    np.testing.assert_allclose(log_joint, expected, rtol=1e-11)


@EVERY
def test_gradient_by_central_differences(name):
    potential = Potential(*CASES[name])
    u = positions(potential, count=3)
    value, grad = potential.value_and_grad(u)
    log_joint, log_det = potential(u)
    torch.testing.assert_close(value, log_joint + log_det, rtol=1e-12, atol=1e-12)
    step = 1e-5
    for i in range(potential.dimension):
        shift = torch.zeros(potential.dimension, dtype=u.dtype)
        shift[i] = step
        ahead, _ = potential.value_and_grad(u + shift)
        behind, _ = potential.value_and_grad(u - shift)
        # error: step^2 of the third derivative, rounding 1e-16 |value| / step
        torch.testing.assert_close((ahead - behind) / (2 * step), grad[:, i], rtol=1e-6, atol=1e-7)


@EVERY
def test_hessian_is_the_difference_of_gradients(name):
    potential = Potential(*CASES[name])
    u = positions(potential, count=1)[0]
    hessian = potential.hessian(u)
    assert torch.equal(hessian, hessian.T)
    step = 1e-5
    shifts = step * torch.eye(potential.dimension, dtype=u.dtype)
    ahead = potential.value_and_grad(u + shifts)[1]
    behind = potential.value_and_grad(u - shifts)[1]
    torch.testing.assert_close((ahead - behind) / (2 * step), hessian, rtol=1e-6, atol=1e-6)


def test_the_hessian_is_a_second_derivative_not_a_difference(monkeypatch):
    """A Categorical summed out by Pyro's einsum has second derivatives too."""

    def difference(*arguments):
        raise AssertionError("the Hessian was taken by differences")

    monkeypatch.setattr(Potential, "_difference_hessian", difference)
    for model, data in CASES.values():
        potential = Potential(model, data)
        assert torch.isfinite(potential.hessian(positions(potential, 1)[0])).all()


@EVERY
def test_unconstrain_is_the_inverse_of_constrain(name):
    potential = Potential(*CASES[name])
    u = positions(potential, count=7)
    values = potential.constrain(u)
    for site in potential.sites:
        value = values[site.name]
        assert value.shape == (7, *site.shape)
        if not site.varying:
            assert bool(site.support.check(value).all())
    back = potential.unconstrain({site.name: values[site.name] for site in potential.sites})
    torch.testing.assert_close(back, u, rtol=1e-9, atol=1e-9)


def test_sites_say_what_they_are():
    potential = Potential(*CASES["supports"])
    found = {site.name: site for site in potential.sites}
    assert found["weights"].shape == (3,)
    assert found["weights"].unconstrained_shape == (2,)
    assert found["L"].shape == (3, 3)
    assert found["L"].size == 3
    assert found["rates"].plates == (("group", -1, 2),)
    assert constraints.simplex is found["weights"].support
    assert potential.dimension == 2 + 3 + 3 + 2 + 1
    assert potential.observed == ("y",)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 2050])
def test_batches_of_any_size_equal_single_positions(count):
    potential = Potential(*CASES["regression"])
    u = positions(potential, count=count)
    value, grad = potential.value_and_grad(u)
    assert value.shape == (count,)
    assert grad.shape == (count, 3)
    for i in {0, count - 1}:
        one, slope = potential.single()(u[i])
        torch.testing.assert_close(one, value[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slope, grad[i], rtol=1e-12, atol=1e-12)


def test_masks_and_scales_count_in_the_density():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 12, subsample=torch.arange(4)), pyro.poutine.mask(mask=y > 0):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    potential = Potential(model, {"y": Y})
    log_joint, _ = potential(tensor([[0.2]]))
    kept = Y.numpy()[Y.numpy() > 0]
    expected = scipy.stats.norm.logpdf(0.2) + 3 * scipy.stats.norm(0.2, 1).logpdf(kept).sum()
    assert float(log_joint[0]) == pytest.approx(expected, rel=1e-12)


def test_a_model_that_reads_values_is_evaluated_draw_by_draw():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = 1.0 if mu > 0 else 2.0
        pyro.sample("y", dist.Normal(mu, scale).expand([len(y)]).to_event(1), obs=y)

    potential = Potential(model, {"y": Y})
    u = tensor([[0.3], [-0.3]])
    value, grad = potential.value_and_grad(u)
    for mu, scale, found, slope in ((0.3, 1.0, value[0], grad[0]), (-0.3, 2.0, value[1], grad[1])):
        expected = scipy.stats.norm.logpdf(mu) + scipy.stats.norm(mu, scale).logpdf(Y).sum()
        assert float(found) == pytest.approx(expected, rel=1e-12)
        expected_slope = -mu + float((Y - mu).sum()) / scale**2
        assert float(slope) == pytest.approx(expected_slope, rel=1e-12)
    assert potential.vectorised is False
    torch.testing.assert_close(potential.unconstrain({"mu": u[:, 0]}), u)


def test_what_was_recorded_serves_at_other_data():
    """Against a potential recorded at those data alone: every quantity, in one and in many positions."""
    there = {"y": Y.flip(0) + 1.0}
    first = Potential(regression, {"x": X, "y": Y}, changing=("y",))
    u = tensor(np.random.default_rng(0).standard_normal((3, 3)))
    for quantity in (first, first.value_and_grad, first.constrain):
        quantity(u)
    first.hessian(u[0])
    first.run_single()(u[0])
    recorded = dict(first._recordings.graphs)
    moved, alone = first.at(there), Potential(regression, {"x": X, **there})
    for found, expected in (
        (moved(u), alone(u)),
        (moved.value_and_grad(u), alone.value_and_grad(u)),
        (moved.run_single()(u[1]), alone.run_single()(u[1])),
        ((moved.hessian(u[2]),), (alone.hessian(u[2]),)),
        (tuple(moved.constrain(u).values()), tuple(alone.constrain(u).values())),
    ):
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    assert moved._recordings.graphs == recorded
    assert not torch.allclose(moved(u)[0], first(u)[0])
    assert torch.equal(first.data["y"], Y)


def test_data_that_change_may_not_be_read():
    def reads(y):
        scale = 2.0 if float(y.max()) > 1 else 1.0
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, scale).expand([len(y)]).to_event(1), obs=y)

    assert torch.isfinite(Potential(reads, {"y": Y})(tensor([[0.5]]))[0]).all()
    with pytest.raises(CannotRecord, match="reads the value"):
        Potential(reads, {"y": Y}, changing=("y",))(tensor([[0.5]]))


def location(y=None, scale=1.0):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    if y is not None:
        pyro.sample("y", dist.Normal(mean, scale).expand(y.shape).to_event(y.dim()), obs=y)


def test_the_rows_of_another_function_stand_in_for_the_gradient_alone() -> None:
    """Where it was told: not in the potential itself, at other data, or in another process."""
    potential, u = Potential(regression, {"x": X, "y": Y}, changing=("y",)), torch.ones(2, 3)
    expected = potential.value_and_grad(u)
    asked = []
    twin = potential.computed_by(lambda v: (asked.append(v), v[:, 0], v)[1:])
    value, grad = twin.value_and_grad(u)
    assert torch.equal(value, u[:, 0]) and torch.equal(grad, u) and asked[0] is u
    others = potential, twin.at({"y": Y}), pickle.loads(pickle.dumps(twin))
    for other in others:
        assert all(map(torch.equal, other.value_and_grad(u), expected))
    assert torch.equal(twin(u)[0], potential(u)[0]) and len(asked) == 1


@pytest.mark.parametrize(
    ("rows", "chunk"), [(4, 2048), (100_000, 10), (250_000, 4), (750_000, 1), (5_000_000, 1)]
)
def test_a_million_numbers_are_held_at_once(rows, chunk):
    """Of data with so many rows; 2,048 positions at most, and one at least."""
    data = {"y": torch.zeros(1).expand(rows), "scale": torch.ones(())}
    assert Potential(location, data).chunk == chunk
    assert Potential(location, {}).chunk == 2048


def test_batches_are_rounded_up_to_a_power_of_two():
    assert [rounded(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
    potential = Potential(*CASES["regression"])
    for count in (3, 4, 3):
        potential.value_and_grad(positions(potential, count))
    assert list(potential._recordings.graphs) == [("gradient", 4)]


def test_draws_of_the_prior_have_its_moments_on_the_unconstrained_scale():
    """Of a Normal(1, 2) and a LogNormal(0.5, 1): 5 standard errors."""

    def model():
        pyro.sample("slope", dist.Normal(1.0, 2.0))
        pyro.sample("rate", dist.LogNormal(0.5, 1.0))

    potential = Potential(model, {})
    u = potential.prior_positions(100, 3)
    assert u.shape == (100, 2)
    for column, mean, sd in ((0, 1.0, 2.0), (1, 0.5, 1.0)):
        assert u[:, column].mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(100))
        assert u[:, column].std() == pytest.approx(sd, abs=5 * sd / np.sqrt(200))
    np.testing.assert_array_equal(potential.prior_positions(5, 3), u[:5])
    assert (potential.prior_positions(5, 4)[:, 0] != u[:5, 0]).all()


@pytest.mark.parametrize("name", ["regression", "garch"])
def test_a_hessian_by_differences_is_the_hessian(name):
    potential = Potential(*CASES[name])
    u = positions(potential, count=1)[0]
    u[0] = -1.0
    found = potential._difference_hessian(u)
    torch.testing.assert_close(found, potential.hessian(u), rtol=1e-5, atol=1e-5)


def test_the_work_of_a_draw_is_that_of_the_recorded_numbers():
    """The graph's numbers and fifty for every operation; of a model that reads values all that is held."""
    potential = Potential(*CASES["regression"])
    nodes = [n for n in potential.single().graph.nodes if "elements" in n.meta]
    assert potential.cost == sum(n.meta["elements"] for n in nodes) + 50 * len(nodes)

    def reads(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0 if mu > 0 else 2.0), obs=y[0])

    assert Potential(reads, {"y": Y}).cost == 4_000_000


def test_what_a_program_says_of_its_plates_and_names():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * mean)
        pyro.deterministic("count", torch.tensor(3))
        with (
            pyro.plate("group", 3, dim=-2),
            pyro.plate("row", 8, subsample=torch.arange(4), dim=-1),
        ):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    potential = Potential(model, {"y": Y.expand(3, 4)})
    assert (potential.derived, potential.observed) == (("twice",), ("y",))
    assert potential.plates["y"] == (("group", -2), ("row", -1)) and potential.plates["mean"] == ()
    assert potential.plate_sizes == {"group": 3, "row": 4}
    assert potential.plate_nesting is None
    assert Potential(*CASES["mixture"]).plate_nesting == 1
    values = potential.constrain(tensor([[0.4], [1.5]]))
    torch.testing.assert_close(values["twice"], 2 * values["mean"])


def test_the_precision_is_that_of_the_data():
    single = torch.zeros(3)
    assert Potential(location, {"y": single}).dtype == torch.float32
    assert Potential(location, {"y": single.double()}).dtype == torch.float64
    assert Potential(location, {}).dtype == torch.get_default_dtype()
    counts = {"scale": torch.tensor(2), "y": single.double()}
    assert Potential(location, counts).dtype == torch.float64
    value, _ = Potential(location, {"y": single.double()}).value_and_grad(tensor([[0.1]]))
    assert value.dtype == torch.float64


def test_what_is_collected_from_traces_is_stacked():
    potential = Potential(*CASES["regression"])
    u = positions(potential, count=3)
    found = potential.replay(
        "means", lambda trace: {"mean": trace.nodes["y"]["fn"].loc}, u
    )["mean"]  # fmt: skip
    values = potential.constrain(u)
    torch.testing.assert_close(found, (values["slope"] * values["mix"])[:, None] * X)


def test_one_recording_of_a_small_model_serves_at_other_data():
    """Every quantity of a normal mean, against its closed form at the data that are given later."""
    first = Potential(location, {"y": Y}, changing=("y",))
    assert first.vectorised
    u, there = tensor([[0.3], [-1.2]]), Y + 2.0
    first(u), first.run_single()(u[0]), first.hessian(u[0])
    moved = first.at({"y": there})
    assert moved is not first and moved._recordings.graphs is first._recordings.graphs
    normal = scipy.stats.norm.logpdf
    value = normal(u[:, 0]) + normal(there[None] - u).sum(1)
    np.testing.assert_allclose(sum(moved(u)), value, rtol=1e-12)
    one, slope = moved.run_single()(u[1])
    assert float(one) == pytest.approx(value[1], rel=1e-12)
    assert float(slope) == pytest.approx(float(-u[1, 0] + (there - u[1]).sum()), rel=1e-12)
    assert float(moved.hessian(u[1])) == pytest.approx(-1.0 - len(Y), rel=1e-9)
    assert moved.vectorised


def test_the_log_jacobian_is_summed_over_coordinates_and_sites():
    """Of exp, d log exp(u) / du = 1: log |det| is the sum of the positions."""

    def rates():
        with pyro.plate("group", 3):
            pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("scale", dist.HalfNormal(1.0))

    potential = Potential(rates, {})
    u = torch.tensor([[0.3, -1.0, 2.0, 0.1], [0.0, 0.5, 0.7, -3.0]])
    torch.testing.assert_close(potential(u)[1], u.sum(1))


def test_how_deep_the_plates_of_a_summed_out_site_go():
    def nested():
        with pyro.plate("group", 3, dim=-2), pyro.plate("row", 2, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(3, 2))

    def flat():
        z = pyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.0))

    assert plate_nesting(sample_nodes(nested, {})) == 2
    assert plate_nesting(sample_nodes(flat, {})) == 0


def test_prior_draws_beyond_the_largest_numbers_are_drawn_anew():
    """exp of N(0, 10,000^2) is 0 or infinite in 94 of 100 draws: these are N(0, 2^2) instead."""

    def model(y):
        pyro.sample("s", dist.LogNormal(tensor(0.0), tensor(1e4)))
        pyro.sample("b", dist.Normal(torch.zeros(3, dtype=y.dtype), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(tensor(0.0), 1.0), obs=y)

    found = Potential(model, {"y": tensor(0.3)}).prior_positions(200, 0)
    assert found.shape == (200, 4) and np.isfinite(found).all()
    anew = found[np.abs(found[:, 0]) < 10.0, 0]
    assert len(anew) > 170
    np.testing.assert_allclose(anew.std(), 2.0, rtol=0.25)
    np.testing.assert_allclose(found[:, 1:].std(0), 1.0, rtol=0.25)


def test_prior_draws_of_a_model_in_single_precision_are_in_double():
    def model(y):
        pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    assert Potential(model, {"y": torch.tensor(0.3)}).prior_positions(3, 0).dtype == np.float64


@pytest.mark.parametrize("reads_values", [False, True])
def test_densities_carry_no_graph(reads_values):
    """Of positions and parameters with gradients too; a model that reads values runs one by one."""
    weight = torch.nn.Parameter(tensor(2.0))

    def model(y):
        b = pyro.sample("b", dist.Normal(tensor(0.0), 1.0))
        if reads_values and float(b.detach()) > 1e9:
            b = 2 * b
        pyro.sample("y", dist.Normal(weight * b, 1.0), obs=y)

    potential = Potential(model, {"y": tensor(0.3)})
    u = tensor([[0.1], [0.2]]).requires_grad_()
    log_joint, log_det = potential(u)
    assert potential.vectorised is not reads_values
    assert not log_joint.requires_grad and not log_det.requires_grad
    at = np.array([0.1, 0.2])
    expected = scipy.stats.norm.logpdf(at) + scipy.stats.norm.logpdf(0.3, 2 * at)
    np.testing.assert_allclose(log_joint.numpy(), expected)


def random_walk(y):
    level = torch.zeros(())
    for t in range(len(y)):
        level = pyro.sample(f"level_{t}", dist.Normal(level, 0.5))
        pyro.sample(f"y_{t}", dist.Normal(level, 1.0), obs=y[t])


def test_a_loop_over_time_grows_with_its_length():
    """Numbers, not only operations: many slices of u would each have a gradient as long as u."""

    def work(count):
        graph = Potential(random_walk, {"y": torch.arange(count) / count}).single()
        sizes = [n.meta["elements"] for n in graph.graph.nodes if "elements" in n.meta]
        return graph.meta["recorded"], sum(sizes)

    (few, small), (many, large) = work(10), work(20)
    assert many < 2.2 * few and large < 2.2 * small


@pytest.mark.parametrize("long", [True, False])
def test_a_long_recording_is_made_once_for_all_numbers_of_positions(long, monkeypatch):
    monkeypatch.setattr(room, "LONG", 100 if long else 10_000)
    made = []
    monkeypatch.setattr(room, "record", lambda *a: made.append(a) or record(*a))
    potential = Potential(random_walk, {"y": torch.arange(10) / 10})
    u = torch.randn(600, 10, generator=torch.Generator().manual_seed(0))
    potential.single()
    whole = torch.stack(potential(u)).sum(0)
    for count in (3, 40, 300):
        torch.testing.assert_close(torch.stack(potential(u[:count])).sum(0), whole[:count])
    assert len(made) == 2 if long else len(made) > 3
    plain = Potential(
        random_walk, potential.data
    )  # log p, gradient and Hessian are those of the model
    value, grad = torch.func.vmap(plain.value_and_grad_at)(u[:3])
    for one, other in zip(potential.value_and_grad(u[:3]), (value, grad), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(potential.hessian(u[0]), eager_hessian(plain, u[0]))
    values = [float(potential.run_single()(row)[0]) for row in u[:5]]
    np.testing.assert_allclose(values, whole[:5], rtol=1e-5)


def test_the_start_of_a_fit_is_not_recorded_again(monkeypatch):
    made = []
    monkeypatch.setattr(room, "record", lambda *a: made.append(a) or record(*a))
    fit = gb.svi(
        random_walk,
        gb.guides.mean_field(random_walk),
        {"y": torch.arange(6) / 6},
        steps=10,
        progress=False,
    )
    before = len(made)
    fit.potential.single()
    fit.potential.hessian(torch.zeros(6))
    assert len(made) == before > 1
    twin = pickle.loads(pickle.dumps(fit.potential))
    assert float(twin(torch.zeros(1, 6))[0]) == float(fit.potential(torch.zeros(1, 6))[0])


def test_what_autograd_cannot_do_is_said_with_the_line():
    def of_numpy(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(float(z.numpy()), 1.0), obs=torch.tensor(0.5))

    for engine in (gb.laplace, partial(gb.nuts, progress=False)):
        with pytest.raises(ModelError, match=r"(?s)numpy\(\).*test_potential.py"):
            engine(of_numpy, {})


# in one evaluation -------------------------------------------------------------------------------


def counts(y):
    """Reads a value, so that it is run position by position."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    offset = 0.1 if float(y.sum()) > 0 and float(rate.detach()) > 0 else 0.0
    pyro.deterministic("twice", 2 * rate)
    pyro.sample("y", dist.Normal(rate + offset, 1.0).expand([len(y)]).to_event(1), obs=y)


@pytest.mark.parametrize("name", [*CASES, "counts"])
def test_everything_at_once_is_what_the_parts_are(name):
    """log p, log det, gradient and values, also of a model that cannot be recorded."""
    model, data = (counts, {"y": Y}) if name == "counts" else CASES[name]
    one, other = Potential(model, data), Potential(model, data)
    u = positions(one)
    log_joint, log_det, grad, values = one.everything(u)
    parts = other(u)
    assert one.vectorised == other.vectorised == (name != "counts")
    torch.testing.assert_close((log_joint, log_det), parts)
    torch.testing.assert_close(log_det, other.log_det(u))
    torch.testing.assert_close(grad, other.value_and_grad(u)[1])
    torch.testing.assert_close(values, other.constrain(u))
    assert list(values) == list(other.constrain(u)) and not grad.requires_grad
    torch.testing.assert_close(one.everything(u)[2], grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bernoulli_far_from_its_mode_is_what_closed_forms_give(dtype):
    """log p(y | u) = -log(1 + exp(-u)) for y = 1, also where exp(-u) is beyond every number."""
    y = torch.tensor([1.0, 0.0], dtype=dtype)

    def coins(y):
        u = pyro.sample("u", dist.Normal(torch.zeros((), dtype=dtype), 1e4))
        with pyro.plate("coin", 2):
            pyro.sample("y", dist.Bernoulli(logits=u + torch.zeros_like(y)), obs=y)

    potential = Potential(coins, {"y": y})
    u = torch.tensor([-5e3, -720.0, -95.0, -3.0, 0.0, 40.0, 120.0, 5e3], dtype=dtype)[:, None]
    value, gradient = potential.value_and_grad(u)
    at = u[:, 0].double().numpy()
    known = scipy.stats.norm.logpdf(at, 0, 1e4) + scipy.special.log_expit(at)
    known = known + scipy.special.log_expit(-at)
    slope = 1 - 2 * scipy.special.expit(at) - at / 1e8
    rounding = 8 * torch.finfo(dtype).eps
    np.testing.assert_allclose(value.double().numpy(), known, rtol=rounding)
    np.testing.assert_allclose(gradient[:, 0].double().numpy(), slope, rtol=rounding, atol=rounding)
