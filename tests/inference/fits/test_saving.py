"""A saved fit of every kind: the same draws for the same seed, in a new process and without code."""

import os
import pickletools
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import guidebook as gb
from guidebook.errors import FileError
from guidebook.guides.autoguides.normal import MeanField
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.saving import _encode, _encode_guide, is_rebuilt, save
from guidebook.inference.fits.status import Record
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import ising_grid
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression
from guidebook.programs.owned import Owned

FAST = {"steps": 60, "compile": "graph", "progress": False}
SCHOOLS = gb.datasets.eight_schools()
FAMILIES = {
    "mean_field": gb.guides.mean_field,
    "full_rank": gb.guides.full_rank,
    "low_rank": lambda model: gb.guides.low_rank(model, rank=2),
    "flow": lambda model: gb.guides.flow(model, transforms=1, hidden=8, bins=4),
    "delta": gb.guides.delta,
}


def machine():
    bias = torch.full((4,), 0.1, dtype=torch.float64)
    return BoltzmannMachine(ising_grid(2, 2, 0.3).double(), bias, hidden=4).requires_grad_(False)


def posterior(fit):
    return fit.posterior(50, seed=7)["posterior"].to_dataset()


def same(left, right):
    assert set(left.data_vars) == set(right.data_vars)
    for name in left.data_vars:
        np.testing.assert_array_equal(left[name].values, right[name].values)
        assert left[name].dims == right[name].dims


