"""A fit continued from its checkpoint is the fit that was never interrupted, bit for bit."""

import os
import shutil
import signal

import numpy as np
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook import Status
from guidebook.errors import FileError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.autoguides.defaults import Defaults
from guidebook.inference.gradient import checkpoint as checkpoints
from guidebook.inference.gradient import run as loop
from guidebook.inference.gradient import step as steps
from guidebook.models.decoders.latent import LinearVAE
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression
from guidebook.programs.graphs.interpreted import interpreted
from tests.full_disk import full_disk
from tests.starts import searched_once

STEPS = 150
SEARCHED_ANEW = "full data"
"""The case whose every fit searches for the mode, whatever the caller's random state."""


@pytest.fixture(autouse=True)
def starts(request, found):
    if SEARCHED_ANEW in request.node.name:
        yield
    else:
        with searched_once(found):
            yield


@pytest.fixture(scope="module")
def found():
    return {}


def logistic_data(rows=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 2))
    return {"X": X, "y": (X[:, 0] + rng.normal(size=rows) > 0).astype(float)}


def schools(**settings):
    guide = settings.pop("guide", gb.guides.mean_field)(eight_schools)
    return fit(eight_schools, guide, gb.datasets.eight_schools(), **settings)


def fit(model, guide, data, **settings):
    settings = {"steps": STEPS, "compile": "graph", "progress": False, "seed": 5} | settings
    return gb.svi(model, guide, data, **settings)


def interrupt_after(monkeypatch, count):
    """Ctrl-C while step `count` runs, as a terminal sends it."""
    advance = loop.advance

    def patched(step, done, upto, stop):
        if done <= count < upto:
            done = advance(step, done, count, stop)
            os.kill(os.getpid(), signal.SIGINT)
        return advance(step, done, upto, stop)

    monkeypatch.setattr(loop, "advance", patched)


def growing(guide, **settings):
    """A fit of 60 planned steps, which are far too few."""
    guide.defaults = Defaults(steps=60, rate=0.02)
    return settings | {"guide": lambda _: guide, "steps": "auto"}


def decoded(**settings):
    """A decoder and its encoder, trained together: rows are held out."""
    torch.manual_seed(0)
    model, guide = LinearVAE(3, 1), AmortizedNormal(torch.nn.Linear(3, 2), 1)
    guide.defaults = Defaults(steps=60, rate=0.02)
    x = np.random.default_rng(1).normal(size=(240, 3)).astype(np.float32) * np.float32([2, 1, 0.5])
    return fit(model, guide, {"x": x}, batch_size=40, steps="auto", **settings)


CASES = {
    "steps='auto'": lambda **s: schools(**growing(AutoNormal(eight_schools), **s)),
    "steps='auto', restarts": lambda **s: schools(
        restarts=3, **growing(AutoNormal(eight_schools), **s)
    ),
    "steps='auto', rows held out": decoded,
    SEARCHED_ANEW: lambda **s: schools(**s),
    "flow": lambda **s: schools(guide=lambda m: gb.guides.flow(m, 1, 8, 4), **s),
    "restarts": lambda **s: schools(restarts=4, **s),
    "restarts, each with a schedule, clipped": lambda **s: schools(
        restarts=2, optim=pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.RMSprop, "gamma": 0.99,
             "optim_args": {"lr": 0.01, "momentum": 0.5, "centered": True}}, {"clip_norm": 2.0},
        ), **s,
    ),
    "stock guide": lambda **s: schools(guide=AutoNormal, **s),
    "mini-batches": lambda **s: fit(
        logistic_regression, gb.guides.full_rank(logistic_regression), logistic_data(),
        batch_size=16, **s,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [73])
