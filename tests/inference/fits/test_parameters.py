"""A model's own parameters after the fit: one tensor for both programs, saved, and held by other engines."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import guidebook as gb
from guidebook.inference.fits.opening import model_runs, opened
from guidebook.programs.owned import Owned, copied

Y = np.array([3.1, 2.2, 5.0, 4.4, -0.7, 1.9])


def model(y=None):
    s = pyro.param("s", torch.tensor(2.0), constraint=constraints.positive)
    m = pyro.sample("m", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", 6):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def guide(y=None):
    s = pyro.param("s", torch.tensor(2.0), constraint=constraints.positive)
    pyro.sample("m", dist.Normal(pyro.param("l", torch.tensor(0.5)), s / math.sqrt(6)))


def exact(s):
    """Mean and standard deviation of m | y at a noise of s."""
    precision = 6 / s**2 + 1 / 9
    return Y.sum() / s**2 / precision, precision**-0.5


def _number(fit, name):
    return float(fit.guide.value(name).detach())


@pytest.fixture(scope="module")
def fit():
    return gb.svi(model, guide, {"y": Y}, steps=60, restarts=2, compile="graph", progress=False)


def test_what_both_name_is_one_tensor(fit):
    at = fit.model.names.index("s"), fit.guide.names.index("s")
    assert fit.model.unconstrained[at[0]] is fit.guide.unconstrained[at[1]]
    assert fit.guide.names == ["s", "l"] and fit.model.names == ["s"]
    assert float(fit.model.value("s").detach()) != pytest.approx(2.0)
    twin, other = copied(fit.model, fit.guide)
    assert twin.unconstrained[0] is other.unconstrained[0]
    assert twin.unconstrained[0] is not fit.model.unconstrained[0]


def test_it_is_one_tensor_again_after_a_load(fit, tmp_path):
    again = gb.load(fit.save(tmp_path / "fit.pt"), model=model, guide=guide, data={"y": Y})
    assert again.model.unconstrained[0] is again.guide.unconstrained[0]
    for name in ("s", "l"):
        assert _number(again, name) == pytest.approx(_number(fit, name), abs=1e-9)
    with torch.no_grad():
        again.model.unconstrained[0].fill_(math.log(9.0))
    assert _number(again, "s") == pytest.approx(9.0)
    left, right = (f.posterior(9)["posterior"]["m"].values.std() for f in (fit, again))
    assert left * 9.0 / _number(fit, "s") == pytest.approx(right)  # the same noise at another scale


def test_another_fit_of_the_same_functions_shares_nothing(fit):
    before = float(fit.model.value("s").detach())
    gb.svi(model, guide, {"y": Y}, steps=5, compile="graph", progress=False)
    assert float(fit.model.value("s").detach()) == before


@pytest.mark.parametrize("engine", ["laplace", "nuts"])
def test_engines_that_train_nothing_hold_the_initial_value_and_say_so(engine):
    with pytest.warns(
        UserWarning, match=rf"{engine} holds .* initial values: 's'\. To hold trained"
    ):
        found = _run(engine, model)
    _has_moments(found, *exact(2.0))
    assert list(found.notes["held_parameters"]) == ["s"]


@pytest.mark.parametrize("engine", ["laplace", "nuts"])
def test_they_hold_the_value_of_a_trained_model_without_a_warning(engine, fit):
    s = float(fit.model.value("s").detach())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _run(engine, fit.model)
    _has_moments(found, *exact(s))
    assert float(found.model.value("s").detach()) == s
    assert list(found.notes["held_parameters"]) == ["s"]


def _run(engine, story):
    if engine == "laplace":
        return gb.laplace(story, {"y": Y})
    return gb.nuts(
        story, {"y": Y}, draws=400, tune=200, chains=2, target_accept=0.9, progress=False
    )


def _has_moments(fit, mean, sd):
    """800 draws of chains of a normal: five standard errors."""
    draws = fit.posterior(4000)["posterior"]["m"].values
    assert draws.mean() == pytest.approx(mean, abs=0.2 * sd)
    assert draws.std() == pytest.approx(sd, rel=0.12)
    assert not 0.8 < exact(1.0)[1] / sd < 1.25  # of another noise it would show


def test_a_model_without_parameters_is_the_function_itself():
    def plain(y=None):
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    settings = {"seed": 0, "device": None, "check": model_runs}
    with opened("an engine", plain, None, {"y": np.array(0.3)}, **settings) as run:
        assert run.model is plain
    with opened("an engine", model, None, {"y": Y}, **settings) as run:
        assert isinstance(run.model, Owned) and run.model.names == ["s"]
