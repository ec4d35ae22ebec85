"""Noise of gradients against closed forms, enumeration and what the sources prove."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from scipy import stats

from guidebook.diagnostics.measures.gradients import gradient_noise
from guidebook.errors import SettingError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.enumerated import EnumeratedELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.sticking import StickingTheLanding
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

Y = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64)
X = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()
DRAWS = 4000


def of_mu(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def guide_at(loc, scale):
    def guide(y):
        m = pyro.param("m", y.new_tensor(loc))
        s = pyro.param("s", y.new_tensor(scale), constraint=constraints.positive)
        pyro.sample("mu", dist.Normal(m, s))

    return guide


def test_the_reparameterised_gradient_of_a_gaussian_has_its_closed_form():
    """z = m + s e, log p(z, y) has curvature -5 and its mode at 2: with r = log s,

    dL/dm = 5 (m - 2 + s e),   dL/dr = 5 (m - 2) s e + 5 s^2 e^2 - 1.
    """
    m, s = 1.4, 0.6
    noise = gradient_noise(
        of_mu, guide_at(m, s), {"y": Y}, {"path": Trace_ELBO()}, draws=20_000
    )["path"]["guide"]  # fmt: skip
    mean = np.array([5 * (m - 2), 5 * s**2 - 1])
    sd = np.array([5 * s, math.hypot(5 * (m - 2) * s, 5 * s**2 * math.sqrt(2))])
    assert np.abs((noise.mean - mean) / sd * math.sqrt(20_000)).max() < 5  # false alarm 1e-6
    np.testing.assert_allclose(noise.sd, sd, rtol=0.05)
    assert noise.norm == pytest.approx(np.linalg.norm(mean), rel=0.05)
    assert noise.variance == pytest.approx(np.square(sd).sum(), rel=0.1)
    assert noise.snr == pytest.approx(np.mean(np.abs(mean) / sd), rel=0.05)


def test_sticking_the_landing_has_no_variance_at_the_posterior():
    objectives = {"path": Trace_ELBO(), "landing": StickingTheLanding(), "score": TraceGraph_ELBO()}
    noise = gradient_noise(
        of_mu, guide_at(2.0, 5**-0.5), {"y": Y}, objectives, draws=50
    )  # fmt: skip
    assert noise["landing"]["guide"].variance < 1e-20
    assert noise["path"]["guide"].variance > 1
    assert math.isinf(noise["landing"]["guide"].snr)


def discrete():
    torch.manual_seed(0)
    model = DiscreteVAE(6, 2, 3, (5,)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(
                3
            )  # a decoder that is not linear on the simplex: relaxing it is an error
    return model, AmortizedCategorical(mlp((6, 6)), 2, 3).double()


def test_relaxed_gradients_are_biased_and_calm_score_function_gradients_neither():
    model, guide = discrete()
    objectives = {
        "score": Trace_ELBO(),
        "relaxed": RelaxedELBO(1.0),
        "cold": RelaxedELBO(0.1),
        "straight": RelaxedELBO(1.0, straight_through=True),
    }
    noise = gradient_noise(
        model, guide, {"x": X}, objectives, exact=EnumeratedELBO(), draws=DRAWS, seed=1
    )
    found = {name: blocks["guide"] for name, blocks in noise.items()}
    # Bonferroni over the parameters: false alarm 1e-4
    limit = stats.norm.isf(0.5e-4 / len(found["score"].mean))
    assert np.abs(found["score"].z).max() < limit
    assert np.abs(noise["score"]["model"].z).max() < limit
    assert np.abs(noise["straight"]["model"].z).max() < limit  # its draws are exact
    for name in ("relaxed", "straight"):
        assert np.abs(found[name].z).max() > 2 * limit
        assert found[name].bias > 5 * found[name].bias_error
        assert found[name].variance < found["score"].variance / 3
    assert found["cold"].bias < found["relaxed"].bias
    assert found["cold"].variance > 5 * found["relaxed"].variance


def test_pyros_other_objectives_are_measured_one_by_one():
    model, guide = discrete()
    noise = gradient_noise(
        model, guide, {"x": X}, {"graph": TraceGraph_ELBO()}, exact=EnumeratedELBO(), draws=150
    )  # fmt: skip
    limit = stats.t.isf(0.5e-4 / len(noise["graph"]["guide"].mean), 149)
    assert np.abs(noise["graph"]["guide"].z).max() < limit + 1  # 1: t with 150 skewed draws


def test_more_particles_drown_the_encoders_gradient_unless_it_is_doubly_reparameterised():
    torch.manual_seed(0)
    model = VAE(6, 2, (5,)).double()
    guide = AmortizedNormal(mlp((6, 4)), 2).double()
    with torch.no_grad():  # wider than the posterior: weights are bounded, and the asymptotics hold
        guide.encoder[-1].bias[2:] = 1.5
    objectives = {
        (gradient, k): ImportanceWeightedELBO(k, gradient)
        for gradient in ("reparameterised", "doubly")
        for k in (1, 8, 64)
    }
    noise = gradient_noise(model, guide, {"x": X}, objectives, draws=2000)
    encoder = {key: blocks["guide"].snr for key, blocks in noise.items()}
    decoder = {key: blocks["model"].snr for key, blocks in noise.items()}
    usual = [encoder["reparameterised", k] for k in (1, 8, 64)]
    doubly = [encoder["doubly", k] for k in (1, 8, 64)]
    assert usual[0] > 1.5 * usual[1] > 2 * usual[2]
    assert doubly[2] > 1.5 * doubly[1]
    assert doubly[2] > 5 * usual[2]
    assert decoder["reparameterised", 64] > 3 * decoder["reparameterised", 1]


def test_nothing_moves_and_the_seed_decides():
    model, guide = discrete()
    before = [p.clone() for p in [*model.parameters(), *guide.parameters()]]
    state = torch.get_rng_state()
    objectives = {"relaxed": RelaxedELBO(0.5)}
    first, second = (
        gradient_noise(model, guide, {"x": X}, objectives, draws=10, seed=4)["relaxed"]["guide"]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.mean, second.mean)
    assert math.isnan(first.bias)
    after = [*model.parameters(), *guide.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_settings_out_of_range():
    model, guide = discrete()
    with pytest.raises(SettingError, match="draws=1"):
        gradient_noise(model, guide, {"x": X}, {"score": Trace_ELBO()}, draws=1)
    with pytest.raises(SettingError, match="at least one objective"):
        gradient_noise(model, guide, {"x": X}, {})
    with pytest.raises(SettingError, match="exact="):
        _ = gradient_noise(model, guide, {"x": X}, {"score": Trace_ELBO()}, draws=2)["score"][
            "guide"
        ].z
    for part in (model, guide):
        part.requires_grad_(False)
    with pytest.raises(SettingError, match="no gradient"):
        gradient_noise(model, guide, {"x": X}, {"score": Trace_ELBO()})
