"""A saved fit: the same draws for the same seed, in a new process, without data and without code."""

import os
import pickletools
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import guidebook as gb
from guidebook.errors import DataError, FileError, GuideError, ModelError
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression

FAST = {"steps": 60, "compile": "graph", "progress": False}
FAMILIES = {
    "mean_field": gb.guides.mean_field,
    "full_rank": gb.guides.full_rank,
    "low_rank": lambda model: gb.guides.low_rank(model, rank=2),
    "flow": lambda model: gb.guides.flow(model, transforms=1, hidden=8, bins=4),
}


def supports(y):
    """Simplex, ordered, interval, correlation, positive under a plate, a flat prior, a half line."""
    pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample("L", dist.LKJCholesky(3, 2.0))
    pyro.sample("cuts", dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()))  # fmt: skip
    with pyro.plate("group", 2):
        pyro.sample("rates", dist.Gamma(2.0, 1.0))
    pyro.sample("above", dist.Pareto(torch.tensor(2.0), 3.0))
    centre = pyro.sample("centre", dist.Uniform(-1.0, 4.0))
    shift = pyro.sample("shift", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(centre + shift, 1.0), obs=y)


def garch(y):
    alpha = pyro.sample("alpha", dist.Uniform(0.0, 1.0))
    beta = pyro.sample("beta", dist.Uniform(0.0, 1.0 - alpha))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta, 0.3), obs=y)


Y = {"y": np.array([0.3, 0.9, 1.4])}


def posterior(fit, **groups):
    return fit.posterior(50, seed=7, **groups)["posterior"].to_dataset()


def same(left, right, rounding=0.0):
    assert set(left.data_vars) == set(right.data_vars)
    for name in left.data_vars:
        np.testing.assert_allclose(left[name].values, right[name].values, rtol=rounding, atol=0)
        assert left[name].dims == right[name].dims


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_densities_and_record_are_the_same(family, tmp_path):
    data = gb.datasets.eight_schools()
    fit = gb.svi(eight_schools, FAMILIES[family](eight_schools), data, **FAST)
    path = fit.save(tmp_path / "fit.pt")
    again = gb.load(path, model=eight_schools, data=data)
    same(posterior(again), posterior(fit))
    for name in ("lp", "log_q"):
        left, right = (one.posterior(50)["sample_stats"][name].values for one in (again, fit))
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(again.history, fit.history)
    for name in ("status", "seed", "seconds", "engine", "notes", "sites"):
        assert repr(getattr(again, name)) == repr(getattr(fit, name))


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_need_neither_model_nor_data(family, tmp_path):
    fit = gb.svi(supports, FAMILIES[family](supports), Y, **FAST)
    again = gb.load(fit.save(tmp_path / "fit.pt"))
    left, right = posterior(again), posterior(fit)
    same(left, right[list(left.data_vars)], rounding=1e-12)  # vectorised otherwise
    assert {s.name for s in fit.sites} == set(left.data_vars)
    np.testing.assert_allclose(
        again.posterior(50)["sample_stats"]["log_q"], fit.posterior(50)["sample_stats"]["log_q"],
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"model=model, data=data"):
        _ = again.potential


