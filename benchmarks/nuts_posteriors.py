"""NUTS on the nine reference posteriors, gb.nuts and NumPyro's: to 4,000 effective draws of every marginal.

    python -m benchmarks.nuts_posteriors       # twenty minutes; posteriors may be named, --quick: one seed

Models and data are those of benchmarks/posteriors.py; NumPyro's are written as its users write them
(benchmarks/numpyro_posteriors.py), and log p(x, u) of both sides is compared first. Both in double precision,
on one core, in turns, 4 chains of 1,000 + 1,000 (NumPyro's side by side, `vectorized`, or with `--method
sequential` one after the other), everything else at its default: target_accept 0.9 and 0.8, a diagonal mass
matrix. Bulk effective sample sizes of both are computed here, of every number of every site; the least one
counts. Seconds are of CPU, on the one core those of an idle machine's clock, so that others may use it.

- cold call: seconds of the whole call with nothing compiled in memory or on disk, once.
- call: the same with what was compiled on disk, which gb.nuts always keeps and JAX where it is told a folder.
- a draw: seconds of a further draw of the four chains: the difference of two calls in the number of draws, of
  NumPyro of two runs without a warm-up. Where gb.nuts samples twice by itself it is the price of both runs.
- to 4,000: set-up and warm-up and as many draws as 4,000 effective ones need:
  call + (4,000 / (least ESS / 1,000) - 1,000) times the seconds of a draw.
- error: the largest distance of a mean from that of posteriordb's 10,000 draws, in standard deviations of the
  posterior. Where draws diverge, an effective sample size is not one of the posterior.

Numbers are medians over three seeds, ratios medians of the ratios with one seed. posteriordb's files tell
CmdStan's settings, and not its gradients.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from benchmarks import timing

CORE = timing.one_core()

import numpy as np
import torch

import guidebook as gb
from benchmarks.density import flat_density
from benchmarks.numpyro_side import numpyro
from benchmarks.nuts_speed import least_ess
from benchmarks.posteriors import Arrays, Reference, available, flatten, load
from guidebook.programs.potential import Potential

DRAWS, LONGER, WANTED = 1000, 4000, 4000
METHODS = "vectorized", "sequential"
POSITIONS = 8
Ask = Callable[[str], list[float]]


@dataclass(frozen=True)
class Found:
    """What one call gave: its seconds, those of a further draw of all chains, the least ESS, gradients a
    draw, divergent draws, and the error of its means.
    """

    call: float
    a_draw: float
    ess: float
    gradients: float
    divergences: float
    error: float

    @property
    def wanted(self) -> float:
        """Seconds to 4,000 effective draws of every marginal."""
        return self.call + (WANTED * DRAWS / self.ess - DRAWS) * self.a_draw


def error_of(sites: Arrays, reference: Reference) -> float:
    """The largest |mean - reference mean| / reference sd of draws (chain, draw, ...)."""
    means = flatten({name: draws.mean((0, 1)) for name, draws in sites.items()})
    known = means.keys() & reference.mean.keys()
    return max(abs(means[n] - reference.mean[n]) / reference.sd[n] for n in known)


# gb.nuts ------------------------------------------------------------------------------------------------


@contextmanager
def gradients_counted() -> Iterator[list[float]]:
    """The mean number of leapfrog steps a draw of every run of nutpie inside."""
    import nutpie

    counted: list[float] = []
    begin = nutpie.sample

    def sample(*args: Any, **settings: Any) -> Any:
        sampler = begin(*args, **settings)

        def wait(timeout: float | None = None) -> Any:
            trace = sampler.wait(timeout=timeout)
            counted.append(float(trace.sample_stats["n_steps"].mean()))
            return trace

        return mock.Mock(wraps=sampler, wait=wait)

    with mock.patch.object(nutpie, "sample", sample):
        yield counted


def timed(name: str, seed: int, draws: int) -> tuple[float, gb.Fit, float]:
    """Seconds of a call, the fit, and the gradients a draw of its last run."""
    model, data, _ = load(name)
    with gradients_counted() as counted:
        start = spent()
        fit = gb.nuts(model, data, draws=draws, seed=seed, progress=False)
        return spent() - start, fit, counted[-1]


def spent() -> float:
    """Seconds of CPU, the compiler's too."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def guidebook_side(name: str, seed: int) -> Found:
    seconds, fit, gradients = timed(name, seed, DRAWS)
    longer, more, _ = timed(name, seed, LONGER)
    if fit.notes["runs"] + more.notes["runs"] > 2:
        print(f"{name}, seed {seed}: runs {fit.notes['runs']} and, of 4,000, {more.notes['runs']}")
    found: Any = fit.posterior()["posterior"]
    sites = {site: found[site].values for site in found.data_vars}
    return Found(
        seconds, (longer - seconds) / (LONGER - DRAWS), least_ess(list(sites.values())), gradients,
        fit.notes["divergences"], error_of(sites, load(name)[2]),
    )  # fmt: skip


def cold(name: str) -> float:
    """Seconds of a call without kernels on disk, in a process that has fitted another model before."""
    code = (
        "from benchmarks.nuts_posteriors import gb, timed; "
        "from guidebook.models.hierarchical import eight_schools; "
        "gb.nuts(eight_schools, gb.datasets.eight_schools(), draws=10, tune=10, progress=False); "
        f"print(timed({name!r}, 0, {DRAWS})[0])"
    )
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.PIPE,
            env=os.environ | {"XDG_CACHE_HOME": empty},
        )  # fmt: skip
    return float(done.stdout.split()[-1])


