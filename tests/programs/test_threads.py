"""Whole fits in two threads: the bits of one after the other, and everything left as it was."""

import threading
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook.errors import DataError

Y = np.random.default_rng(0).normal(2.0, 1.0, size=20)


def story(y=None):
    """mu ~ N(0, 10), tau ~ LogNormal(0, 1), y_i ~ N(mu, tau)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", 20 if y is None else len(y)):
        pyro.sample("y", dist.Normal(mu, tau), obs=y)


def reading(y=None):
    """As `story`, and branches on a value: the reference path."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    if mu.item() > 1e6:
        raise ValueError("far out")
    with pyro.plate("row", 20 if y is None else len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def captured(seed=0):
    guide = gb.guides.full_rank(story)
    fit = gb.svi(story, guide, {"y": Y}, steps=60, seed=seed, compile="graph", progress=False)
    return fit.history, *[p.detach().numpy() for p in fit.guide.parameters()]


def reference(seed=0):
    guide = AutoNormal(reading)
    fit = gb.svi(reading, guide, {"y": Y}, steps=60, seed=seed, compile=False, progress=False)
    return fit.history, *[p.detach().numpy() for p in fit.guide.parameters()]


def nuts():
    fit = gb.nuts(story, {"y": Y}, draws=50, tune=100, chains=2, seed=1, progress=False)
    return (fit.draws.numpy(),)


def laplace():
    return (gb.laplace(story, {"y": Y}).guide.center.detach().numpy(),)


@pytest.fixture(scope="module")
def fits():
    return {
        "Laplace": gb.laplace(story, {"y": Y}),
        "SVI": gb.svi(story, gb.guides.mean_field(story), {"y": Y}, steps=60, progress=False),
    }


def drawn(fits):
    """Draws of a guide that is Pyro's own and of one of ours, with predictions."""
    tree = fits["SVI"].posterior(300, seed=5, log_likelihood=True, posterior_predictive=True)
    return (
        tree["posterior/mu"].values, tree["sample_stats/lp"].values,
        tree["log_likelihood/y"].values, tree["posterior_predictive/y"].values,
    )  # fmt: skip


def compared(fits):
    table = gb.compare(fits, seed=2).table
    return (table.drop(columns="seconds").select_dtypes("number").to_numpy(),)


def state():
    return {
        "dtype": torch.get_default_dtype(),
        "tracing": torch._C._get_tracing_state,
        "settings": pyro.settings.get(),
        "filters": list(warnings.filters),
        "parameters": list(pyro.get_param_store()),
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "random": torch.get_rng_state().tolist(),
    }


def at_once(*jobs):
    """What the jobs return or raise when they are started at the same time, each in a thread."""
    found = [None] * len(jobs)
    gate = threading.Barrier(len(jobs))

    def run(place, job):
        gate.wait()
        try:
            found[place] = job()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "a deadlock"
    return found


JOBS = {
    "captured": lambda fits: captured,
    "captured, another seed": lambda fits: lambda: captured(1),
    "reference": lambda fits: reference,
    "nuts": lambda fits: nuts,
    "laplace": lambda fits: laplace,
    "draws": lambda fits: lambda: drawn(fits),
    "compare": lambda fits: lambda: compared(fits),
}


@pytest.mark.parametrize(
    "names",
    [
        ("captured", "captured, another seed"),
        ("captured", "reference"),
        ("nuts", "reference"),
        ("laplace", "draws"),
        ("compare", "captured"),
    ],
    ids=" and ".join,
)
def test_two_at_once_are_one_after_the_other(fits, names):
    jobs = [JOBS[name](fits) for name in names]
    expected = [job() for job in jobs]
    before = state()
    found = at_once(*jobs)
    for ours, theirs in zip(found, expected, strict=True):
        assert not isinstance(ours, BaseException), ours
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert state() == before


def failing():
    """Fails in the model, inside every context of a fit."""

    def broken(y=None):
        story(y)
        raise RuntimeError("broken")

    gb.svi(broken, gb.guides.mean_field(broken), {"y": Y}, steps=10, progress=False)


def test_a_fit_that_fails_disturbs_no_other():
    expected = captured()
    before = state()
    failed, found, refused = at_once(
        failing, captured, lambda: gb.nuts(story, {"y": np.full(20, np.nan)}, progress=False)
    )
    assert "broken" in str(failed)
    assert isinstance(refused, DataError)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert state() == before


def test_a_fit_inside_a_fit():
    """A user's data set may fit something itself: the lock is the thread's own."""

    class Batches:
        def __iter__(self):
            gb.laplace(story, {"y": Y})
            return iter([{"y": Y}])

    before = state()
    (found,) = at_once(
        lambda: gb.svi(story, gb.guides.mean_field(story), Batches(), size=20, steps=5,
                       compile="graph", progress=False)
    )  # fmt: skip
    plain = gb.svi(story, gb.guides.mean_field(story), [{"y": Y}], size=20, steps=5,
                   compile="graph", progress=False)  # fmt: skip
    np.testing.assert_array_equal(found.history, plain.history)
    assert state() == before
