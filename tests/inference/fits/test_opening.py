"""What holds while an engine works, and that nothing of it is left afterwards."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.inference.fits.opening import model_runs, opened

DATA = {"y": np.array([0.1, -0.3, 0.4])}


def model(y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 3):
        return pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def opening(model, guide=None, data=DATA, **settings):
    settings = {"seed": 0, "device": None, "check": model_runs, **settings}
    return opened("engine", model, guide, data, **settings)


def test_precision_and_random_numbers_of_the_fit_and_then_those_of_the_user():
    torch.manual_seed(7)
    expected = torch.manual_seed(7) and torch.rand(3)
    torch.manual_seed(7)
    drawn = []
    for _ in range(2):
        with opening(model) as run:
            assert torch.get_default_dtype() is torch.float64 is run.dtype
            assert run.tensors["y"].dtype is torch.float64
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(torch.rand(3), expected)


def test_constants_in_single_precision_make_a_fit_in_it():
    weights = torch.ones(3, 1)

    def linear(y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("row", 3):
            return pyro.sample("y", dist.Normal(weights @ b, 1.0), obs=y)

    with opening(linear) as run:
        assert run.dtype is torch.float32 is run.tensors["y"].dtype
    with pytest.raises(gb.GuidebookError, match="dtype"), opening(linear, dtype=torch.float64):
        pass


def test_the_guide_that_is_given_is_not_the_one_that_is_trained():
    guide = gb.guides.full_rank(model)
    with opened("engine", model, guide, DATA, seed=0, device=None) as run:
        assert run.guide is not guide
        with torch.no_grad():
            run.guide.center += 1.0
        fit = run.fit(Status.CONVERGED, [3.0, 2.0], sites=run.guide.sites, notes={"one": 1})
    assert (fit.engine, fit.seed, fit.status) == ("engine", 0, Status.CONVERGED)
    assert fit.history.tolist() == [3.0, 2.0]
    assert fit.notes == {"one": 1}
    assert fit.data["y"] is DATA["y"]
    assert fit.seconds > 0


@pytest.mark.parametrize(
    ("status", "ends"),
    [
        (Status.CONVERGED, Status.INTERRUPTED),
        (Status.STILL_MOVING, Status.INTERRUPTED),
        (Status.STOPPED_BY_NAN, Status.STOPPED_BY_NAN),
    ],
)
def test_a_loop_that_was_interrupted_decides_the_status(status, ends):
    import signal

    with opening(model) as run:
        with run.steps(5, shown=False) as steps:
            for step in steps:
                if step == 1:
                    signal.raise_signal(signal.SIGINT)
        assert steps.done == 2
    assert run.fit(status).status is ends


def test_what_is_refused_is_refused_before_the_engine_begins():
    for settings, error, words in (
        ({"seed": -1}, SettingError, "seed=-1"),
        ({"device": "nowhere"}, SettingError, "device='nowhere'"),
        ({"data": {"x": DATA["y"]}}, DataError, "'x', which the model does not take"),
        ({"data": {"y": np.array([np.nan])}}, DataError, "NaN"),
    ):
        with pytest.raises(error, match=words), opening(model, **settings):
            pytest.fail("the engine has begun")
    with (
        pytest.raises(GuideError, match="no site for 'mu'"),
        opened("engine", model, lambda y: None, DATA, seed=0, device=None),
    ):
        pytest.fail("the engine has begun")
