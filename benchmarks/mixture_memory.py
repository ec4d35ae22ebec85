"""Gaussian mixtures: memory of gb.cavi and scikit-learn, and of gb.natural_svi on a file.

    python -m benchmarks.mixture_memory      # minutes, 400 MB of disk

Mixtures as in `benchmarks.mixture_speed`: 20 full-covariance components in 10 dimensions.

- Two sweeps of gb.cavi and of BayesianGaussianMixture from one start, each in a fresh process that has
  the rows in memory before.
- gb.natural_svi: memory of 2,000 steps of 2,048 rows on files of 10^5 and of 10^7 rows in float32,
  then ELBO against time on the larger, beside gb.cavi on the same file. Its time is the whole call;
  the ELBO is that of all rows, computed after the call.

The peak of memory is the kernel's own (VmHWM, set back before the fit): a thread that samples it
would slow down what reads a file row by row.

Linux only.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import numpy as np
import torch

import guidebook as gb
from benchmarks.mixture_sides import (
    MODEL,
    D,
    elbo_of,
    guidebook_side,
    scikit_learn,
    start_of,
    write,
)
from guidebook.guides.conjugate.mixture import MixtureMeanField

STEPS = 2000


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
    command = [sys.executable, "-m", "benchmarks.mixture_memory", "--child", kind, str(folder)]
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


def main() -> None:
    if len(sys.argv) > 3 and sys.argv[1] == "--child":
        child(sys.argv[2], Path(sys.argv[3]))
        return
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "x.npy", 100_000 if quick else 1_000_000, np.float64)
        memory_of_sweeps(folder, np.load(folder / "x.npy"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        memory_of_steps((100_000, 1_000_000 if quick else 10_000_000), folder)
        steps = (50, 200) if quick else (50, 500, 4883)
        elbo_against_time(folder / "x.npy", steps, (1, 3) if quick else (1, 3, 10))


if __name__ == "__main__":
    main()
