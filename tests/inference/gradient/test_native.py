"""The compiled loop of many steps: the step's numbers, torch's random numbers, and what it does without."""

import os
import stat
import time
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.programs.native import library as compiler
from guidebook.programs.native import loop as native

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = X @ [1.0, -1.0, 0.5] + RNG.normal(size=60)


def regression(x, y, size=None):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3).to(x), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
    with pyro.plate("row", size or len(y), subsample_size=len(y)):
        pyro.sample("y", dist.Normal(x @ weights, scale), obs=y)


def flat(x, y):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3).to(x), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ weights, scale), obs=y)


def side_by_side(x, y):
    """The same for particles in a dimension in front."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3).to(x), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal((x * weights).sum(-1), scale), obs=y)


def without_root(x, y):
    """Its density is not a number once the weight is negative."""
    weight = pyro.sample("weight", dist.Normal(torch.zeros(()).to(x), 1.0))
    pyro.factor("f", -(weight + 0.5).sqrt() - 3.0 * weight)


def without_factor(x, y):
    """Its matrix is not positive definite once the weight is beyond 1."""
    weight = pyro.sample("weight", dist.Normal(torch.zeros(()).to(x), 1.0))
    matrix = torch.eye(2).to(x) + weight * (1 - torch.eye(2).to(x))
    pyro.factor("f", torch.linalg.cholesky(matrix).sum() + 9.0 * weight)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """One folder of libraries for these tests."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield Path(os.environ["XDG_CACHE_HOME"]) / "guidebook"
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


def fitted(model, guide, compile, data=None, steps=120, **options):
    data = {"x": X, "y": Y} if data is None else data
    return gb.svi(
        model, guide(model), data, steps=steps, compile=compile, progress=False, **options
    )


CASES = {
    "AutoNormal": (flat, AutoNormal, {}),
    "AutoMultivariateNormal": (flat, AutoMultivariateNormal, {}),
    "particles": (side_by_side, AutoNormal, {"objective": Trace_ELBO(
        num_particles=16, vectorize_particles=True, max_plate_nesting=1)}),
    "whitened": (flat, gb.guides.full_rank, {}),
    "restarts": (flat, AutoNormal, {"restarts": 3}),
    "batches": (regression, AutoNormal, {"batch_size": 20}),
    "schedule": (flat, AutoNormal, {"optim": pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.02}, "gamma": 0.99})}),
    "momentum": (flat, AutoNormal, {"optim": pyro.optim.SGD({"lr": 1e-4, "momentum": 0.9})}),
}  # fmt: skip


DEAR = {"particles", "AutoMultivariateNormal", "restarts", "schedule", "momentum"}
SOME = [pytest.param(c, marks=pytest.mark.slow) if c in DEAR else c for c in CASES]


@pytest.mark.parametrize("case", SOME)
def test_its_steps_are_those_of_the_recorded_graph(case: str) -> None:
    """Under the same random numbers, to what a sum in another order leaves after 120 steps."""
    model, guide, options = CASES[case]
    ours, plain = (fitted(model, guide, how, **options) for how in ("native", "graph"))
    assert ours.notes["native"] and not plain.notes["native"]
    np.testing.assert_allclose(ours.history, plain.history, rtol=1e-6)
    assert ours.status is plain.status
    means = (f.posterior(200, seed=1)["posterior"]["weights"].mean() for f in (ours, plain))
    np.testing.assert_allclose(*means, atol=1e-5)


@pytest.mark.slow
def test_in_single_precision_with_many_normals() -> None:
    """64 in one call, by torch's approximations: the loop is compared with its single steps to the bit."""
    data = {"x": X.astype(np.float32), "y": Y.astype(np.float32)}
    objective = CASES["particles"][2]["objective"]
    ours, plain = (
        fitted(side_by_side, AutoNormal, how, data, objective=objective)
        for how in ("native", "graph")
    )
    assert ours.notes["native"] and not plain.notes["native"]
    np.testing.assert_allclose(ours.history, plain.history, rtol=1e-4)


