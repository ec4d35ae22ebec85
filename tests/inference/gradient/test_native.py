"""The compiled loop of many steps: the step's numbers, torch's random numbers, and what it does without."""

import ctypes
import os
import re
import stat
import subprocess
import sys
import threading
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
from torch.fx.experimental.proxy_tensor import make_fx

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.programs.graphs.interpreted import same_bits
from guidebook.programs.native import kept, source
from guidebook.programs.native import library as compiler
from guidebook.programs.native import loop as native
from guidebook.programs.native import plans as plan_file
from guidebook.programs.native.algebra import CannotLower
from guidebook.programs.native.copies import COPY, without_copies
from guidebook.programs.native.library import CannotCompile, library
from guidebook.programs.native.lowered import Place, Plan, lowered
from guidebook.programs.native.plans import planned

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


# its parts ---------------------------------------------------------------------------------------------

PARTS = """
extern "C" void f64(Generator* g, double* x, int64_t n) { fill(g, x, n); }
extern "C" void f32(Generator* g, float* x, int64_t n) { fill(g, x, n); }
"""


@pytest.fixture(scope="module")
def parts(cache):
    """As they stand in the source of a loop."""
    algebra, normals = (p.read_text() for p in (source.ALGEBRA, source.NORMALS))
    text = [source.VECTORS, source.PRELUDE, algebra, source.ONE_BY_ONE, normals, PARTS]
    return library([("\n".join(text), False)])


