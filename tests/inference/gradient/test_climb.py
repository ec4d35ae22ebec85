"""Both paths of svi on a loss without noise: Adam is torch's own, the average that of the last fifth."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO
from torch import nn

import guidebook as gb
from guidebook import Status
from guidebook.errors import ModelError, SettingError
from guidebook.guides.autoguides.defaults import Defaults
from guidebook.inference.gradient.problem import Settings
from guidebook.inference.optimisers.adam import schedule

STEPS = 60
CENTRE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
WIDTH = torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)


class Points(nn.Module):
    """A guide whose three numbers are all that the loss looks at."""

    def __init__(self, start: torch.Tensor = CENTRE * 0) -> None:
        super().__init__()
        self.place = nn.Parameter(start.clone())

    def forward(self, y: torch.Tensor) -> None:
        pyro.sample("z", dist.Delta(self.place).to_event(1))


def model(y: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros_like(y), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def bowl(place: torch.Tensor) -> torch.Tensor:
    return ((place - CENTRE) / WIDTH).square().sum() + (place - CENTRE).abs().sum().cosh()


class Bowl(ELBO):
    """An objective that is a function of the guide's parameters alone."""

    def _get_trace(self, model, guide, args, kwargs):
        raise NotImplementedError

    def differentiable_loss(self, model, guide, **data):
        trace = pyro.poutine.trace(guide).get_trace(**data)
        return bowl(trace.nodes["z"]["value"])

    def loss(self, model, guide, **data):
        return float(self.differentiable_loss(model, guide, **data).detach())

    def loss_and_grads(self, model, guide, **data):
        loss = self.differentiable_loss(model, guide, **data)
        loss.backward()
        return float(loss.detach())


class NanFromTheFifth(Bowl):
    """A loss that is not finite where the first number has moved beyond 0.04."""

    def differentiable_loss(self, model, guide, **data):
        trace = pyro.poutine.trace(guide).get_trace(**data)
        place = trace.nodes["z"]["value"]
        return bowl(place) + torch.where(place[0] > 0.045, torch.nan, 0.0)


def fitted(path, objective=Bowl, steps=STEPS, guide=None, **settings):
    return gb.svi(
        model, guide or Points(), {"y": torch.ones(3, dtype=torch.float64)}, objective=objective(),
        steps=steps, compile=path, progress=False, **settings,
    )  # fmt: skip


def torchs_adam(rates, **options):
    """Iterates and losses of torch.optim.Adam with these rates."""
    place = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimiser = torch.optim.Adam([place], **options)
    iterates, losses = [], []
    for rate in rates:
        optimiser.param_groups[0]["lr"] = float(rate)
        optimiser.zero_grad()
        loss = bowl(place)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        iterates.append(place.detach().clone())
    return torch.stack(iterates), np.array(losses)


@pytest.fixture(params=["graph", False], ids=["captured", "reference"])
def path(request):
    return request.param


def test_an_adam_that_is_given_is_torchs_to_the_last_step(path):
    options = {"betas": (0.8, 0.95), "eps": 1e-3}
    fit = fitted(path, optim=pyro.optim.Adam({"lr": 0.05, **options}))
    iterates, losses = torchs_adam([0.05] * STEPS, **options)
    np.testing.assert_allclose(fit.history, losses, rtol=1e-12)
    torch.testing.assert_close(fit.guide.place.detach(), iterates[-1], rtol=1e-10, atol=1e-12)


def test_without_one_the_rate_falls_and_the_last_fifth_is_averaged(path):
    """12 of 60 steps are averaged; the rate is 0.01, the default of a guide without a network."""
    fit = fitted(path)
    iterates, losses = torchs_adam(schedule(0.01, STEPS))
    np.testing.assert_allclose(fit.history, losses, rtol=1e-12)
    mean = iterates[-12:].mean(0)
    torch.testing.assert_close(fit.guide.place.detach(), mean, rtol=1e-10, atol=1e-12)


def test_the_schedule_is_flat_for_three_tenths_then_a_cosine_to_a_hundredth():
    rates = schedule(0.5, 101)
    np.testing.assert_allclose(rates[:31], 0.5, rtol=1e-12)
    assert float(rates[65]) == pytest.approx(0.5 * (0.01 + 0.99 / 2), rel=1e-12)
    assert float(rates[100]) == pytest.approx(0.005, rel=1e-12)