@pytest.fixture(scope="module")
def fits(made):
    """One fit of every kind, and the model, guide and data that loading it takes."""
    shape = (2, 7, 10)
    u = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    full = made(eight_schools, gb.guides.full_rank(eight_schools), SCHOOLS)
    chains = replace(full, guide=None, draws=u, engine="nuts", notes={"diverging": [[0] * 7] * 2})
    spins = machine()
    q, other = BlockMeanField(spins, blocks=2), machine()
    return {
        "density": (full, {}),
        "point": (made(eight_schools, gb.guides.delta(eight_schools), SCHOOLS), {}),
        "chains": (chains, {"model": eight_schools, "data": SCHOOLS}),
        "particles": (
            replace(full, guide=None, draws=u[:1], draws_are="particles", engine="svgd"),
            {"model": eight_schools, "data": SCHOOLS},
        ),
        "discrete": (
            gb.cavi(spins, q, {}, progress=False),
            {"model": other, "guide": BlockMeanField(other, blocks=2), "data": {}},
        ),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_densities_and_record_are_the_same(family, made, tmp_path):
    fit = made(eight_schools, FAMILIES[family](eight_schools), SCHOOLS)
    again = gb.load(fit.save(tmp_path / "fit.pt"), model=eight_schools, data=SCHOOLS)
    left, right = again.posterior(50, seed=7), fit.posterior(50, seed=7)
    same(left["posterior"].to_dataset(), right["posterior"].to_dataset())
    same(left["sample_stats"].to_dataset(), right["sample_stats"].to_dataset())
    assert ("log_q" in left["sample_stats"].data_vars) == (family != "delta")
    for name in ("kind", "family", "discrete", "engine", "status", "notes"):
        assert left["vi_fit"].attrs[name] == right["vi_fit"].attrs[name]
    np.testing.assert_array_equal(again.history, fit.history)
    for name in ("status", "seed", "seconds", "engine", "notes", "sites"):
        assert repr(getattr(again, name)) == repr(getattr(fit, name))


@pytest.mark.parametrize("kind", ["density", "point", "chains", "particles", "discrete"])
def test_every_kind_survives_a_file(kind, fits, tmp_path):
    fit, given = fits[kind]
    again = gb.load(fit.save(tmp_path / kind), **given)
    assert again.approximation.kind == fit.approximation.kind
    assert again.approximation.kind == (kind if kind != "discrete" else "density")
    assert again.approximation.discrete == (kind == "discrete")
    np.testing.assert_array_equal(again.notes.get("diverging"), fit.notes.get("diverging"))
    whole = {"model": eight_schools, "data": SCHOOLS} | given
    same(posterior(gb.load(tmp_path / kind, **whole)), posterior(fit))


def test_a_new_process_gives_the_same_draws(fits, tmp_path):
    program = textwrap.dedent("""
        import sys
        import numpy as np
        import torch
        torch.set_num_threads(1)
        import guidebook as gb
        from guidebook.guides.energy.blocks import BlockMeanField
        from guidebook.models.energy.boltzmann import BoltzmannMachine
        from guidebook.models.energy.energy import ising_grid
        from guidebook.models.hierarchical import eight_schools
        where = sys.argv[1]
        schools = dict(model=eight_schools, data=gb.datasets.eight_schools())
        bias = torch.full((4,), 0.0, dtype=torch.float64)  # the saved one replaces it
        spins = BoltzmannMachine(ising_grid(2, 2, 0.0).double(), bias, hidden=4)
        guide = BlockMeanField(spins, blocks=2)
        given = {"discrete": dict(model=spins, guide=guide, data={})}
        for kind in ("density", "point", "chains", "particles", "discrete"):
            fit = gb.load(f"{where}/{kind}", **given.get(kind, schools))
            draws = fit.posterior(50, seed=7)["posterior"]
            np.savez(f"{where}/{kind}.npz", **{n: draws[n].values for n in draws.data_vars})
    """)
    for kind, (fit, _) in fits.items():
        fit.save(tmp_path / kind)
    environment = {**os.environ, "PYTHONPATH": str(Path(gb.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
    for kind, (fit, _) in fits.items():
        expected = posterior(fit)
        with np.load(tmp_path / f"{kind}.npz") as found:
            assert set(found) == set(expected.data_vars)
            for name in found:
                np.testing.assert_array_equal(found[name], expected[name].values)


def test_the_file_holds_tensors_and_words_only(tmp_path):
    """No training data, nothing but what torch.load(weights_only=True) reads."""
    rows = 500
    X = np.random.default_rng(0).normal(size=(rows, 3))
    data = {"X": X, "y": (X[:, 0] > 0).astype(float)}
    fit = gb.svi(logistic_regression, gb.guides.full_rank(logistic_regression), data, **FAST)
    path = fit.save(tmp_path / "fit.pt")
    torch.load(path, weights_only=True)
    assert path.stat().st_size < X.nbytes
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    called = {argument for _, argument, _ in pickletools.genops(pickled)
              if isinstance(argument, str) and argument.count(" ") == 1}  # fmt: skip
    modules = {text.split()[0] for text in called if text.split()[0].isidentifier() or "." in text}
    assert not any(name.startswith(("guidebook", "pyro", "builtins")) for name in modules)
    assert list(tmp_path.iterdir()) == [path]
    same(posterior(gb.load(path, model=logistic_regression, data=data)), posterior(fit))


def test_a_loaded_fit_is_saved_again(fits, tmp_path):
    first = gb.load(fits["density"][0].save(tmp_path / "one.pt"))
    second = gb.load(first.save(tmp_path / "two.pt"))
    same(posterior(second), posterior(first))


class Narrow(MeanField):
    """A subclass says more than its options do."""

    def get_posterior(self, *args, **kwargs):
        q = super().get_posterior()
        return torch.distributions.Independent(
            torch.distributions.Normal(q.mean, 0.5 * q.stddev), 1
        )


def test_only_the_families_themselves_are_made_anew():
    assert all(is_rebuilt(make(eight_schools)) for make in FAMILIES.values())
    assert not is_rebuilt(Narrow(eight_schools))
    assert not is_rebuilt(torch.nn.Linear(1, 1))
    assert not is_rebuilt(eight_schools)


def test_a_path_that_cannot_be_written_leaves_nothing_and_names_fit_save(fits, tmp_path):
    fit = fits["density"][0]
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(FileError, match=r"^fit\.save\('.*'\).*folder cannot be made"):
        fit.save(blocker / "fit.pt")
    with pytest.raises(FileError, match=r"^fit\.save\('.*'\).*cannot be written"):
        fit.save(tmp_path)
    assert list(tmp_path.iterdir()) == [blocker]


def scaled(y=None):
    scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    pyro.sample("z", dist.Normal(0.0, scale))


def test_parameters_are_kept_as_plain_values():
    owned = Owned(scaled)
    assert not _encode(owned)["statements"]  # it has none before it has run
    owned.adopt("scale", torch.tensor(3.0), constraints.positive)
    owned.keep("mean", torch.tensor(7.0))
    values = _encode(owned)["statements"]
    assert float(values["scale"]) == pytest.approx(3.0) and not values["scale"].requires_grad
    assert float(values["mean"]) == 7.0
    assert not any(_encode(scaled).values())
    assert set(_encode(torch.nn.Linear(1, 1))["state"]) == {"weight", "bias"}
    encoded = _encode_guide(owned)
    assert encoded["constraints"] == {"scale": ["positive"]} and not encoded["state"]
    assert _encode_guide(None) is None


def test_a_samplers_draws_are_in_the_file(tmp_path):
    """Saved and read by torch alone; no engine is run."""
    draws = torch.arange(12.0, dtype=torch.float64).reshape(2, 3, 2)
    approximation = Approximation(eight_schools, None, None, (), draws)
    record = Record("nuts", gb.Status.CONVERGED, 0, 1.0, np.zeros(0), {})
    content = torch.load(save(approximation, record, tmp_path / "fit.pt"))
    assert torch.equal(content["draws"], draws)
    assert content["draws_are"] == "chains"
