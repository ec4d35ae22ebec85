"""The first objective that is not finite stops the fit, and the report names the site."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook import Status
from guidebook.inference.gradient.arrival import froze

DATA = {"y": np.array([0.5, 1.5])}
ADAM = pyro.optim.Adam({"lr": 0.1})


def falls_off_the_edge(y):
    """log(3 - a) has no value for a > 3, where the data pull a."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal((3.0 - a).log(), 1.0))
    pyro.sample("y", dist.Normal(a + 0 * b, 0.1).expand([2]).to_event(1), obs=y + 20)


def scale_reaches_zero(y):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    pyro.sample("y", dist.Normal(0.0, torch.relu(1.0 - a)).expand([2]).to_event(1), obs=0 * y)


def root_at_zero(y):
    """The value is finite and its gradient is not: d sqrt(x) / dx at 0."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    root = (0 * a).abs().sqrt()
    pyro.sample("y", dist.Normal(a + root, 1.0).expand([2]).to_event(1), obs=y)


def run_away(y):
    loc = pyro.param("loc", torch.tensor(0.0))
    pyro.sample("a", dist.Normal(loc, (50.0 * loc).exp()))


@pytest.mark.parametrize("compile", ["graph", False])
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (falls_off_the_edge, ["'b'", "model"]),
        (scale_reaches_zero, ["'y'", "log_prob", "scale"]),
    ],
)
def test_the_site_the_step_and_the_cause_are_named(model, words, compile):
    fit = gb.svi(
        model, AutoNormal(model, init_loc_fn=pyro.infer.autoguide.init_to_value(
            values={"a": torch.tensor(0.0), "b": torch.tensor(1.0)})),
        DATA, optim=ADAM, steps=400, compile=compile, progress=False,
    )  # fmt: skip
    assert fit.status is Status.STOPPED_BY_NAN
    assert not fit.status.good
    step = int(fit.notes["nan"].split("step ")[1].split(":")[0])
    assert np.isfinite(fit.history[:step]).all()
    assert not np.isfinite(fit.history[step])
    for word in words:
        assert word in fit.notes["nan"], fit.notes["nan"]


@pytest.mark.parametrize("compile", ["graph", False])
def test_the_parameters_are_those_before_the_nan(compile):
    fit = gb.svi(
        scale_reaches_zero,
        AutoNormal(scale_reaches_zero, init_loc_fn=pyro.infer.autoguide.init_to_median),
        DATA, optim=ADAM, steps=400, compile=compile, progress=False, seed=1,
    )  # fmt: skip
    assert fit.status is Status.STOPPED_BY_NAN
    assert all(torch.isfinite(p).all() for p in fit.guide.parameters())


def test_a_gradient_that_is_not_finite_is_told_apart_from_a_value():
    fit = gb.svi(
        root_at_zero, AutoNormal(root_at_zero), DATA, optim=ADAM, steps=20, compile="graph",
        progress=False,
    )  # fmt: skip
    assert fit.status is Status.STOPPED_BY_NAN
    assert "gradient" in fit.notes["nan"]
    assert "square root" in fit.notes["nan"]


def test_restarts_that_run_into_nan_are_left_out():
    """Some of the restarts leave the support; the best of the others is kept."""

    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0).expand([2]).to_event(1), obs=y)
        pyro.factor("edge", torch.where(a > 3.5, torch.nan, 0.0))

    fit = gb.svi(
        model, AutoNormal(model, init_scale=0.3), DATA, steps=1500, restarts=16, compile="graph",
        progress=False, seed=0,
    )  # fmt: skip
    assert np.isfinite(fit.history).all()
    assert fit.status is not Status.STOPPED_BY_NAN
    # posterior mean of a: sum of y over n + 1
    mean = float(fit.posterior(4000)["posterior"]["a"].mean())
    assert mean == pytest.approx(2 / 3, abs=0.1)


def test_a_schedule_that_froze_a_descent_is_told_apart_from_one_that_ended_it():
    """The objective falls for 300 steps, or would: below a hundredth of its highest a rate moves nothing."""
    noise = np.random.default_rng(0).normal(size=1000)
    steps = np.arange(1000)

    def told(frozen, fell=1.0, groups=1):
        history = np.maximum(300 - np.minimum(steps, frozen), 0) + noise
        rates = torch.ones(1000, groups, dtype=torch.float64)
        rates[frozen:, 0] = 0.0099 * fell
        return froze(history, rates.squeeze(-1))

    assert "after 250 steps, before the objective was flat: let it fall more slowly" in told(250)
    assert "after 60 steps" in told(60), "too few to be judged"
    assert told(600) == "", "flat before"
    assert told(250, fell=1.02) == "", "more than a hundredth is left: the usual rule decides"
    assert told(250, groups=2) == "", "other parameters still move"


@pytest.mark.parametrize("compile", ["graph", False])
def test_a_fit_whose_schedule_froze_it_has_not_converged(compile):
    def fit(gamma, steps):
        return gb.svi(
            towards_three, at_zero, DATA, steps=steps, compile=compile, progress=False,
            optim=pyro.optim.ExponentialLR(
                {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.2}, "gamma": gamma}
            ),
        )  # fmt: skip

    early = fit(0.5, 110)
    assert early.status is Status.STILL_MOVING and "after 7 steps" in early.notes["ended"]
    late = fit(0.97, 160)
    assert late.status is Status.CONVERGED and "ended" not in late.notes


def towards_three(y):
    pyro.sample("y", dist.Normal(pyro.sample("a", dist.Normal(3.0, 1.0)), 10.0)
                .expand([2]).to_event(1), obs=0 * y + 3)  # fmt: skip


def at_zero(y):
    pyro.sample("a", dist.Delta(pyro.param("place", torch.tensor(0.0))))
