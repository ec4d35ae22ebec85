"""StickingTheLanding: no noise at the exact posterior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO

import guidebook as gb
from guidebook.errors import GuideError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.objectives.fixed import with_fixed_parameters
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.sticking import StickingTheLanding
from guidebook.models.decoders.latent import LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters
from tests.inference.objectives.on_rows import Shifted, X, Y, by_hand, gradients, normals, pair


@pytest.mark.usefixtures("local")
def test_with_one_particle_the_doubly_reparameterised_gradient_sticks_the_landing():
    model, guide = pair()
    doubly = gradients(ImportanceWeightedELBO(1, "doubly"), model, guide, x=X)
    landing = gradients(StickingTheLanding(), model, guide, x=X)
    for one, other in zip(doubly, landing, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("local")
def test_at_the_exact_posterior_sticking_the_landing_has_no_noise():
    torch.manual_seed(0)
    model = LinearVAE(5, 2).double()
    exact = LinearGaussianPosterior(model).posterior(X)
    d, width = 2, 5
    guide = AmortizedNormal(mlp((5, width)), d, covariance="full").double()
    with torch.no_grad():  # the exact posterior is affine in x, with one covariance
        tril = exact.scale_tril[0]
        m_inverse = LinearGaussianPosterior(model).posterior(torch.eye(5).double()).mean
        zero = LinearGaussianPosterior(model).posterior(torch.zeros(1, 5).double()).mean
        layer = guide.encoder[0]
        layer.weight.zero_()
        layer.weight[:d] = (m_inverse - zero).T
        layer.bias[:d] = zero[0]
        layer.bias[d : 2 * d] = torch.log(torch.expm1(tril.diagonal() - 1e-6))
        layer.bias[2 * d :] = tril[1, 0]
    torch.testing.assert_close(guide.posterior(X).mean, exact.mean, rtol=1e-10, atol=1e-10)
    landing = gradients(StickingTheLanding(), model, guide, x=X)[1]
    assert landing.abs().max() < 1e-9
    assert gradients(Trace_ELBO(), model, guide, x=X)[1].abs().max() > 0.1


def of_mu(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def guide_of_mu(y):
    loc = pyro.param("loc", torch.zeros((), dtype=y.dtype))
    scale = pyro.param("scale", torch.ones((), dtype=y.dtype), constraint=constraints.positive)
    pyro.sample("mu", dist.Normal(loc, scale))


@pytest.mark.parametrize("how", ["graph", False])
def test_sticking_the_landing_of_a_function_guide_reaches_the_closed_form(how):
    y = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64)
    fit = gb.svi(
        of_mu, guide_of_mu, {"y": y}, objective=StickingTheLanding(), steps=1500, compile=how,
        progress=False,
    )  # fmt: skip
    precision = 4 + 0.01
    draws = fit.posterior(20_000)["posterior"]["mu"].values
    # at the optimum the gradient has no noise, so only the draws have: 5 of their standard errors
    sd = precision**-0.5
    assert draws.mean() == pytest.approx(10 / precision, abs=5 * sd / math.sqrt(20_000))
    assert draws.std() == pytest.approx(sd, rel=5 / math.sqrt(40_000) + 0.01)


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("particles", [1, 3])
def test_the_value_and_the_path_derivative_averaged_over_particles(particles, size):
    guide, noise, log_prior, log_likelihood = by_hand(particles)
    z = guide.a * Y + guide.b * noise
    log_q = dist.Normal(guide.a.detach() * Y, guide.b.detach()).log_prob(z)
    expected = (log_q - log_prior(z) - log_likelihood(z)).sum() / particles * (10 if size else 1)
    torch.manual_seed(1)
    loss = StickingTheLanding(particles).differentiable_loss(normals, guide, x=Y, size=size)
    torch.testing.assert_close(loss, expected)
    parameters = list(guide.parameters())
    wanted = torch.autograd.grad(expected, parameters)
    for one, other in zip(torch.autograd.grad(loss, parameters), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_one_particle_and_plates_that_are_not_nested_unless_it_is_said():
    plain = StickingTheLanding()
    assert (plain.num_particles, plain.max_plate_nesting) == (1, 1)


class Stored(Shifted):
    """The width is in Pyro's store."""

    def forward(self, x, size=None):
        width = pyro.param("width", self.b.detach().clone())
        pyro.sample("mu", dist.Normal(self.a, width))


def test_no_parameter_of_a_part_with_fixed_ones_gets_a_gradient():
    with local_parameters():
        fixed = with_fixed_parameters(Stored())
        trace = pyro.poutine.trace(fixed).get_trace(x=Y)
    assert list(trace.nodes) == ["_INPUT", "mu", "_RETURN"]
    fn = trace.nodes["mu"]["fn"]
    assert (float(fn.loc), float(fn.scale)) == (0.3, 0.7)
    assert not fn.loc.requires_grad and not fn.scale.requires_grad


def test_the_parameters_of_a_function_are_not_known():
    with pytest.raises(GuideError, match="PyroModule"):
        with_fixed_parameters(guide_of_mu)
