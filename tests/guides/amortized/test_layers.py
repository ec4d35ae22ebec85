"""The guide of two stochastic layers: in the linear case it reaches the evidence."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.nn.functional import softplus

import guidebook as gb
from guidebook.errors import DataError, GuideError
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.guides.amortized.normal import SCALE_FLOOR, AmortizedNormal, encoder_width
from guidebook.models.decoders import hierarchical_latent
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.networks import mlp

P, D = 5, (3, 2)


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def make(covariance="diagonal", hidden=(4,)):
    kinds = (covariance, covariance) if isinstance(covariance, str) else covariance
    encoders = (
        mlp((P, *hidden, encoder_width(D[0], kinds[0]))),
        mlp((D[0], *hidden, encoder_width(D[1], kinds[1]))),
    )
    return AmortizedLayers(encoders, D, covariance=covariance).double()


def linear_model():
    """z_2 ~ N(0, I), z_1 = A z_2 + a + s e, x = W z_1 + b + sigma e."""
    model = HierarchicalVAE(P, D, (), "gaussian", 0.6).double()
    with torch.no_grad():
        model.middle[0].weight[D[0] :] = 0
        model.middle[0].weight[: D[0]] *= 2
    return model


def pieces(model):
    A, W = model.middle[0].weight[: D[0]], model.decoder[0].weight
    a, b = model.middle[0].bias[: D[0]], model.decoder[0].bias
    s = hierarchical_latent.SCALE_FLOOR + softplus(model.middle[0].bias[D[0] :])
    return A, a, s.square().diag(), W, b, 0.36 * torch.eye(P, dtype=torch.float64)


def log_evidence(model, x):
    A, a, S, W, b, R = pieces(model)
    prior = A @ A.T + S
    q = torch.distributions.MultivariateNormal(W @ a + b, covariance_matrix=W @ prior @ W.T + R)
    return q.log_prob(x).sum()


def set_affine(layer, gain, offset, covariance):
    """The affine encoder whose normal is N(gain x + offset, covariance)."""
    d = len(offset)
    tril = torch.linalg.cholesky(covariance)
    free = (tril.diagonal() - SCALE_FLOOR).expm1().log()
    row, column = torch.tril_indices(d, d, offset=-1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:d] = gain
        layer.bias.copy_(torch.cat([offset, free, tril[row, column]]))


def optimal_guide(model):
    """p(z_1 | x) and p(z_2 | z_1) of the linear Gaussian model, by conditioning."""
    A, a, S, W, b, R = (t.detach() for t in pieces(model))
    prior = A @ A.T + S
    gain = prior @ W.T @ torch.linalg.inv(W @ prior @ W.T + R)
    upper_gain = A.T @ torch.linalg.inv(prior)
    guide = make("full", hidden=())
    eye = torch.eye(D[1], dtype=torch.float64)
    set_affine(guide.lower.encoder[0], gain, a - gain @ (W @ a + b), prior - gain @ W @ prior)
    set_affine(guide.upper.encoder[0], upper_gain, -upper_gain @ a, eye - upper_gain @ A)
    return guide


def test_the_optimal_linear_guide_reaches_the_evidence_with_every_draw():
    model = linear_model()
    with torch.no_grad():
        x = model(size=30)
        expected = log_evidence(model, x).item()
        guide = optimal_guide(model)
    for _ in range(5):
        assert -Trace_ELBO().loss(model, guide, x=x) == pytest.approx(expected, rel=1e-10)


def test_other_guides_stay_below_the_evidence():
    model = linear_model()
    with torch.no_grad():
        x = model(size=30)
        expected = log_evidence(model, x).item()
        for guide in (make(), make("full"), make(("full", "diagonal"))):
            draws = np.array([-Trace_ELBO().loss(model, guide, x=x) for _ in range(400)])
            # one-sided, 6 standard errors: a false alarm in 1e9
            assert draws.mean() < expected + 6 * draws.std() / math.sqrt(400)
            assert draws.mean() < expected - 1


def test_svi_brings_the_full_guide_to_the_evidence():
    model = linear_model().eval()  # Pyro warns of frozen parameters in training mode
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        data = {"x": model(size=30)}
        expected = log_evidence(model, data["x"]).item()
    fit = gb.svi(
        model, make("full", hidden=()), data, steps=3000, compile="graph", progress=False,
        optim=pyro.optim.Adam({"lr": 7e-3}),
    )  # fmt: skip
    with torch.no_grad():
        draws = np.array([-Trace_ELBO().loss(fit.model, fit.guide, **data) for _ in range(400)])
    gap = expected - draws.mean()
    error = draws.std() / math.sqrt(400)
    assert -6 * error < gap < 0.5 + 6 * error  # of 30 rows together; it starts hundreds below


def test_density_is_the_product_of_two_normals():
    guide = make(("full", "diagonal"))
    x = torch.randn(6, P, dtype=torch.float64)
    trace = poutine.trace(guide).get_trace(x)
    z_1, z_2 = trace.nodes["z_1"]["value"], trace.nodes["z_2"]["value"]
    lower = AmortizedNormal(guide.lower.encoder, D[0], covariance="full").double()
    upper = AmortizedNormal(guide.upper.encoder, D[1]).double()
    expected = lower.posterior(x).log_prob(z_1) + upper.posterior(z_1).log_prob(z_2)
    torch.testing.assert_close(trace.log_prob_sum(), expected.sum())
    scaled = poutine.condition(guide, {"z_1": z_1, "z_2": z_2})
    tenfold = poutine.trace(scaled).get_trace(x=x, size=60).log_prob_sum()
    torch.testing.assert_close(tenfold, 10 * expected.sum())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_captured_steps_equal_pyros_own(covariance):
    data = {"x": torch.rand(40, P, dtype=torch.float64)}
    model, guide = HierarchicalVAE(P, D, (4,)).double(), make(covariance)
    for settings in ({}, {"batch_size": 8}):
        settings |= {"steps": 20, "progress": False}
        captured = gb.svi(model, guide, data, compile="graph", **settings)
        eager = gb.svi(model, guide, data, compile=False, **settings)
        assert captured.notes["path"] == "captured"
        np.testing.assert_allclose(captured.history, eager.history, rtol=1e-9)


def test_gradients_are_finite_and_particles_are_vectorised():
    model, guide = HierarchicalVAE(P, D, (4,)).double(), make("full")
    x = torch.rand(1, P, dtype=torch.float64)  # a batch of one
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    elbo.differentiable_loss(model, guide, x=x).backward()
    for name, parameter in guide.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_wrong_widths_missing_data_and_settings():
    x = torch.randn(6, P).double()
    with pytest.raises(GuideError, match="last layer 6 outputs"):
        AmortizedLayers((mlp((P, 4)), mlp((3, 4))), D).double()(x)
    with pytest.raises(GuideError, match="last layer 4 outputs"):
        AmortizedLayers((mlp((P, 6)), mlp((3, 5))), D).double()(x)
    with pytest.raises(GuideError, match="pass x=tensor"):
        make()()
    with pytest.raises(GuideError, match="two"):
        AmortizedLayers((mlp((P, 6)),), (3,))
    with pytest.raises(GuideError, match="at least 1"):
        AmortizedLayers((mlp((P, 6)), mlp((3, 4))), (3, 0))
    with pytest.raises(GuideError, match="'diagonal' or 'full'"):
        AmortizedLayers((mlp((P, 6)), mlp((3, 4))), D, covariance="banded")
    with pytest.raises(DataError, match="integers"):
        make()(x.long())