def test_interrupted_and_continued_is_uninterrupted(case, count, tmp_path, monkeypatch):
    whole = CASES[case]()
    path = tmp_path / "fit.checkpoint"
    with monkeypatch.context() as patch:
        interrupt_after(patch, count)
        stopped = CASES[case](checkpoint=path)
    assert stopped.status is Status.INTERRUPTED
    assert "same checkpoint" in stopped.status.value
    assert len(stopped.history) == count
    np.testing.assert_array_equal(stopped.history[:10].shape, (10,))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    torch.manual_seed(99)  # the caller's random state plays no part
    continued = CASES[case](checkpoint=path)
    np.testing.assert_array_equal(continued.history, whole.history)
    assert continued.status is whole.status
    for left, right in zip(continued.guide.parameters(), whole.guide.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_step_is_compiled_when_as_many_were_taken_as_pay_and_not_before(tmp_path, monkeypatch):
    """Where 100 calls pay: after the first block that ends beyond them; and again when continued."""
    calls = []

    def compiled(graph, example):
        calls.append(graph)
        return interpreted(graph)

    monkeypatch.setattr(steps, "worth_compiling", lambda graph, count, device: count >= 100)
    monkeypatch.setattr(steps, "compile_graph", compiled)
    case, path = CASES["steps='auto', rows held out"], tmp_path / "fit.checkpoint"
    whole = case(compile="auto")
    assert whole.notes["compiled"] and len(calls) == 1
    with monkeypatch.context() as patch:
        interrupt_after(patch, 90)
        assert not case(compile="auto", checkpoint=path).notes["compiled"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, len(whole.history) - 5)
        assert case(compile="auto", checkpoint=path).notes["compiled"]
    continued = case(compile="auto", checkpoint=path)
    assert continued.notes["compiled"] and len(calls) == 3
    np.testing.assert_array_equal(continued.history, whole.history)


def test_interrupted_twice(tmp_path, monkeypatch):
    whole = schools()
    path = tmp_path / "fit.checkpoint"
    for count in (20, 101):
        with monkeypatch.context() as patch:
            interrupt_after(patch, count)
            stopped = schools(checkpoint=path)
        assert len(stopped.history) == count
    np.testing.assert_array_equal(schools(checkpoint=path).history, whole.history)


def test_a_finished_checkpoint_gives_the_fit_at_once(tmp_path, monkeypatch):
    path = tmp_path / "fit.checkpoint"
    whole = schools(checkpoint=path)
    monkeypatch.setattr(loop, "advance", None)  # no step is taken
    again = schools(checkpoint=path)
    np.testing.assert_array_equal(again.history, whole.history)
    assert again.status is whole.status
    for left, right in zip(again.guide.parameters(), whole.guide.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The bytes of a finished fit's checkpoint, made once."""
    path = tmp_path_factory.mktemp("finished") / "fit.checkpoint"
    schools(checkpoint=path)
    return path.read_bytes()


@pytest.fixture
def written(finished, tmp_path):
    """A file with them."""
    path = tmp_path / "fit.checkpoint"
    path.write_bytes(finished)
    return path


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (lambda path: schools(checkpoint=path, seed=6), "seed"),
        (lambda path: schools(checkpoint=path, steps=STEPS + 1), "steps"),
        (lambda path: schools(checkpoint=path, restarts=2), "restarts"),
        (lambda path: schools(checkpoint=path, guide=gb.guides.full_rank), "names"),
        (
            lambda path: fit(
                eight_schools, gb.guides.mean_field(eight_schools),
                {k: v + 1 for k, v in gb.datasets.eight_schools().items()}, checkpoint=path,
            ),
            "data",
        ),
        (
            lambda path: fit(
                logistic_regression, gb.guides.mean_field(logistic_regression), logistic_data(),
                checkpoint=path,
            ),
            "shapes",
        ),
    ],
)  # fmt: skip
def test_the_checkpoint_of_another_fit_is_refused_and_kept(other, differs, written, finished):
    with pytest.raises(FileError, match=rf"another fit.*{differs}.*remove the file"):
        other(written)
    assert written.read_bytes() == finished


def test_the_checkpoint_of_another_model_of_the_same_shape_is_refused(written):
    """Centred and non-centred schools have the same parameters and the same data."""
    model = gb.models.eight_schools_centered
    with pytest.raises(FileError, match=r"another fit.*model"):
        fit(model, gb.guides.mean_field(model), gb.datasets.eight_schools(), checkpoint=written)


def test_another_optimiser_is_another_fit(written):
    with pytest.raises(FileError, match=r"another fit.*optim"):
        schools(checkpoint=written, optim=pyro.optim.Adam({"lr": 0.02}))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused(share, written, finished):
    written.write_bytes(finished[: int(share * len(finished))])
    with pytest.raises(FileError, match=r"cannot be read.*truncated or of another kind"):
        schools(checkpoint=written)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "fit.pt"
    schools(steps=20).save(path)
    with pytest.raises(FileError, match="is not a guidebook checkpoint"):
        schools(checkpoint=path, steps=20)
    path.write_text("hello")
    with pytest.raises(FileError, match="truncated or of another kind"):
        schools(checkpoint=path, steps=20)


def test_the_reference_path_writes_no_checkpoint_and_says_so(tmp_path):
    with pytest.raises(SettingError, match="checkpoint= needs a step that is recorded"):
        schools(checkpoint=tmp_path / "fit.checkpoint", compile=False)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoints.write_atomically({"format": "a 1"}, path)
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FileError, match="No space left"):
        checkpoints.write_atomically({"format": "b 1"}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_ends_no_fit_and_warns_once(tmp_path, monkeypatch):
    """What was written last stays, and goes on to the same result when there is room again."""
    path = tmp_path / "fit.checkpoint"
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("guidebook.inference.gradient.step.LOOK_EVERY", 30)
    steps = {"checkpoint": path, "steps": 90}
    write, written = checkpoints.write, []

    def filling(where, told, step):
        if not written:
            write(where, told, step)
            written.append(path.read_bytes())
        else:
            with full_disk(2000):
                write(where, told, step)

    monkeypatch.setattr(checkpoints, "write", filling)
    told = r"of step 60 was not written; the fit goes on.*File too large.*room"
    with pytest.warns(UserWarning, match=told) as caught:
        whole = schools(**steps)
    assert len(caught) == 1
    assert len(whole.history) == 90 and whole.status is not Status.INTERRUPTED
    assert path.read_bytes() == written[0]
    monkeypatch.setattr(checkpoints, "write", write)
    assert (schools(**steps).history == whole.history).all()


def test_a_folder_that_goes_ends_no_fit(tmp_path, monkeypatch):
    def gone(*arguments):
        shutil.rmtree(tmp_path / "folder")
        write(*arguments)

    write = checkpoints.write
    monkeypatch.setattr(checkpoints, "write", gone)
    with pytest.warns(UserWarning, match=r"No such file or directory.*tried again"):
        found = schools(checkpoint=tmp_path / "folder" / "fit.checkpoint", steps=20)
    assert len(found.history) == 20
