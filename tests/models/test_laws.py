"""What every model on the shelf must obey: mini-batches, vectorisation, recording."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.fx.experimental.proxy_tensor import make_fx

from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.hierarchical import eight_schools, eight_schools_centered
from guidebook.models.regression import linear_regression, logistic_regression

ROWS = 12


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def positive(*shape):
    return draw(*shape).exp()


def decoder_case(make):
    return make().double(), {"x": draw(ROWS, 5).sigmoid()}, {"z": draw(4, ROWS, 2)}


def regression_case(model, binary):
    y = draw(ROWS)
    data = {"X": draw(ROWS, 3), "y": (y > 0).double() if binary else y}
    latents = {"intercept": draw(4), "beta": draw(4, 3)}
    return model, data, latents if binary else {"sigma2": positive(4), **latents}


def schools_case(model, site):
    data = {"sigma": positive(8), "y": draw(8)}
    return model, data, {"mu": draw(4), "tau": positive(4), site: draw(4, 8)}


CASES = {
    "eight-schools": lambda: schools_case(eight_schools, "theta_trans"),
    "eight-schools-centered": lambda: schools_case(eight_schools_centered, "theta"),
    "linear-regression": lambda: regression_case(linear_regression, binary=False),
    "logistic-regression": lambda: regression_case(logistic_regression, binary=True),
    "linear-vae": lambda: decoder_case(lambda: LinearVAE(5, 2)),
    "vae": lambda: decoder_case(lambda: VAE(5, 2, (4,))),
    "gaussian-vae": lambda: decoder_case(lambda: VAE(5, 2, (4,), likelihood="gaussian")),
}
BATCHED = [name for name in CASES if "schools" not in name]
LOCAL = [name for name in CASES if "vae" in name]


@pytest.fixture
def case(request):
    pyro.set_rng_seed(0)
    return CASES[request.param]()


def log_joint(model, values, data):
    return poutine.trace(poutine.condition(model, values)).get_trace(**data).log_prob_sum()


@pytest.mark.parametrize("case", BATCHED, indirect=True)
@pytest.mark.parametrize("batch", [1, 3, 4])
@torch.no_grad()
def test_average_over_a_partition_of_mini_batches_is_the_full_log_joint(case, batch):
    model, data, values = case
    values = {name: value[0] for name, value in values.items()}
    whole = log_joint(model, values, data)
    parts = []
    for rows in torch.arange(ROWS).split(batch):
        part = {name: value[rows] for name, value in data.items()}
        local = {name: value[rows] if name == "z" else value for name, value in values.items()}
        parts.append(log_joint(model, local, {**part, "size": ROWS}))
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", BATCHED, indirect=True)
@torch.no_grad()
def test_mini_batches_draw_no_random_numbers_for_their_plate(case):
    model, data, values = case
    values = {name: value[0] for name, value in values.items()}
    before = torch.get_rng_state()
    log_joint(model, values, {**data, "size": 10 * ROWS})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", CASES, indirect=True)
@torch.no_grad()
def test_vmap_over_latents_equals_one_at_a_time(case):
    model, data, values = case
    expected = [log_joint(model, {k: v[i] for k, v in values.items()}, data) for i in range(4)]
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda latent: log_joint(model, latent, data))(values)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, indirect=True)
@torch.no_grad()
def test_vectorised_particles_equal_one_at_a_time(case):
    model, data, values = case
    expected = torch.stack(
        [log_joint(model, {k: v[i] for k, v in values.items()}, data) for i in range(4)]
    )
    plated = ("z", "theta", "theta_trans")  # the others lack the dimension of the plate
    particles = {k: v if k in plated else v.unsqueeze(1) for k, v in values.items()}

    def vectorised():
        with pyro.plate("particle", 4, dim=-2):
            model(**data)

    trace = poutine.trace(poutine.condition(vectorised, particles)).get_trace()
    trace.compute_log_prob()
    nodes = [node for node in trace.nodes.values() if node["type"] == "sample"]
    terms = [node["log_prob"] for node in nodes if node["log_prob"].dim() == 2]
    found = sum(term.sum(-1) for term in terms)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_log_joint_can_be_recorded_as_one_graph(case):
    model, data, values = case
    values = {name: value[0] for name, value in values.items()}
    other = {name: value * 1.3 for name, value in values.items()}
    with pyro.validation_enabled(False):
        graph = make_fx(lambda latent: log_joint(model, latent, data))(values)
        expected = log_joint(model, other, data)
    torch.testing.assert_close(graph(other), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", LOCAL, indirect=True)
def test_mini_batch_elbo_scales_model_and_guide_alike(case):
    model, data, values = case
    z = values["z"][0]

    def guide(x, size=None):
        with pyro.plate("row", size or ROWS, subsample=torch.arange(len(x))):
            return pyro.sample("z", pyro.distributions.Delta(z[: len(x)]).to_event(1))

    half = {"x": data["x"][: ROWS // 2]}
    elbo = Trace_ELBO()
    small = -elbo.loss(model, guide, **half, size=ROWS)
    doubled = 2 * log_joint(model, {"z": z[: ROWS // 2]}, half)
    assert small == pytest.approx(doubled.item(), rel=1e-12)
