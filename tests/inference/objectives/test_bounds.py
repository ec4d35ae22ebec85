"""What holds of every bound: one mean of both gradients, captured as in pyro.infer.SVI, what is refused."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.errors import GuideError, SettingError
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.schedules import cyclic, exponential, linear
from guidebook.inference.objectives.sticking import StickingTheLanding
from tests.inference.objectives.on_rows import X, gradients, pair


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ImportanceWeightedELBO(3), ImportanceWeightedELBO(3, "doubly")),
        (BetaELBO(), StickingTheLanding()),
    ],
)
def test_both_gradients_of_the_guide_have_one_mean(one, other):
    model, guide = pair()
    draws = [
        torch.stack([gradients(o, model, guide, s, x=X)[1] for s in range(200)])
        for o in (one, other)
    ]
    difference = draws[0] - draws[1]  # of the same random numbers
    error = difference.std(0) / math.sqrt(200)
    z = (difference.mean(0) / error.clamp(min=1e-12))[error > 1e-12]
    assert z.abs().max() < 5  # of 64 numbers: false alarm 4e-5


# in svi -------------------------------------------------------------------------------------------

OBJECTIVES = [
    pytest.param(lambda: BetaELBO(beta=linear(0.0, 2.0, 0.5)), id="beta-schedule"),
    pytest.param(
        lambda: BetaELBO(beta=cyclic(0.0, 1.0, 2), reconstruction=exponential(0.1, 1.0)), id="both"
    ),
    pytest.param(lambda: BetaELBO(beta=2.0, particles=3), id="beta-particles"),
    pytest.param(lambda: ImportanceWeightedELBO(4), id="importance"),
    pytest.param(lambda: ImportanceWeightedELBO(4, "doubly"), id="doubly"),
    pytest.param(lambda: StickingTheLanding(2), id="landing"),
]


@pytest.mark.parametrize("make", OBJECTIVES)
def test_captured_is_pyros_svi_step_by_step(make):
    model, guide = pair()
    both = [
        gb.svi(
            model, guide, {"x": X}, objective=make(), steps=30, batch_size=4, progress=False,
            compile=how, seed=3,
        ).history
        for how in ("graph", False)
    ]  # fmt: skip
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)
    assert len(both[0]) == 30


# what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BetaELBO(beta=-1.0), "beta is -1.0: give a finite number of at least 0"),
        (lambda: BetaELBO(reconstruction=math.inf), "reconstruction is inf"),
        (lambda: BetaELBO(beta=linear(1.0, -1.0)), "along its schedule"),
        (lambda: ImportanceWeightedELBO(0), "particles=0"),
        (lambda: ImportanceWeightedELBO(2, "score"), "'reparameterised' or 'doubly'"),
        (lambda: BetaELBO().at(gamma=1.0), "no weight or temperature"),
        (lambda: linear(0, 1, 0.0), "share=0.0"),
        (lambda: exponential(0.0, 1.0), "positive numbers"),
        (lambda: cyclic(0, 1, 0), "cycles=0"),
    ],
)
def test_settings_out_of_range(make, said):
    with pytest.raises(SettingError, match=said):
        make()


@pytest.mark.usefixtures("local")
def test_draws_without_a_gradient_are_refused():
    def model(x):
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(len(x))))
            pyro.sample("x", dist.Normal(x.new_zeros(len(x)), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(len(x))))

    for objective in (BetaELBO(), ImportanceWeightedELBO(2), StickingTheLanding()):
        with pytest.raises(GuideError, match="no gradient"):
            objective.loss(model, guide, x=X)
