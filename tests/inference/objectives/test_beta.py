"""BetaELBO: Trace_ELBO at one, its parts add up, and schedules run inside the recorded step."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import guidebook as gb
from guidebook.errors import FileError
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.schedules import constant, linear
from guidebook.inference.objectives.sticking import StickingTheLanding
from tests.inference.objectives.on_rows import X, gradients, pair, value


@pytest.mark.usefixtures("local")
def test_beta_of_one_is_trace_elbo_draw_by_draw():
    model, guide = pair()
    for data in ({"x": X}, {"x": X, "size": 80}):
        theirs = value(Trace_ELBO(), model, guide, **data)
        assert value(BetaELBO(), model, guide, **data) == pytest.approx(theirs, rel=1e-12)
        assert value(StickingTheLanding(), model, guide, **data) == pytest.approx(theirs, rel=1e-12)
    for mine, theirs in zip(
        gradients(BetaELBO(), model, guide, x=X),
        gradients(Trace_ELBO(), model, guide, x=X),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("local")
def test_weights_multiply_their_part():
    model, guide = pair()
    both = value(BetaELBO(), model, guide, x=X)
    kl = value(BetaELBO(reconstruction=0.0), model, guide, x=X)
    fit = value(BetaELBO(beta=0.0), model, guide, x=X)
    assert kl + fit == pytest.approx(both, rel=1e-12)
    weighed = value(BetaELBO(beta=4.0, reconstruction=0.3), model, guide, x=X)
    assert weighed == pytest.approx(4 * kl + 0.3 * fit, rel=1e-12)
    # the KL part is the closed form: N(m, s) against N(0, 1), 8 rows x 2 dimensions
    q = guide.posterior(X).base_dist
    exact = (0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()).sum().detach()
    draws = torch.tensor(
        [value(BetaELBO(reconstruction=0.0, particles=50), model, guide, s, x=X) for s in range(40)]
    )
    error = float(draws.std()) / math.sqrt(40)
    assert abs(float(draws.mean() - exact)) < 4 * error  # false alarm: 1 in 4,000 for 39 degrees


def test_the_recorded_step_weighs_with_the_value_of_its_schedule():
    """Without movement, (L(beta_t) - L(0)) / (L(1) - L(0)) of the same draws is beta_t."""
    model, guide = pair()
    still = pyro.optim.Adam({"lr": 0.0})

    def history(beta):
        objective = BetaELBO(beta=beta)
        return gb.svi(
            model, guide, {"x": X}, objective=objective, optim=still, steps=21, progress=False,
            compile="graph",
        ).history  # fmt: skip

    low, high = history(0.0), history(1.0)
    warm = (history(linear(0.0, 1.0, 0.5)) - low) / (high - low)
    np.testing.assert_allclose(warm, np.minimum(1.0, np.linspace(0, 2, 21)), atol=1e-10)
    again = (history(constant(0.25)) - low) / (high - low)
    np.testing.assert_allclose(again, 0.25, atol=1e-10)


def test_restarts_and_a_checkpoint_keep_the_schedule(tmp_path):
    model, guide = pair()
    settings = {"steps": 40, "progress": False, "compile": "graph"}
    fit = gb.svi(model, guide, {"x": X}, objective=BetaELBO(linear(0, 1)), restarts=2, **settings)
    assert np.isfinite(fit.history).all()
    path = tmp_path / "fit"
    gb.svi(model, guide, {"x": X}, objective=BetaELBO(linear(0, 1)), checkpoint=path, **settings)
    with pytest.raises(FileError, match="schedules"):
        gb.svi(
            model, guide, {"x": X}, objective=BetaELBO(linear(0, 2)), checkpoint=path, **settings
        )
