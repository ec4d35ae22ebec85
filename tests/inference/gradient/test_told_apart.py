"""A checkpoint goes on with the fit that wrote it, in another process too, and with no other."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.errors import FileError
from guidebook.inference.gradient import problem as problems
from guidebook.inference.gradient import run as loop
from guidebook.programs.potential import Potential
from guidebook.programs.sites import latent_sites
from guidebook.programs.start.mode import find_start

ROWS = 3000
Y = np.random.default_rng(0).normal(size=ROWS)


def story(location=0.0, scale=1.0):
    """A model that closes over a tensor and a number; its other arguments are of any kind."""
    location = torch.tensor(location)

    def model(y=None, size=None, kind="normal", shape=(3, 4), wanted=frozenset(), link=None):
        a = pyro.sample("a", dist.Normal(location, scale))
        with pyro.plate("row", size or len(y), subsample_size=len(y)):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    return model


class Held(torch.nn.Module):
    """A model whose constant is a buffer."""

    def __init__(self, location=0.0):
        super().__init__()
        self.register_buffer("location", torch.tensor(location))

    def forward(self, y=None):
        a = pyro.sample("a", dist.Normal(self.location, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)


def beyond(y):
    """A model that closes over more of the memory that its data lie in."""

    def model(y=None, whole=y):
        a = pyro.sample("a", dist.Normal(whole[-1], 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    return model, by_hand(), {"y": y[:20]}


def by_hand(start=0.0):
    def guide(y=None, size=None, kind="normal", shape=(3, 4), wanted=frozenset(), link=None):
        loc = pyro.param("loc", lambda: torch.tensor(start))
        pyro.sample("a", dist.Normal(loc, torch.tensor(0.5)))

    return guide


def linked(factor):
    return lambda x: factor * x


class Table:
    """Rows that are read, 3000 of them; `moved` are others than usual."""

    names = ("y",)

    def __init__(self, moved=()):
        self.y = Y.copy()
        self.y[list(moved)] += 1.0

    def __len__(self):
        return ROWS

    def take(self, index):
        return {"y": self.y[index]}


def batches(moved=(), of=10):
    """An iterable of ten batches of five rows; `moved` are others than usual."""
    y = torch.from_numpy(Y[: 5 * of]).reshape(of, 5).clone()
    y[list(moved)] += 1.0
    return [{"y": one} for one in y]


def mapped(folder, moved=None):
    """A file of rows, mapped; the same file each time, written anew."""
    y = Y.copy()
    if moved is not None:
        y[moved] += 1e-9
    np.save(folder / "y.npy", y)
    return np.load(folder / "y.npy", mmap_mode="r")


def fit(model, guide, data, path, **settings):
    settings = {"steps": 12, "compile": "graph", "progress": False, "seed": 3} | settings
    return gb.svi(model, guide, data, checkpoint=path, **settings)


def changed(name, value):
    """Data as usual but for an argument."""
    usual = {"y": Y, "kind": "normal", "shape": (3, 4), "wanted": {"u", "v"}, "link": linked(2.0)}
    return {**usual, name: value}


USUAL = changed("y", Y)
LATE = np.concatenate([Y[:-1], [Y[-1] + 1e-9]])
SMALL = {"y": Y[:20]}
WHOLE, DRAWN, READ = {}, {"batch_size": 10}, {"size": 1000}
CONSTANTS = "constants of model or guide"
FITS = {
    "whole": (lambda _: (story(), by_hand(), SMALL), WHOLE, {
        "a constant of the closure": (lambda _: (story(1000.0), by_hand(), SMALL), CONSTANTS),
        "a number of the closure": (lambda _: (story(scale=2.0), by_hand(), SMALL), CONSTANTS),
        "an operation": (
            lambda _: (pyro.poutine.scale(story(), 2.0), by_hand(), SMALL), "model, guide or objective",
        ),
    }),
    "a module": (lambda _: (Held(0.0), by_hand(), SMALL), WHOLE, {
        "its buffer": (lambda _: (Held(1e-6), by_hand(), SMALL), CONSTANTS),
    }),
    "memory of the data": (lambda _: beyond(torch.zeros(30).double()), WHOLE, {
        "behind them": (lambda _: beyond(torch.eye(30).double()[-1]), CONSTANTS),
    }),
    "drawn": (lambda _: (story(), by_hand(), USUAL), DRAWN, {
        "the last row": (lambda _: (story(), by_hand(), changed("y", LATE)), "data 'y'"),
        "a word": (lambda _: (story(), by_hand(), changed("kind", "student")), "data 'kind'"),
        "a tuple": (lambda _: (story(), by_hand(), changed("shape", (3, 5))), "data 'shape'"),
        "a function": (lambda _: (story(), by_hand(), changed("link", linked(3.0))), "data 'link'"),
    }),
    "a file": (lambda f: (story(), by_hand(), {"y": mapped(f)}), DRAWN, {
        "its last row": (lambda f: (story(), by_hand(), {"y": mapped(f, ROWS - 1)}), "data 'y'"),
    }),
    "rows that are read": (lambda _: (story(), by_hand(), Table()), DRAWN, {
        "the last of them": (lambda _: (story(), by_hand(), Table([ROWS - 1])), "data 'y'"),
    }),
    "batches": (lambda _: (story(), by_hand(), batches()), READ, {
        "one that was read": (lambda _: (story(), by_hand(), batches([7])), "the batches"),
        "fewer of them": (lambda _: (story(), by_hand(), batches(of=8)), "the batches"),
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_a_fit_goes_on_from_its_own_checkpoint_and_not_from_that_of_another(case, tmp_path):
    usual, settings, others = FITS[case]
    path = tmp_path / "fit.checkpoint"
    first = fit(*usual(tmp_path), path, **settings)
    again = fit(*usual(tmp_path), path, **settings)
    assert torch.equal(first.guide.value("loc"), again.guide.value("loc"))
    written = path.read_bytes()
    for name, (other, differs) in others.items():
        with pytest.raises(FileError) as error:
            fit(*other(tmp_path), path, **settings)
        told, remedy = (
            str(error.value).split("belongs to another fit: it differs in ")[1].split(". ", 1)
        )
        assert differs in told and remedy.startswith("Give another path, or remove the file"), name
        assert path.read_bytes() == written


def test_what_a_fit_has_not_read_yet_is_no_matter(tmp_path):
    """Of ten batches four were read: with another ninth batch it is the fit of those, never interrupted."""
    path = tmp_path / "fit.checkpoint"
    model, guide, settings = story(), by_hand(), {"size": 1000, "steps": 4}
    fit(model, guide, batches(), path, **settings)
    fit(model, guide, batches([8]), path, **settings)
    with pytest.raises(FileError, match="the batches"):
        fit(model, guide, batches([3]), path, **settings)


def test_initial_values_of_what_is_trained_are_no_matter(tmp_path):
    path = tmp_path / "fit.checkpoint"
    first = fit(story(), by_hand(0.0), SMALL, path)
    again = fit(story(), by_hand(3.0), SMALL, path)
    assert torch.equal(first.guide.value("loc"), again.guide.value("loc"))


@pytest.mark.parametrize("family", [gb.guides.full_rank, gb.guides.low_rank])
def test_a_start_that_differs_in_the_last_digit_is_the_same_fit(family, tmp_path, monkeypatch):
    path, model = tmp_path / "fit.checkpoint", story()
    y = {"y": torch.from_numpy(Y[:20])}
    found = find_start(Potential(model, y, latent_sites(model, y)))

    def start(scale):
        put = replace(found, center=found.center * scale, factor=found.factor * scale)
        monkeypatch.setattr(problems, "find_start", lambda _: put)
        return fit(model, family(model), SMALL, path)

    first, again = start(1.0), start(1.0 + 1e-14)
    for left, right in zip(
        first.guide.state_dict().values(), again.guide.state_dict().values(), strict=True
    ):
        assert torch.equal(left, right)


def interrupted(path):
    """What the other process runs: Ctrl-C arrives in the fifth step."""
    advance = loop.advance

    def stopping(step, done, upto, steps):
        done = advance(step, done, 5, steps)
        os.kill(os.getpid(), signal.SIGINT)
        return advance(step, done, upto, steps)

    loop.advance = stopping
    found = fit(story(), by_hand(), USUAL, path, batch_size=10)
    print(found.status.name, len(found.history))


def test_interrupted_in_another_process_and_continued_here_is_uninterrupted(tmp_path):
    """Hashes of words, by which sets are ordered, differ between processes."""
    root, path = Path(gb.__file__).parents[1], tmp_path / "fit.checkpoint"
    program = f"from tests.inference.gradient.test_told_apart import *; interrupted({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "77"}, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["INTERRUPTED", "5"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    whole, continued = (fit(story(), by_hand(), USUAL, p, batch_size=10) for p in (None, path))
    assert continued.status is whole.status
    np.testing.assert_array_equal(continued.history, whole.history)
    assert torch.equal(continued.guide.value("loc"), whole.guide.value("loc"))