def test_a_new_process_gives_the_same_draws(tmp_path):
    fit = gb.svi(supports, gb.guides.full_rank(supports), Y, **FAST)
    path = fit.save(tmp_path / "fit.pt")
    program = textwrap.dedent("""
        import sys
        import numpy as np
        import torch
        torch.set_num_threads(1)
        import guidebook as gb
        draws = gb.load(sys.argv[1]).posterior(50, seed=7)["posterior"]
        np.savez(sys.argv[2], **{name: draws[name].values for name in draws.data_vars})
    """)
    out = tmp_path / "draws.npz"
    environment = {**os.environ, "PYTHONPATH": str(Path(gb.__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", program, str(path), str(out)], check=True, env=environment
    )
    expected = posterior(fit)
    with np.load(out) as found:
        assert set(found) == {site.name for site in fit.sites}
        for name in found:
            np.testing.assert_allclose(found[name], expected[name].values, rtol=1e-12)


def test_a_support_that_depends_on_others_needs_the_model(tmp_path):
    fit = gb.svi(garch, gb.guides.full_rank(garch), Y, **FAST)
    path = fit.save(tmp_path / "fit.pt")
    same(posterior(gb.load(path, model=garch, data=Y)), posterior(fit))
    with pytest.raises(DataError, match=r"model=\.\.\., data=\.\.\."):
        gb.load(path).posterior(10)


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


def function_guide(X, y=None, size=None):
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    pyro.sample("intercept", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.3))
    pyro.sample("beta", dist.Normal(torch.zeros(2), scale).to_event(1))


def logistic_data():
    X = np.random.default_rng(0).normal(size=(30, 2))
    return {"X": X, "y": (X[:, 0] > 0).astype(float)}


@pytest.mark.parametrize(
    "make",
    [lambda: AutoNormal(logistic_regression), lambda: AutoMultivariateNormal(logistic_regression),
     lambda: function_guide],
    ids=["AutoNormal", "AutoMultivariateNormal", "function"],
)  # fmt: skip
def test_guides_that_a_user_brings_are_given_again(make, tmp_path):
    data = logistic_data()
    fit = gb.svi(logistic_regression, make(), data, **FAST)
    path = fit.save(tmp_path / "fit.pt")
    fresh = make()
    again = gb.load(path, model=logistic_regression, guide=fresh, data=data)
    same(posterior(again), posterior(fit))
    if isinstance(fresh, torch.nn.Module):
        assert not list(fresh.parameters()), "the guide given was changed"
    with pytest.raises(GuideError, match=r"guide=\.\.\."):
        gb.load(path, model=logistic_regression, data=data)


def amortised(width=4):
    torch.manual_seed(0)
    model = gb.models.VAE(6, 2, (width,))
    guide = gb.guides.AmortizedNormal(torch.nn.Linear(6, 4), 2)
    return model, guide, {"x": torch.rand(20, 6).round()}


def test_networks_get_their_weights_back_in_copies(tmp_path):
    model, guide, data = amortised()
    fit = gb.svi(model, guide, data, **FAST)
    path = fit.save(tmp_path / "fit.pt")
    torch.manual_seed(1)
    fresh = gb.models.VAE(6, 2, (4,)), gb.guides.AmortizedNormal(torch.nn.Linear(6, 4), 2)
    before = [p.detach().clone() for part in fresh for p in part.parameters()]
    again = gb.load(path, model=fresh[0], guide=fresh[1], data=data)
    same(posterior(again), posterior(fit))
    np.testing.assert_array_equal(
        again.posterior(5)["sample_stats"]["lp"], fit.posterior(5)["sample_stats"]["lp"]
    )
    after = [p for part in fresh for p in part.parameters()]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_another_architecture_is_refused(tmp_path):
    model, guide, data = amortised()
    path = gb.svi(model, guide, data, **FAST).save(tmp_path / "fit.pt")
    with pytest.raises(ModelError, match="same architecture"):
        gb.load(path, model=amortised(width=5)[0], guide=guide, data=data)
    other = gb.guides.AmortizedNormal(torch.nn.Linear(6, 5), 2, covariance="full")
    with pytest.raises(GuideError, match="same architecture"):
        gb.load(path, model=model, guide=other, data=data)


def test_a_samplers_draws_are_kept(tmp_path):
    data = gb.datasets.eight_schools()
    fit = gb.nuts(eight_schools, data, draws=20, tune=30, chains=2, progress=False)
    path = fit.save(tmp_path / "fit.pt")
    again = gb.load(path, model=eight_schools, data=data)
    same(again.posterior()["posterior"].to_dataset(), fit.posterior()["posterior"].to_dataset())
    np.testing.assert_array_equal(
        again.posterior()["sample_stats"]["diverging"],
        fit.posterior()["sample_stats"]["diverging"],
    )
    with pytest.raises(DataError, match=r"model=\.\.\., data=\.\.\."):
        gb.load(path).posterior()


def test_a_loaded_fit_is_saved_again(tmp_path):
    fit = gb.svi(eight_schools, gb.guides.full_rank(eight_schools),
                 gb.datasets.eight_schools(), **FAST)  # fmt: skip
    first = gb.load(fit.save(tmp_path / "one.pt"))
    second = gb.load(first.save(tmp_path / "two.pt"))
    same(posterior(second), posterior(first))


@pytest.fixture
def saved(tmp_path):
    fit = gb.svi(eight_schools, gb.guides.mean_field(eight_schools),
                 gb.datasets.eight_schools(), **FAST)  # fmt: skip
    return fit.save(tmp_path / "fit.pt")


def test_files_that_are_no_fit_raise_one_error(saved):
    content = saved.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        saved.write_bytes(content[: int(share * len(content))])
        with pytest.raises(FileError, match=r"truncated or foreign.*Write it again"):
            gb.load(saved)
    for foreign in (b"PK\x03\x04 not a zip", b"\x89HDF\r\n", b"text"):
        saved.write_bytes(foreign)
        with pytest.raises(FileError, match="truncated or foreign"):
            gb.load(saved)
    torch.save({"weights": torch.zeros(3)}, saved)
    with pytest.raises(FileError, match="is not a guidebook fit"):
        gb.load(saved)
    torch.save([1, 2], saved)
    with pytest.raises(FileError, match="is not a guidebook fit"):
        gb.load(saved)
    with pytest.raises(FileError, match="is not there"):
        gb.load(saved.with_name("other.pt"))
    with pytest.raises(FileError, match=r"cannot be read|is not there"):
        gb.load(saved.parent)


def test_a_file_with_code_in_it_is_refused(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"format": "guidebook fit 1", "guide": Evil()}, saved)
    with pytest.raises(FileError, match="truncated or foreign"):
        gb.load(saved)
    assert not (tmp_path / "run").exists()


def test_a_newer_format_names_the_remedy(saved):
    content = torch.load(saved, weights_only=True)
    torch.save({**content, "format": "guidebook fit 99"}, saved)
    with pytest.raises(FileError, match=r"guidebook fit 99.*newer"):
        gb.load(saved)


@pytest.mark.parametrize("missing", ["sites", "status", "notes", "guide", "history", "seed"])
def test_a_file_that_lacks_a_part_is_refused(saved, missing):
    content = torch.load(saved, weights_only=True)
    del content[missing]
    torch.save(content, saved)
    with pytest.raises(FileError, match=r"damaged.*Save the fit again"):
        gb.load(saved)


def test_nothing_is_left_where_nothing_can_be_written(tmp_path):
    fit = gb.svi(eight_schools, gb.guides.mean_field(eight_schools),
                 gb.datasets.eight_schools(), **FAST)  # fmt: skip
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(FileError, match="folder cannot be made"):
        fit.save(blocker / "fit.pt")
    with pytest.raises(FileError, match="cannot be written"):
        fit.save(tmp_path)
    assert list(tmp_path.iterdir()) == [blocker]
