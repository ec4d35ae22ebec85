"""The importance-weighted bound and its two gradients."""

import pytest
import torch

from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.models.decoders.latent import LinearVAE
from tests.inference.objectives.on_rows import X, gradients, pair, value


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
