"""The importance-weighted bound and its two gradients."""

import math
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch

from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO, _slowed, log_mean_exp
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.models.decoders.latent import LinearVAE
from tests.inference.objectives.on_rows import X, Y, by_hand, gradients, normals, pair, value


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("gradient", ["reparameterised", "doubly"])
@pytest.mark.parametrize("size", [None, 80])
def test_the_importance_weighted_bound_is_the_log_mean_weight_of_each_row(gradient, size):
    model, guide = pair()
    data = {"x": X} if size is None else {"x": X, "size": size}
    found = value(ImportanceWeightedELBO(6, gradient), model, guide, **data)
    torch.manual_seed(1)
    log_w = row_log_weights(model, guide, data, 6)
    expected = log_w.exp().mean(0).log().sum().item() * (1 if size is None else 10)
    assert -found == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("local")
def test_at_the_exact_posterior_every_bound_is_the_evidence():
    torch.manual_seed(0)
    model = LinearVAE(5, 2).double()
    guide = LinearGaussianPosterior(model)
    evidence = guide.log_evidence(X).sum().item()
    for objective in (ImportanceWeightedELBO(4), ImportanceWeightedELBO(1, "doubly"), BetaELBO()):
        assert -value(objective, model, guide, x=X) == pytest.approx(evidence, abs=1e-8)


@pytest.mark.usefixtures("local")
def test_the_doubly_reparameterised_gradient_of_the_model_is_the_usual_one():
    model, guide = pair()
    usual = gradients(ImportanceWeightedELBO(5), model, guide, x=X, size=80)
    doubly = gradients(ImportanceWeightedELBO(5, "doubly"), model, guide, x=X, size=80)
    torch.testing.assert_close(doubly[0], usual[0], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(doubly[1], usual[1])


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("particles", [1, 2, 3])
def test_the_doubly_reparameterised_gradient_is_the_formula(particles, size):
    """sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi), w~ the normalised weights of a row."""
    guide, noise, log_prior, log_likelihood = by_hand(particles)
    z = (guide.a * Y + guide.b * noise).detach().requires_grad_()
    log_q = dist.Normal(guide.a.detach() * Y, guide.b.detach()).log_prob(z)
    log_w = log_prior(z) + log_likelihood(z) - log_q
    (slope,) = torch.autograd.grad(log_w.sum(), z)
    share = log_w.detach().softmax(0)
    path = (share.square() * slope * (guide.a * Y + guide.b * noise)).sum()
    scale = 10 if size else 1
    expected = torch.autograd.grad(-scale * path, list(guide.parameters()))
    torch.manual_seed(1)
    loss = ImportanceWeightedELBO(particles, "doubly").differentiable_loss(
        normals, guide, x=Y, size=size
    )
    bound = (log_w.logsumexp(0) - math.log(particles)).sum()
    torch.testing.assert_close(loss.detach(), -scale * bound.detach())
    found = torch.autograd.grad(loss, list(guide.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_log_of_the_mean_is_over_the_first_dimension():
    weights = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 5.0]])
    torch.testing.assert_close(log_mean_exp(weights.log()).exp(), torch.tensor([2.0, 2.0, 4.0]))


def test_plates_are_not_nested_unless_it_is_said():
    assert ImportanceWeightedELBO(3).max_plate_nesting == 1
    assert ImportanceWeightedELBO(3, max_plate_nesting=2).max_plate_nesting == 2


def test_a_share_is_that_of_its_particle_and_row():
    """Particles, a plate of one inside, rows: the gradient of the sum is the share itself."""
    value = torch.zeros(3, 1, 4, 2, requires_grad=True)
    share = torch.arange(12.0).reshape(3, 4)
    frame = SimpleNamespace(name="row", dim=-1)
    site = {"cond_indep_stack": [frame], "fn": SimpleNamespace(event_shape=(2,))}
    slowed = _slowed(value, share, site, "row")
    slowed.sum().backward()
    assert slowed.shape == value.shape
    assert torch.equal(value.grad, share[:, None, :, None].expand(3, 1, 4, 2))