# NumPyro ------------------------------------------------------------------------------------------------


def numpyro_side(ask: Ask, name: str, file: str, seed: int, method: str) -> Found:
    seconds, a_draw, divergences, gradients = ask(f"nuts {name} {file} {seed} {method} {DRAWS}")
    with np.load(f"{file}.draws.npz") as held:
        sites = {site: held[site] for site in held.files}
    error = error_of(sites, load(name)[2])
    return Found(seconds, a_draw, least_ess(list(sites.values())), gradients, divergences, error)


def handed_over(name: str, file: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Writes the data, and positions around reference draws, for the other side; log p(x, u) of the
    potential of gb.nuts there, and of benchmarks/density.py.
    """
    model, data, reference = load(name)
    density = flat_density(model, data)
    noise = torch.randn(POSITIONS, density.dim, generator=torch.Generator().manual_seed(0))
    rows = [
        density.unconstrain({n: torch.tensor(reference.draws[n][i]) for n in density.shapes})
        for i in range(POSITIONS)
    ]
    u = torch.stack(rows) + 0.1 * noise.double()
    sizes = [shape.numel() for shape in density.shapes.values()]
    parts = zip(density.shapes.items(), u.split(sizes, -1), strict=True)
    positions = {f"u_{n}": part.reshape(POSITIONS, *shape).numpy() for (n, shape), part in parts}
    np.savez(file, **positions, **{f"data_{n}": v.numpy() for n, v in data.items()})
    log_density = torch.stack([density.log_prob(row) for row in u])
    return Potential(model, data).value_and_grad(u)[0], log_density


def difference(ask: Ask, name: str, file: str) -> float:
    """The largest difference of log p(x, u) between the three, around their mean difference."""
    ours, plain = handed_over(name, file)
    theirs = torch.tensor(ask(f"density {name} {file}"), dtype=ours.dtype)
    gaps = torch.stack([ours - theirs, ours - plain])
    return float((gaps - gaps.mean(1, keepdim=True)).abs().max())


# both ---------------------------------------------------------------------------------------------------

Side = tuple[float, list[Found]]
"""Seconds of the cold call, and what was found with every seed."""


def compared(ask: Ask | None, name: str, file: str, seeds: int, method: str) -> list[Side]:
    """gb.nuts and, where it is there, NumPyro."""
    ours: Side = cold(name), []
    timed(name, 99, DRAWS)  # the kernels are on disk from here on
    theirs: Side = 0.0, []
    if ask:
        gap = difference(ask, name, file)
        print(f"{name}: log p(x, u) differs by at most {gap:.1e}", flush=True)
        theirs = ask(f"cold {name} {file} {method} {DRAWS}")[0], []
    for seed in range(seeds):
        ours[1].append(guidebook_side(name, seed))
        if ask:
            theirs[1].append(numpyro_side(ask, name, file, seed, method))
    return [ours, theirs] if ask else [ours]


def row(name: str, sampler: str, side: Side) -> list[str]:
    first, found = side

    def middle(of: Callable[[Found], float]) -> float:
        return statistics.median(of(f) for f in found)

    return [
        name, sampler, timing.shown(first), timing.shown(middle(lambda f: f.call)),
        timing.shown(middle(lambda f: f.a_draw)), f"{middle(lambda f: f.gradients):.1f}",
        f"{middle(lambda f: f.ess):.0f}", timing.shown(middle(lambda f: f.wanted)),
        f"{middle(lambda f: f.divergences):.0f}", f"{middle(lambda f: f.error):.2f}",
    ]  # fmt: skip


def gains(name: str, ours: Side, theirs: Side) -> list[str]:
    """How many times sooner gb.nuts is at 4,000 effective draws: cold, with what is on disk, and of further
    draws alone.
    """
    added = [first - statistics.median(f.call for f in found) for first, found in (ours, theirs)]
    pairs = list(zip(ours[1], theirs[1], strict=True))
    found = (
        [(t.wanted + added[1]) / (o.wanted + added[0]) for o, t in pairs],
        [t.wanted / o.wanted for o, t in pairs],
        [t.a_draw / t.ess / (o.a_draw / o.ess) for o, t in pairs],
    )
    return [name, *(f"{statistics.median(ratios):.1f}" for ratios in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed: numbers mean little")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="NumPyro's chains")
    parser.add_argument("names", nargs="*", help="posteriors: all, if none is named")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    rows: list[list[str]] = []
    gained: list[list[str]] = []
    with numpyro("numpyro_posteriors.py") as ask, tempfile.TemporaryDirectory() as folder:
        for name in [n for n in available() if n in (chosen.names or available())]:
            seeds = 1 if chosen.quick else 3
            sides = compared(ask, name, f"{folder}/{name}.npz", seeds, chosen.method)
            made = zip(((name, "gb.nuts"), ("", "NumPyro")), sides, strict=False)
            rows += [row(*words, side) for words, side in made]
            gained += [gains(name, *sides)] if ask else []
            print(rows[-2:], gained[-1:], flush=True)
    if rows:
        print()
        timing.table(
            ["posterior", "sampler", "cold call", "call", "a draw", "gradients a draw",
             "least bulk ESS", "to 4,000", "divergences", "error"], rows,
        )  # fmt: skip
    if gained:
        print()
        timing.table(["sooner at 4,000 (times)", "cold", "compiled on disk", "draws only"], gained)


if __name__ == "__main__":
    main()
