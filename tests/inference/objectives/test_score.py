"""The score-function gradient is that of the ELBO, only noisier."""

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy import stats

import guidebook as gb
from guidebook.diagnostics.measures.gradients import encoder_noise, gradient_noise
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.score import ScoreFunctionELBO
from guidebook.models.decoders.latent import LinearVAE


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = LinearVAE(3, 1).double()
    guide = AmortizedNormal(torch.nn.Linear(3, 2), 1).double()
    return model, guide, {"x": torch.randn(6, 3, dtype=torch.float64)}


@pytest.mark.parametrize("particles", [1, 4])
def test_it_has_the_mean_of_the_reparameterised_gradient(small, particles: int) -> None:
    found = gradient_noise(
        *small, {"path": Trace_ELBO(), "score": ScoreFunctionELBO(particles)}, draws=20_000
    )
    for block in ("guide", "model"):
        path, score = found["path"][block], found["score"][block]
        error = np.sqrt((path.sd**2 + score.sd**2) / 20_000)
        z = np.abs(path.mean - score.mean)[error > 0] / error[error > 0]
        assert z.max() < stats.norm.isf(0.5e-4 / len(z))  # false alarm below 1e-4
    assert found["score"]["guide"].variance > found["path"]["guide"].variance


def test_the_other_particles_are_a_baseline(small) -> None:
    found = gradient_noise(
        *small, {"1": ScoreFunctionELBO(), "4": ScoreFunctionELBO(4)}, draws=5000
    )
    assert found["4"]["guide"].variance < found["1"]["guide"].variance / 4


def test_captured_is_the_reference_path(small) -> None:
    model, guide, data = small
    found = [
        gb.svi(model, guide, data, objective=ScoreFunctionELBO(2), steps=4, compile=path,
               progress=False).history
        for path in ("graph", False)
    ]  # fmt: skip
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_encoder_noise_of_a_fit(small) -> None:
    model, guide, data = small
    fit = gb.svi(model, guide, data, steps=30, compile="graph", progress=False)
    noise = encoder_noise(fit, draws=50)
    assert len(noise) == 5 and all(n.variance > 0 for n in noise.values())
    frozen = gb.exact(model, gb.guides.LinearGaussianPosterior(model), data)
    assert encoder_noise(frozen) == {}


def test_without_settings_it_is_one_draw_of_rows_in_one_plate() -> None:
    objective = ScoreFunctionELBO()
    assert (objective.num_particles, objective.max_plate_nesting) == (1, 1)
