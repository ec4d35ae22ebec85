"""Amortised flows: densities by quadrature, samples against densities, and the normal inside."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import stats

import guidebook as gb
from guidebook.errors import GuideError
from guidebook.guides.amortized import flow as room
from guidebook.guides.amortized.flow import AmortizedFlow, flow_width
from guidebook.guides.amortized.normal import AmortizedNormal, encoder_width
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

X = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def make(d, bent=True, **settings):
    guide = AmortizedFlow(mlp((5, 6, flow_width(d))), d, **settings).double()
    if bent:  # far from the identity, differently for every row
        with torch.no_grad():
            for parameter in guide.flow.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


@pytest.mark.parametrize("d", [1, 2, 5])
@torch.no_grad()
def test_it_starts_as_the_normal_of_the_same_encoder(d):
    guide = make(d, bent=False)
    q = guide.posterior(X)
    output = guide.encoder(X)[:, : encoder_width(d, "full")]
    normal = AmortizedNormal(torch.nn.Identity(), d, covariance="full").double().posterior(output)
    z = q.rsample((50,))
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z))
    torch.testing.assert_close(q.log_prob(z.clone()), normal.log_prob(z))
    torch.testing.assert_close(q.mean, normal.mean, atol=0.02, rtol=0.0)
    torch.testing.assert_close(q.variance.sqrt(), normal.stddev, atol=0.0, rtol=0.02)


@torch.no_grad()
def test_density_integrates_to_one_in_two_dimensions():
    q = make(2).posterior(X[:2])
    z = q.sample((2000,))
    low, high = z.amin((0, 1)) - 4, z.amax((0, 1)) + 4
    lines = [torch.linspace(a, b, 400, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    cell = math.prod(float(line[1] - line[0]) for line in lines)
    total = torch.zeros(2, dtype=torch.float64)
    for piece in torch.cartesian_prod(*lines).split(50_000):
        total += q.log_prob(piece.unsqueeze(1)).exp().sum(0) * cell
    # splines have kinks in their second derivative, so the grid's error is O(h^2)
    torch.testing.assert_close(total, torch.ones_like(total), atol=2e-3, rtol=0.0)
    # and it is not the normal it started as
    normal = torch.distributions.MultivariateNormal(q.centre, scale_tril=q.scale_tril)
    assert (q.log_prob(z) - normal.log_prob(z)).abs().mean() > 0.1


@torch.no_grad()
def test_samples_follow_the_density_in_one_dimension():
    # Kolmogorov-Smirnov against the integral of the density, four rows: false alarms 4e-6.
    q = make(1).posterior(X)
    line = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    density = q.log_prob(line[:, None, None]).exp().numpy()
    cdf = np.cumsum(density, 0) * 0.001
    np.testing.assert_allclose(cdf[-1], 1, atol=1e-4)
    z = q.sample((5000,)).squeeze(-1).numpy()
    for row in range(4):
        levels = np.interp(z[:, row], line.numpy(), cdf[:, row])
        assert stats.kstest(levels, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("d", [1, 3])
@torch.no_grad()
def test_kept_density_of_a_sample_is_the_density(d):
    q = make(d).posterior(X)
    for shape in ((), (7,), (2, 3)):
        z = q.rsample(shape)
        assert z.shape == (*shape, 4, d)
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(  # rows do not mix
            q.log_prob(z)[..., 1], make_row(q, 1).log_prob(z[..., 1:2, :])[..., 0]
        )


def make_row(q, row):
    kind = type(q)
    one = slice(row, row + 1)
    return kind(q.centre[one], q.scale_tril[one], q.flow, q.context[one])


@torch.no_grad()
def test_moments_are_those_of_many_draws():
    q = make(2).posterior(X)
    z = q.sample((40_000,))
    sd = z.std(0)
    assert ((q.mean - z.mean(0)) / sd).abs().max() < 0.05
    assert (q.variance.sqrt() / sd - 1).abs().max() < 0.05
    assert torch.equal(q.mean, q.mean)


@torch.no_grad()
def test_expanded_it_is_the_same_for_every_particle():
    q = make(2).posterior(X)
    wide = q.expand((3, 4))
    assert wide.batch_shape == (3, 4)
    z = wide.sample()
    assert z.shape == (3, 4, 2)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("d", [1, 2])
def test_captured_steps_equal_pyros_own_and_restarts_are_vectorised(d):
    model = VAE(5, d, (6,), "gaussian", 0.5).double()
    guide = make(d, transforms=1)  # recorded four times
    captured = gb.svi(model, guide, {"x": X}, steps=8, compile="graph", progress=False)
    eager = gb.svi(model, guide, {"x": X}, steps=8, compile=False, progress=False)
    assert captured.notes["path"] == "captured"
    np.testing.assert_allclose(captured.history, eager.history, rtol=1e-8)
    if d == 2:
        many = gb.svi(
            model, guide, {"x": X}, steps=3, compile="graph", restarts=2, progress=False
        )  # fmt: skip
        assert np.isfinite(many.history).all()


def test_mini_batch_is_scaled_to_the_whole_and_particles_are_vectorised():
    model, guide = VAE(5, 2, (6,), "gaussian", 0.5).double(), make(2)
    trace = poutine.trace(guide).get_trace(x=X, size=40)
    expected = 10 * guide.posterior(X).log_prob(trace.nodes["z"]["value"]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(elbo.loss(model, guide, x=X))


def test_every_parameter_gets_a_finite_gradient():
    model, guide = VAE(5, 2, (6,), "gaussian", 0.5).double(), make(2)
    Trace_ELBO().differentiable_loss(model, guide, x=X).backward()
    for name, parameter in guide.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_it_bends_where_the_normal_cannot():
    # z ~ N(0, 1), x | z ~ N(z^2, 0.5^2): two modes at +- sqrt(x), to which no normal comes near. The
    # posterior and the evidence by quadrature.
    def model(x, size=None):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(x.new_zeros(1), 1.0).to_event(1))
            mean = z.square()
            pyro.sample("x", pyro.distributions.Normal(mean, 0.5).to_event(1), obs=x)

    x = torch.full((40, 1), 2.0, dtype=torch.float64)
    line = np.linspace(-8, 8, 20_001)
    joint = stats.norm.pdf(line) * stats.norm(line**2, 0.5).pdf(2.0)
    evidence = math.log(joint.sum() * (line[1] - line[0]))

    def gap(network, guide):
        torch.manual_seed(0)  # one start, whatever ran before: some end with one mode of the two
        settings = {"steps": 1500, "compile": "graph", "progress": False}
        adam = pyro.optim.Adam({"lr": 5e-3})
        fit = gb.svi(model, guide(mlp(network), 1).double(), {"x": x}, optim=adam, **settings)
        return evidence + fit.history[-200:].mean() / len(x)

    normal = gap((1, encoder_width(1)), AmortizedNormal)
    flow = gap((1, flow_width(1)), AmortizedFlow)
    assert normal > 0.5  # log 2: it has to leave one mode out
    assert -0.05 < flow < 0.25


def test_wrong_widths_and_settings():
    with pytest.raises(GuideError, match=f"last layer {flow_width(2)} outputs"):
        AmortizedFlow(mlp((5, 4)), 2).double()(X.double())
    for setting in ({"context": 0}, {"transforms": 0}, {"hidden": 0}, {"bins": 1}):
        with pytest.raises(GuideError, match="at least"):
            AmortizedFlow(mlp((5, 4)), 2, **setting)
    with pytest.raises(GuideError, match="latent_dim=0"):
        AmortizedFlow(mlp((5, 4)), 0)


def test_many_draws_are_bent_in_parts(monkeypatch):
    """Draws and densities are those of all at once; with a gradient nothing is cut."""
    q, noise = make(2).posterior(X), torch.randn(50, 4, 2, dtype=torch.float64)
    whole, density = q._image(noise)
    with torch.no_grad():
        monkeypatch.setattr(room, "AT_ONCE", 24)
        assert len(q._parts(noise)) == 17 and len(q._parts(noise[0])) == 1
        z, log_q = q._image(noise)
        again = q.log_prob(z)
        between = q.log_prob(z[:, :1])
    torch.testing.assert_close((z, log_q), (whole.detach(), density.detach()))
    torch.testing.assert_close(again, log_q)
    torch.testing.assert_close(between[:, 0], log_q[:, 0])
    assert len(q._parts(noise)) == 1
