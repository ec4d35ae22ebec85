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
from guidebook.programs.start.mode import find_start

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


def correlation(x, y):
    """Not a number where |r| > 1."""
    r = pyro.sample("r", dist.Normal(torch.zeros(()).to(x), 1.0))
    matrix = torch.eye(2).to(x) + r * (1 - torch.eye(2).to(x))
    pyro.factor("f", torch.linalg.cholesky(matrix).diagonal().log().sum())


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
    native = NativeDensity(potential.single(), at)
    native.check(at)
    return native


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


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_the_batches_of_the_potential(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-12, in its shapes and precision, on however many cores; what is not finite is so in both."""
    monkeypatch.setattr(density.torch, "get_num_threads", lambda: threads)
    for model, dtype, near in (
        (regression, np.float64, 1e-12),
        (regression, np.float32, 1e-4),
        (with_an_edge, np.float64, 1e-12),
        (correlation, np.float64, 1e-12),
    ):
        data = {name: torch.as_tensor(value.astype(dtype)) for name, value in DATA.items()}
        potential = Potential(model, data)
        u = torch.linspace(-2.0, 1.6, 20 * potential.dimension).reshape(20, -1).to(data["x"])
        found, expected = made(model, data).rows(u), potential.value_and_grad(u)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=near, atol=100 * near, equal_nan=True)
        assert bool(found[0].isnan().any()) == (model is not regression)
        assert made(model, data).rows(u[:0])[1].shape == (0, potential.dimension)


def test_the_start_is_that_of_the_recorded_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by functions of C without a batch of the recording, which `check` compares at its centre."""
    given = {name: torch.as_tensor(value) for name, value in DATA.items()}
    expected = find_start(Potential(regression, given))
    potential, asked = Potential(regression, given), []
    batched = potential._recordings.batched
    monkeypatch.setattr(
        potential._recordings, "batched", lambda *a: asked.append(a[1]) or batched(*a)
    )
    start, native = engine._begun(potential, 1)
    assert native is not None and "gradient" not in asked
    torch.testing.assert_close(start.center, expected.center, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(start.factor, expected.factor, rtol=1e-6, atol=1e-6)


def test_a_start_of_functions_that_fail_the_check_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {name: torch.as_tensor(value) for name, value in DATA.items()}
    expected = find_start(Potential(regression, given))
    rows = NativeDensity.rows

    def wrong(self, u):
        value, grad = rows(self, u)
        return value - u.square().sum(1), grad - 2 * u

    monkeypatch.setattr(NativeDensity, "rows", wrong)
    monkeypatch.setattr(
        NativeDensity, "__call__", lambda self, u: [t[0] for t in self.rows(u[None])]
    )
    start, native = engine._begun(Potential(regression, given), 1)
    assert native is None and torch.equal(start.center, expected.center)


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
        NativeDensity(graph, at).check(at)


def test_what_no_kernel_does_runs_through_python() -> None:
    def rotated(x, y):
        scale = pyro.sample("scale", dist.HalfNormal(torch.ones(()).to(x)))
        sizes, _ = torch.linalg.eigh(scale * torch.eye(3).to(x) + x.T @ x)
        pyro.factor("f", -sizes.log().sum())

    fit = gb.nuts(rotated, DATA, **SHORT)
    assert fit.notes["native"] is False


# matrices, order and masks -------------------------------------------------------------------------------


def number(x, name):
    return pyro.sample(name, dist.LogNormal(torch.zeros(()).to(x), 1.0))


def process(x, y):
    """A Gaussian process with values of its own, of rows that a mask keeps."""
    gaps = (x[:12, :1] - x[:12, 0]).square()
    kernel = number(x, "size") * (-0.5 * gaps / number(x, "length")).exp() + torch.eye(12).to(x)
    f = pyro.sample("f", dist.Normal(torch.zeros(12).to(x), 1.0).to_event(1))
    seen = y[:12] > -0.5
    rows = (torch.linalg.cholesky(kernel) @ f)[seen]
    pyro.sample("y", dist.MultivariateNormal(rows, kernel[seen][:, seen]), obs=y[:12][seen])


def correlated(x, y):
    """Rows of a batch of covariances, and of a factor of low rank."""
    factor = pyro.sample("factor", dist.LKJCholesky(3, torch.ones(()).to(x)))
    size = number(x, "size")
    sizes = size * torch.arange(1.0, 5.0).to(x)
    covariance = factor @ factor.mT + sizes[:, None, None] * torch.eye(3).to(x)
    with pyro.plate("group", 4):
        pyro.sample("a", dist.MultivariateNormal(torch.zeros(3).to(x), covariance), obs=x[:4])
    wide = dist.LowRankMultivariateNormal(torch.zeros(3).to(x), factor[:, :2], size.expand(3))
    pyro.sample("b", wide, obs=x[4])
    pyro.sample("c", dist.MultivariateNormal(x[5], precision_matrix=covariance[1]), obs=x[6])


def general(x, y):
    """Systems, inverses and determinants by LU and from a factor."""
    a = number(x, "size") * torch.eye(3).to(x) + x[:3]
    square = a @ a.mT + torch.eye(3).to(x)
    upper = torch.linalg.cholesky(square, upper=True)
    pyro.factor(
        "lu", -torch.linalg.solve(a, y[:3]).square().sum() - torch.linalg.inv(a).square().sum()
    )
    pyro.factor("det", torch.linalg.slogdet(a)[1] - torch.logdet(square))
    pyro.factor("solve", -y[:3] @ torch.cholesky_solve(y[:3, None], upper, upper=True)[:, 0])
    pyro.factor("inverse", -y[:3] @ torch.cholesky_inverse(upper.mT) @ y[:3])
    pyro.factor("wishart", dist.Wishart(y.new_tensor(5.0), square).log_prob(square + 1))


def partial_likelihood(x, y):
    """Cox's, and a spline's places among knots."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3).to(x), 1.0).to_event(1))
    hazard = (x @ weights)[torch.argsort(-y)]
    pyro.factor("cox", (hazard - hazard.logcumsumexp(0)).sum())
    knots = weights.exp().cumsum(0).sort(descending=True).values.flip(0)
    place = torch.searchsorted(knots, y.abs()).clamp(max=2)
    pyro.sample("y", dist.Normal(knots[place] * (weights > 0).cumsum(0)[place], 1.0), obs=y)


SLOW = [pytest.param(m, marks=pytest.mark.slow) for m in (correlated, general, partial_likelihood)]


@pytest.mark.parametrize("model", [process, *SLOW])
def test_what_inductor_leaves_to_libraries_is_there(model) -> None:
    """The density and its gradient, to 1e-9, at positions of all sides."""
    data = {name: torch.as_tensor(value) for name, value in DATA.items()}
    potential = Potential(model, data)
    u = torch.randn(10, potential.dimension, generator=torch.Generator().manual_seed(1)).double()
    native = made(model)
    for position, value, grad in zip(u, *potential.value_and_grad(u), strict=True):
        found, slope = native(position)
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(slope, grad, rtol=1e-9, atol=1e-9 * float(grad.abs().max()))


def test_a_matrix_that_is_not_positive_definite_is_no_number() -> None:
    """Where torch ends by an error; one whose `info` the model reads is as torch leaves it."""

    def told(x, y):
        r = pyro.sample("r", dist.Normal(torch.zeros(()).to(x), 1.0))
        matrix = torch.eye(2).to(x) + r * (1 - torch.eye(2).to(x))
        _, info = torch.linalg.cholesky_ex(matrix)
        pyro.factor("f", -info.to(x))

    native, other = made(correlation), made(told)
    for r in (-1.5, -0.5, 0.5, 1.5):
        value, grad = native(torch.tensor([r]).double())
        assert bool(value.isnan()) == (abs(r) > 1)
        if abs(r) < 1:
            prior = -0.5 * r**2 - 0.5 * np.log(2 * np.pi)
            np.testing.assert_allclose(value, prior + 0.5 * np.log1p(-(r**2)), rtol=1e-12)
            np.testing.assert_allclose(grad, -r - r / (1 - r**2), rtol=1e-12)
        info, _ = other(torch.tensor([r]).double())
        expected = -0.5 * r**2 - 0.5 * np.log(2 * np.pi) - 2 * (abs(r) > 1)
        np.testing.assert_allclose(info, expected, rtol=1e-12)


def test_the_library_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second density of one structure, of other data and prior constants, compiles nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made()
    monkeypatch.setattr(compiler, "_run", None)
    made(data={"x": DATA["x"] + 1.0, "y": DATA["y"] - 2.0})