def test_many_steps_at_once_are_the_steps_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, however many are taken between two looks at the clock."""
    monkeypatch.setattr(native, "MOST_AT_ONCE", 7)
    monkeypatch.setattr(native, "LEAST_AT_ONCE", 7)
    some = fitted(flat, AutoNormal, "native")
    monkeypatch.setattr(native, "MOST_AT_ONCE", 1000)
    monkeypatch.setattr(native, "LEAST_AT_ONCE", 1000)
    np.testing.assert_array_equal(some.history, fitted(flat, AutoNormal, "native").history)


@pytest.mark.parametrize("model", [without_root, without_factor])
def test_a_density_that_is_no_number_ends_it_at_the_same_step(model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, plain = (fitted(model, AutoNormal, how, steps=400) for how in ("native", "graph"))
    assert ours.notes["native"] and ours.status is plain.status is gb.Status.STOPPED_BY_NAN
    assert ours.notes["nan"] == plain.notes["nan"]
    finite, expected = (f.history[np.isfinite(f.history)] for f in (ours, plain))
    assert len(ours.history) == len(finite) + 1 < 400
    np.testing.assert_allclose(finite, expected, rtol=1e-6)


def test_an_interrupted_fit_continues_from_its_checkpoint(tmp_path, monkeypatch) -> None:
    """To the same bits, between the loop and itself."""
    whole = fitted(flat, AutoNormal, "native", steps=300)
    monkeypatch.setattr(native, "MOST_AT_ONCE", 50)
    advance = native.NativeLoop.advance
    count = []

    def interrupted(self, done, upto, halves, data):
        advance(self, done, upto, halves, data)
        count.append(upto)
        if len(count) == 3:
            os.kill(os.getpid(), 2)

    monkeypatch.setattr(native.NativeLoop, "advance", interrupted)
    path = tmp_path / "fit.checkpoint"
    first = fitted(flat, AutoNormal, "native", steps=300, checkpoint=path)
    assert first.status is gb.Status.INTERRUPTED and len(first.history) < 300
    monkeypatch.setattr(native.NativeLoop, "advance", advance)
    second = fitted(flat, AutoNormal, "native", steps=300, checkpoint=path)
    np.testing.assert_array_equal(second.history, whole.history)


# what it falls back from -------------------------------------------------------------------------------


def falls_back(words: str) -> None:
    with pytest.warns(UserWarning, match=words):
        fit = fitted(flat, AutoNormal, "native", steps=9)
    assert fit.notes["native"] is False and fit.notes["compiled"]


@pytest.fixture
def as_recorded(monkeypatch):
    """What runs instead is not compiled: that is not what is tried here."""
    monkeypatch.setattr("guidebook.inference.gradient.step.compile_graph", lambda graph, _: graph)


@pytest.mark.usefixtures("as_recorded")
def test_without_a_compiler_it_runs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda _: None)
    falls_back("there is no C\\+\\+ compiler")


@pytest.mark.usefixtures("as_recorded")
@pytest.mark.parametrize(("script", "words"), [
    ("echo 'error: no memory' >&2; exit 1", "the compiler failed: error: no memory"),
    ("case $1 in --version) ;; *) sleep 60;; esac", "took more than 1 s"),
])  # fmt: skip
def test_a_compiler_that_fails_or_hangs(script, words, tmp_path, monkeypatch) -> None:
    fake = tmp_path / "g++"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(compiler.shutil, "which", lambda _: str(fake))
    monkeypatch.setattr(compiler, "SECONDS", 1.0)
    begun = time.monotonic()
    falls_back(words)
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("as_recorded")
@pytest.mark.parametrize(("right", "wrong", "words"), [
    ("angle = 2.0", "angle = 2.001", "the loop and single steps differ"),
    ("(k - l->start + 1)", "(k - l->start + 2)", "the loop and single steps differ"),
    ("tmp0 * tmp", "tmp0 + tmp", "its kernels and its operations differ"),
])  # fmt: skip
def test_a_loop_that_does_something_else_is_not_used(right, wrong, words, monkeypatch) -> None:
    """As one written for another version of torch."""
    real = native.library

    def altered(sources):
        assert all(right in text for text, _ in sources)
        return real([(text.replace(right, wrong), torchs) for text, torchs in sources])

    monkeypatch.setattr(native, "library", altered)
    falls_back(words)


def test_a_loop_that_is_wrong_where_it_ends_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that take another branch far from the start, which no first step can tell."""

    def far(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).to(x), 10.0))
        pyro.factor("f", -0.5 * (z - 40.0) ** 2 + torch.where(z > 25.0, 0.3, 0.1) * z)

    real = native.library

    def altered(sources):
        return real([(text.replace("<double>(25.0)", "<double>(99.0)"), t) for text, t in sources])

    options = {"data": {"x": torch.zeros(1).double()}, "steps": 3000}
    options["optim"] = pyro.optim.Adam({"lr": 0.05})
    right = fitted(far, AutoNormal, "graph", **options)
    monkeypatch.setattr(native, "library", altered)
    with pytest.warns(UserWarning, match="The fit is taken again without them"):
        fit = fitted(far, AutoNormal, "native", **options)
    assert np.array_equal(fit.history, right.history)


@pytest.mark.usefixtures("as_recorded")
def test_what_no_kernel_does_is_named() -> None:
    def rotated(x, y):
        z = pyro.sample("z", dist.LogNormal(torch.zeros(()).to(x), 1.0))
        pyro.factor("f", torch.linalg.eigh(x.T @ x + z * torch.eye(3).to(x))[0].sum())
        flat(x, y)

    words = "no loop in C does what this step does \\(it calls aten._linalg_eigh"
    with pytest.warns(UserWarning, match=words):
        fitted(rotated, AutoNormal, "native", steps=3)


def test_another_word_is_refused() -> None:
    with pytest.raises(SettingError, match="give 'auto', True, 'native', 'graph' or False"):
        fitted(flat, AutoNormal, "c")
