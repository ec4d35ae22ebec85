"""nuts by C functions: the same chains as by Python functions of the same numbers, to the bit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.inference import nuts as engine
from guidebook.programs.graphs.recorded import record
from guidebook.programs.native import density
from guidebook.programs.native import library as compiler
from guidebook.programs.native.algebra import CannotLower
from guidebook.programs.native.density import NativeDensity
from guidebook.programs.potential import Potential

RNG = np.random.default_rng(1)
X = RNG.normal(size=(40, 3))
DATA = {"x": X, "y": X @ [1.0, -1.0, 0.5] + RNG.normal(size=40)}
SHORT = {"draws": 60, "tune": 60, "progress": False}


def regression(x, y):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3).to(x), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ weights, scale), obs=y)


def with_an_edge(x, y):
    """Not a number beyond -1."""
    z = pyro.sample("z", dist.Normal(torch.zeros(()).to(x), 1.0))
    pyro.factor("f", (z + 1.0).sqrt())


@pytest.fixture(autouse=True)
def always(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """However few calls there are, with a cache of these tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "native"))
    monkeypatch.setattr(engine, "worth_compiling", lambda *_: True)
    monkeypatch.setattr(engine, "compile_graph", lambda graph, _: graph)
    return


def made(model=regression, data=DATA) -> NativeDensity:
    given = {name: torch.as_tensor(value) for name, value in data.items()}
    potential = Potential(model, given)
    at = torch.zeros(potential.dimension, dtype=potential.dtype)
    return NativeDensity(potential.single(), at)


def test_it_is_the_density_and_its_gradient() -> None:
    """In double precision to 1e-12, in single to 1e-5; NaN where it is not finite."""
    for dtype, near in ((np.float64, 1e-12), (np.float32, 1e-4)):
        data = {name: torch.as_tensor(value.astype(dtype)) for name, value in DATA.items()}
        potential, u = Potential(regression, data), torch.randn(20, 4).to(data["x"])
        native = made(data={n: v.astype(dtype) for n, v in DATA.items()})
        value, grad = potential.value_and_grad(u)
        for i in range(20):
            found, slope = native(u[i])
            assert found.dtype == slope.dtype == data["x"].dtype
            torch.testing.assert_close(found, value[i], rtol=near, atol=near)
            torch.testing.assert_close(slope, grad[i], rtol=near, atol=100 * near)
    assert made(with_an_edge)(torch.tensor([-2.0]).double())[0].isnan()


def test_the_chains_are_those_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of them side by side, twice, and with the same numbers through Python."""
    first, again = (gb.nuts(regression, DATA, **SHORT) for _ in range(2))
    monkeypatch.setattr(engine, "in_nutpie", lambda model, _: model)
    python = gb.nuts(regression, DATA, **SHORT)
    assert first.notes["native"] and first.draws is not None
    assert torch.equal(first.draws, again.draws) and torch.equal(first.draws, python.draws)


def test_where_the_density_is_no_number_chains_turn_back() -> None:
    fit = gb.nuts(with_an_edge, DATA, **SHORT)
    z = fit.posterior()["posterior"]["z"].values
    assert z.min() > -1.0 and np.isfinite(z).all()


def test_without_a_compiler_it_runs_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda _: None)
    fit = gb.nuts(regression, DATA, **SHORT)
    assert fit.notes["native"] is False and len(fit.draws) == 4


def test_another_nutpie_runs_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    import nutpie

    class Other:
        PySampler = nutpie._lib.PySampler

    model = object()
    monkeypatch.setattr(nutpie, "_lib", Other)
    assert density.in_nutpie(model, made()) is model


def test_kernels_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = density.library

    def altered(sources):
        return real([(text.replace("tmp0 * tmp0", "tmp0 * 2"), torchs) for text, torchs in sources])

    monkeypatch.setattr(density, "library", altered)
    with pytest.raises(CannotLower, match="its kernels and its operations differ"):
        made()


def test_a_density_that_is_finite_nowhere_is_not_taken() -> None:
    at = torch.zeros(2).double()
    graph = record(lambda u: ((u * torch.inf).sum(), u + 1), at)
    with pytest.raises(CannotLower, match="finite at no position"):
        NativeDensity(graph, at)


def test_what_no_kernel_does_runs_through_python() -> None:
    def correlated(x, y):
        scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
        covariance = scale * torch.eye(3).to(x) + x.T @ x
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(3).to(x), covariance), obs=x[0])

    fit = gb.nuts(correlated, DATA, **SHORT)
    assert fit.notes["native"] is False


def test_the_library_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second density of one structure, of other data and prior constants, compiles nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made()
    monkeypatch.setattr(compiler, "_run", None)
    made(data={"x": DATA["x"] + 1.0, "y": DATA["y"] - 2.0})