def at(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_its_normals_are_those_of_torch(parts, dtype) -> None:
    """To the bit, with the generator left in the same state, also of 16 and more in single precision, where
    torch has approximations of the logarithm, sine and cosine.
    """
    draw = parts.f64 if dtype == torch.float64 else parts.f32
    sizes = [1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 100, 1000, 200_000]
    before = torch.get_rng_state()
    try:
        for seed, size in enumerate(sizes):
            torch.manual_seed(seed)
            torch.randn(seed % 3)
            state = torch.get_rng_state()
            for _ in range(700 // size + 2):
                expected, found = torch.randn(size, dtype=dtype), torch.empty(size, dtype=dtype)
                draw(at(state), at(found), ctypes.c_int64(size))
                assert same_bits(found, expected)
            assert torch.equal(state, torch.get_rng_state())
    finally:
        torch.set_rng_state(before)


def test_products_are_written_where_they_are_wanted() -> None:
    """Side by side in one vector, without loops that copy them there; not what is read elsewhere."""

    def graph(a, b, c):
        first, second, third = a @ b, b @ c, a @ c
        return torch.cat([p.reshape(-1) for p in (first, second, third)]), third.exp()

    given = [torch.randn(3, 3).double() for _ in range(3)]
    plan = lowered(make_fx(graph)(*given), given)
    fewer = without_copies(plan)
    assert [sum(len(COPY.findall(code)) for _, code in p.sources) for p in (plan, fewer)] == [2, 0]
    assert len({call[1][0] for call in fewer.calls if call[0] == "product<double>"}) == 3
    for one in (plan, fewer):
        found = [torch.empty(27).double(), torch.empty(3, 3).double()]
        run = library([(source.source_of(one, light=True), False)]).run
        assert run(native._pointers(given), None, native._pointers(found)) == 0
        for ours, theirs in zip(found, graph(*given), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_turns_of_a_loop_that_write_to_one_place_are_taken_in_order() -> None:
    """Gradients of what was picked by an index: rows of one label add to one number, in vectors too."""
    labels = torch.randint(3, (1000,), generator=torch.Generator().manual_seed(0))

    def graph(values, labels):
        sums = torch.zeros(3, dtype=values.dtype).index_put(
            (labels,), values.exp(), accumulate=True
        )
        last = torch.zeros(1000, dtype=values.dtype).index_put((labels * 0,), values)
        return sums, last

    values = torch.randn(1000, dtype=torch.float64)
    plan = lowered(make_fx(graph)(values, labels), [values, labels])
    found = [torch.empty(3).double(), torch.empty(1000).double()]
    run = library([(source.source_of(plan, light=True), False)]).run
    assert run(native._pointers([values, labels]), None, native._pointers(found)) == 0
    for ours, theirs in zip(found, graph(values, labels), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("places", "alone"),
    [
        ([(None, 0), (None, 64), (None, 128)], "yyy"),
        ([(0, 0), (None, 0), (1, 0)], "yyy"),  # what one thread computes is of no argument
        ([(None, 0), (None, 64), (None, 0)], "yyy"),  # both are read
        ([(None, 0), (None, 56), (None, 128)], "nny"),
        ([(None, 120), (None, 64), (None, 128)], "nny"),
        ([(1, 0), (0, 0), (None, 0)], "yyy"),  # what is written is a state that nobody else has
        ([(0, 0), (0, 64), (0, 128)], "yyy"),
    ],
)
def test_kernels_are_told_what_memory_is_of_one_argument_alone(places, alone) -> None:
    """Of 64 bytes each, the second written: a kernel that is called twice, once with all of them apart."""
    code = "void kernel(const double* a,\n double* b,\n const double* c)\n{\n f(a * b);\n}"
    apart, given = (
        tuple(Place(argument, offset, 64) for argument, offset in one)
        for one in ([(None, 256), (None, 320), (None, 384)], places)
    )
    kinds = "const double*", "double*", "const double*"
    plan = Plan(((kinds, code),), ((0, apart), (0, given)), (), torch.float64, 448, ())
    head = source.source_of(plan, light=True).partition("void kernel")[2].partition("{")[0]
    assert ["__restrict__" in word for word in head.split(",")] == [a == "y" for a in alone]


def test_plans_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of the same operations and shapes is not lowered again, nor one that cannot be; a file that is
    damaged is made again.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = [torch.randn(3).double()]
    graphs = [make_fx(f)(*given) for f in (torch.exp, torch.special.i0e, torch.linalg.vector_norm)]
    graphs.append(make_fx(lambda a: torch.rand_like(a))(*given))
    plans = [planned(g, given) for g in graphs[:3]]
    with pytest.raises(CannotLower) as first:
        planned(graphs[3], given)
    count = []
    monkeypatch.setattr(
        plan_file.lowered, "lowered", lambda *given: count.append(1) or lowered(*given)
    )
    assert [planned(g, [torch.randn(3).double()]) for g in graphs[:3]] == plans
    with pytest.raises(CannotLower, match=re.escape(str(first.value))):
        planned(graphs[3], given)
    assert not count
    planned(graphs[0], [torch.randn(4).double()])
    assert len(count) == 1
    for path in (tmp_path / "guidebook").glob("*.json"):
        path.write_bytes(path.read_bytes()[:-9])
    assert planned(graphs[1], given) == plans[1] and len(count) == 2


# the libraries on disk -----------------------------------------------------------------------------------

TRIVIAL = 'extern "C" void use_blas(...) {} extern "C" int answer() { return %d; }'


def test_a_damaged_library_is_made_again(cache: Path) -> None:
    assert library([(TRIVIAL % 1, False)]).answer() == 1
    (made,) = (p for p in cache.glob("*.so") if b"answer" in p.read_bytes())
    other = made.read_bytes()[: made.stat().st_size // 2]
    made.unlink()  # the library in memory stays
    made.write_bytes(other)
    assert library([(TRIVIAL % 1, False)]).answer() == 1
    assert made.read_bytes() != other


def test_the_oldest_go_where_they_are_too_many(cache: Path, monkeypatch) -> None:
    library([(TRIVIAL % 2, False)])
    monkeypatch.setattr(kept, "MOST_BYTES", 20_000)
    library([(TRIVIAL % 3, False)])
    left = list(cache.glob("*.so"))
    assert 1 <= len(left) <= 2 and not list(cache.glob("tmp*"))


def test_a_folder_that_cannot_be_written_is_not_needed(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert library([(TRIVIAL % 4, False)]).answer() == 4


def test_the_first_source_that_compiles_is_taken(cache) -> None:
    assert library([("int x = ;", False), (TRIVIAL % 5, False)]).answer() == 5
    with pytest.raises(CannotCompile, match="error"):
        library([("int x = ;", False)])


def test_threads_and_processes_may_make_the_same_at_once(cache) -> None:
    found = []
    text = TRIVIAL % 6
    threads = [
        threading.Thread(target=lambda: found.append(library([(text, False)]).answer()))
        for _ in range(4)
    ]
    code = "from guidebook.programs.native.library import library; "
    code += f"print(library([({text!r}, False)]).answer())"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [6] * 4 and other.communicate(timeout=60)[0].strip() == "6"
    assert not list(cache.glob("tmp*"))