def test_what_is_not_finite_ends_the_fit_at_the_parameters_that_did_it(path):
    """Adam's first moves are 0.01 each: the number exceeds 0.045 after the fifth."""
    fit = fitted(path, NanFromTheFifth, optim=pyro.optim.Adam({"lr": 0.01}))
    iterates, losses = torchs_adam([0.01] * 5)
    assert fit.status is Status.STOPPED_BY_NAN
    assert len(fit.history) == 6 and math.isnan(fit.history[5])
    np.testing.assert_allclose(fit.history[:5], losses, rtol=1e-12)
    torch.testing.assert_close(fit.guide.place.detach(), iterates[-1], rtol=1e-10, atol=1e-12)


def test_restarts_are_told_apart_and_the_lowest_is_kept():
    """Each restart is a run of its own from its own start; on this bowl all of them end at one place."""
    fit = fitted("graph", steps=4000, restarts=4)
    scores = fit.notes["restarts_objective"]
    assert len(scores) == 4
    assert fit.history[-300:].mean() == pytest.approx(min(scores), rel=1e-12)
    torch.testing.assert_close(fit.guide.place.detach(), CENTRE, rtol=0, atol=1e-3)


def test_steps_auto_goes_on_to_the_bottom_of_the_bowl(path):
    """From 0 to -2 at 0.01 a step: 100 planned steps end half way there, and say so."""
    short = fitted(path, steps=100)
    assert short.status is Status.STILL_MOVING and "ended" not in short.notes
    guide = Points()
    guide.defaults = Defaults(steps=100)
    fit = fitted(path, steps="auto", guide=guide)
    assert fit.status is Status.CONVERGED
    assert fit.notes["steps"] == len(fit.history) <= 1000
    assert "no longer rose" in fit.notes["ended"]
    assert bowl(fit.guide.place.detach()) == pytest.approx(float(bowl(CENTRE)), abs=0.02)
    rest = len(fit.history) - 100
    rates = [0.01] * rest + schedule(0.01, 100).tolist()
    np.testing.assert_allclose(fit.history, torchs_adam(rates)[1], rtol=1e-9)


def test_a_fit_that_is_flat_from_the_start_is_that_of_the_number(path):
    """At the bottom from the start: the planned steps, to the bit."""
    flat, number = Points(CENTRE), Points(CENTRE)
    flat.defaults = Defaults(steps=200)
    ours = fitted(path, steps="auto", guide=flat)
    theirs = fitted(path, steps=200, guide=number)
    np.testing.assert_array_equal(ours.history, theirs.history)
    assert torch.equal(ours.guide.place, theirs.guide.place)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"steps": 0}, "steps=0 is out of range"),
        ({"steps": 10, "restarts": 0}, "restarts=0 is out of range"),
        ({"steps": 10, "compile": "always"}, "compile='always' is unknown"),
    ],
)
def test_settings_out_of_range(setting, said):
    with pytest.raises(SettingError, match=said):
        Settings(**setting)


def test_restarts_and_checkpoints_need_a_recorded_step(tmp_path):
    with pytest.raises(SettingError, match="restarts=2 needs a step that is recorded"):
        fitted(False, restarts=2)
    with pytest.raises(SettingError, match="checkpoint= needs a step that is recorded"):
        fitted(False, checkpoint=tmp_path / "fit")


def test_a_step_that_fails_where_a_run_does_not_names_the_line(recwarn):
    """A run without gradients may leave torch; a step may not."""

    def falls(seconds):
        slope = pyro.sample("slope", dist.LogNormal(0.0, 1.0))
        length = 1.0 / slope if slope.numpy() > 0.1 else torch.tensor(10.0)
        pyro.sample("seconds", dist.Normal(length, 0.1), obs=seconds)

    guide = pyro.infer.autoguide.AutoNormal(falls)
    with pytest.raises(ModelError, match=r"Step 1 of pyro.infer.SVI .*slope.numpy\(\).*detach"):
        gb.svi(falls, guide, {"seconds": np.array(1.1)}, steps=3, progress=False)


def test_a_model_that_sums_all_out_is_trained_and_has_no_draws():
    """A mixture of two centres that are parameters: pure maximum likelihood."""

    def centres(y):
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(loc[z], 0.5), obs=y)

    y = np.array([-2.0, -1.6, 1.5, 2.1])
    fit = gb.svi(centres, lambda y: None, {"y": y}, steps=5, compile="graph", progress=False)
    near = np.exp(-0.5 * ((y[:, None] - np.array([-1.0, 1.0])) / 0.5) ** 2) / (
        0.5 * math.sqrt(2 * math.pi)
    )
    assert fit.history[0] == pytest.approx(-np.log(near.mean(1)).sum(), rel=1e-10)
    with pytest.raises(ModelError, match="Every latent site of the model is summed out"):
        fit.posterior(5)
    with pytest.raises(ModelError, match="no continuous latent site"):
        gb.laplace(centres, {"y": y})
