"""How svi says that it ended: still moving, restarts that agree or disagree."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook import Status
from tests.inference.svi.stories import QUIET, moments, normal_mean


def test_too_few_steps_from_far_away_are_still_moving():
    data = {"y": np.full(10, 1000.0), "sigma": 1.0, "prior": 1e4}
    fit = gb.svi(normal_mean, AutoNormal(normal_mean), data, steps=300, **QUIET)
    assert fit.status is Status.STILL_MOVING
    assert "Raise steps" in fit.status.value
    assert moments(fit, "mu", 100)[0] < 900


def test_restarts_of_a_convex_problem_agree():
    data = {"y": np.array([1.0, 2.0, 4.0]), "sigma": 1.0, "prior": 10.0}
    guide = gb.guides.mean_field(normal_mean)
    fit = gb.svi(normal_mean, guide, data, steps=1500, restarts=8, **QUIET)
    assert fit.notes["restarts"] == 8
    assert len(fit.notes["restarts_objective"]) == 8
    assert 0.99 < fit.notes["restarts_rhat"] < 1.02
    assert fit.status is Status.CONVERGED
    mean, sd, _ = moments(fit, "mu")
    precision = 3 + 0.01
    assert abs(mean - 7 / precision) * np.sqrt(precision) < 0.05
    assert sd * np.sqrt(precision) == pytest.approx(1, abs=0.05)


def two_modes(y):
    """A unit normal at -8 and one at 8, as a potential on a flat prior."""
    z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
    parts = torch.stack([-0.5 * (z - 8) ** 2, -0.5 * (z + 8) ** 2])
    pyro.factor("modes", parts.logsumexp(0))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_restarts_in_two_modes_disagree():
    guide = AutoNormal(two_modes, init_loc_fn=pyro.infer.autoguide.init_to_value(
        values={"z": torch.tensor(0.0, dtype=torch.float64)}), init_scale=0.5)  # fmt: skip
    fit = gb.svi(two_modes, guide, {"y": np.array(0.0)}, steps=1500, restarts=8,
                 optim=pyro.optim.Adam({"lr": 0.05}), **QUIET)  # fmt: skip
    assert fit.notes["restarts_rhat"] > 1.2  # R-hat of ranks: bounded where few differ
    assert fit.status is Status.RESTARTS_DISAGREE
    assert "several optima" in fit.status.value
