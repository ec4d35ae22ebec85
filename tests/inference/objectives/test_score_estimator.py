"""One draw of the score-function estimator, written out: its value and its gradients."""

import pytest
import torch

from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.rows import row_log_weights, traced, values_of
from guidebook.inference.objectives.score import ScoreFunctionELBO
from guidebook.models.decoders.latent import LinearVAE
from guidebook.scope import local_parameters

X = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [None, 60])
@pytest.mark.parametrize("particles", [1, 2, 5])
def test_each_draw_is_weighed_against_the_others_of_its_row(
    particles: int, size: int | None
) -> None:
    """The gradient is that of sum_i mean_k [s_ki log q(z_ki | x_i) + log w_ki] at fixed draws z,
    s_ki = log w_ki less the mean of the other particles' (0 where there is none).
    """
    data = {"x": X} if size is None else {"x": X, "size": size}
    scale = 1.0 if size is None else 10.0
    with local_parameters():
        torch.manual_seed(0)
        model = LinearVAE(3, 1).double()
        guide = AmortizedNormal(torch.nn.Linear(3, 2), 1).double()
        parameters = list(guide.parameters())
        torch.manual_seed(1)
        loss = ScoreFunctionELBO(particles).differentiable_loss(model, guide, **data)
        found = torch.autograd.grad(loss, parameters)
        torch.manual_seed(1)
        log_w = row_log_weights(model, guide, data, particles).detach()
        torch.manual_seed(1)
        z = values_of(traced(guide, data, particles))["z"].detach().reshape(particles, 6, 1)
        log_q = guide.posterior(X).log_prob(z).reshape(particles, 6)
    assert float(loss.detach()) == pytest.approx(-scale * float(log_w.mean(0).sum()), rel=1e-10)
    others = [[log_w[j] for j in range(particles) if j != k] for k in range(particles)]
    signal = [log_w[k] - (sum(o) / len(o) if o else 0.0) for k, o in enumerate(others)]
    fixed = ((torch.stack(signal) * log_q) - log_q).mean(0).sum()
    expected = torch.autograd.grad(-scale * fixed, parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
