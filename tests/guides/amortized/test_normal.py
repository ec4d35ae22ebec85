"""Amortised normal guides against torch's distributions and against closed-form posteriors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import softplus

from guidebook.errors import GuideError, SettingError
from guidebook.guides.amortized.normal import SCALE_FLOOR, AmortizedNormal, encoder_width


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def make(covariance, latent_dim=3, width=5):
    encoder = nn.Linear(width, encoder_width(latent_dim, covariance))
    return AmortizedNormal(encoder, latent_dim, covariance=covariance).double()


X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BOTH = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def test_widths():
    assert [encoder_width(d) for d in (1, 2, 5)] == [2, 4, 10]
    assert [encoder_width(d, "full") for d in (1, 2, 5)] == [2, 5, 20]


def test_diagonal_is_the_normal_of_the_docstring():
    guide = make("diagonal")
    h = guide.encoder(X)
    z = torch.randn(6, 3, dtype=torch.float64)
    scale = softplus(h[:, 3:]) + SCALE_FLOOR
    expected = torch.distributions.Normal(h[:, :3], scale).log_prob(z).sum(-1)
    torch.testing.assert_close(guide.posterior(X).log_prob(z), expected, rtol=1e-13, atol=1e-13)


def test_full_is_torchs_multivariate_normal_with_the_documented_triangle():
    guide = make("full")
    h = guide.encoder(X)
    tril = torch.zeros(6, 3, 3, dtype=torch.float64)
    for i in range(3):
        tril[:, i, i] = softplus(h[:, 3 + i]) + SCALE_FLOOR
    tril[:, 1, 0], tril[:, 2, 0], tril[:, 2, 1] = h[:, 6], h[:, 7], h[:, 8]
    z = torch.randn(6, 3, dtype=torch.float64)
    reference = torch.distributions.MultivariateNormal(
        h[:, :3], covariance_matrix=tril @ tril.transpose(-1, -2)
    )
    found = guide.posterior(X)
    torch.testing.assert_close(found.scale_tril, tril, rtol=0.0, atol=0.0)
    torch.testing.assert_close(found.log_prob(z), reference.log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("latent_dim", [1, 2, 7])
def test_full_uses_every_output_of_the_encoder_once(latent_dim):
    d = latent_dim
    guide = AmortizedNormal(nn.Identity(), d, covariance="full")
    outputs = torch.arange(1.0, encoder_width(d, "full") + 1).repeat(2, 1)
    q = guide.posterior(outputs)
    lower = q.scale_tril[0][torch.tril(torch.ones(d, d, dtype=torch.bool), -1)]
    assert lower.tolist() == outputs[0, 2 * d :].tolist()
    assert torch.equal(q.scale_tril, q.scale_tril.tril())
    assert torch.equal(q.mean, outputs[:, :d])


@BOTH
def test_shapes_and_the_sampled_site(covariance):
    guide = make(covariance)
    posterior = guide.posterior(X)
    assert posterior.batch_shape == (6,)
    assert posterior.event_shape == (3,)
    trace = poutine.trace(guide).get_trace(X)
    site = trace.nodes["z"]
    assert site["value"].shape == (6, 3)
    assert [frame.name for frame in site["cond_indep_stack"]] == ["row"]
    expected = posterior.log_prob(site["value"]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-13, atol=1e-13)


@BOTH
def test_mini_batch_is_scaled_to_the_whole(covariance):
    guide = make(covariance)
    trace = poutine.trace(guide).get_trace(x=X, size=60)
    expected = 10 * guide.posterior(X).log_prob(trace.nodes["z"]["value"]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-13, atol=1e-13)
    with pytest.raises(SettingError, match="6 rows"):
        guide(X, size=5)


def test_names_of_site_keyword_and_plate_are_the_users():
    guide = AmortizedNormal(nn.Linear(5, 4), 2, site="h", observed="image", plate="pixel").double()
    trace = poutine.trace(guide).get_trace(image=X, label=torch.zeros(6))
    assert trace.nodes["h"]["value"].shape == (6, 2)
    assert [frame.name for frame in trace.nodes["h"]["cond_indep_stack"]] == ["pixel"]


@BOTH
def test_every_parameter_gets_a_finite_gradient(covariance):
    guide = make(covariance)
    trace = poutine.trace(guide).get_trace(X)
    (trace.log_prob_sum() + trace.nodes["z"]["value"].square().sum()).backward()
    for name, parameter in guide.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@BOTH
def test_extreme_outputs_keep_log_q_finite(covariance):
    guide = AmortizedNormal(nn.Identity(), 2, covariance=covariance)
    outputs = torch.full((1, guide.width), -200.0)
    q = guide.posterior(outputs)
    assert torch.isfinite(q.log_prob(q.rsample())).all()


@BOTH
@torch.no_grad()
def test_vectorised_recorded_and_eager_agree(covariance):
    guide = make(covariance)
    z = torch.randn(4, 6, 3, dtype=torch.float64)
    expected = guide.posterior(X).log_prob(z).sum(-1)

    def log_q(z, x):
        conditioned = poutine.condition(guide, {"z": z})
        return poutine.trace(conditioned).get_trace(x).log_prob_sum()

    log_q(z[0], X)  # registers the encoder's parameters with Pyro, which it cannot do under vmap
    with pyro.validation_enabled(False):
        found = torch.func.vmap(log_q, in_dims=(0, None))(z, X)
        graph = make_fx(log_q)(z[0], X)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(graph(z[1], X), expected[1], rtol=1e-12, atol=1e-12)


@BOTH
def test_vectorised_particles_of_pyro(covariance):
    guide = make(covariance)

    def model(x, size=None):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            mean = z.sum(-1, keepdim=True) + torch.zeros_like(x)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(elbo.loss(model, guide, x=X))


def test_exact_parameters_give_an_elbo_equal_to_the_evidence():
    # z ~ N(0, 1), x | z ~ N(z, 1): q(z | x) = N(x / 2, 1 / 2), p(x) = N(0, 2).
    def model(x, size=None):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    encoder = nn.Linear(1, 2).double()
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[0.5], [0.0]]))
        encoder.bias[0] = 0.0
        encoder.bias[1] = math.log(math.expm1(math.sqrt(0.5) - SCALE_FLOOR))
    guide = AmortizedNormal(encoder, 1)
    x = X[:, :1]
    evidence = (
        torch.distributions.Normal(torch.zeros_like(x), math.sqrt(2.0)).log_prob(x).sum().item()
    )
    assert -Trace_ELBO().loss(model, guide, x=x) == pytest.approx(evidence, abs=1e-10)


@BOTH
def test_wrong_width_names_the_right_one(covariance):
    guide = AmortizedNormal(nn.Linear(5, 4), 3, covariance=covariance).double()
    with pytest.raises(GuideError, match=f"last layer {encoder_width(3, covariance)} outputs"):
        guide(X)


def test_settings_and_missing_data():
    with pytest.raises(GuideError, match="'diagonal' or 'full'"):
        AmortizedNormal(nn.Linear(5, 4), 2, covariance="banded")
    with pytest.raises(GuideError, match="at least 1"):
        AmortizedNormal(nn.Linear(5, 4), 0)
    with pytest.raises(GuideError, match="pass x=tensor"):
        AmortizedNormal(nn.Linear(5, 4), 2)(size=5)
