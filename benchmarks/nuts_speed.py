"""NUTS on eight schools: gb.nuts against pyro.infer.NUTS and NumPyro's, seconds an effective draw.

    python -m benchmarks.nuts_speed       # about five minutes

The sides take turns on one core, on the non-centred model; seconds are divided by the smallest bulk
effective sample size over mu, tau and the eight theta_trans. Pyro's side is what its users write
(one chain, 500 + 500 iterations, jit_compile=False); Guidebook's are the defaults of gb.nuts (4
chains of 1,000 + 1,000).

- with set-up: the whole call; for gb.nuts that is recording, the start, compiling (kernels from an
  earlier run are on disk, as from a user's second fit) and the warm-up; for Pyro its warm-up.
- draws only: what a further draw costs; for Pyro the time after the warm-up, for gb.nuts the
  difference of two calls that differ in the number of draws; for NumPyro, which has the same numbers of
  chains, warm-up and draws as gb.nuts, that of two runs without a warm-up (benchmarks/numpyro_posteriors.py;
  its seconds are of CPU).
"""

import statistics
import tempfile
import time
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import numpy as np
import pyro
import torch
from arviz_stats.base import array_stats
from pyro.infer import MCMC, NUTS

import guidebook as gb
from benchmarks.numpyro_side import numpyro
from guidebook.models.hierarchical import eight_schools

SITES = ("mu", "tau", "theta_trans")
ITERATIONS = 500
DRAWS = 1000
MORE = 4


def least_ess(sites: list[np.ndarray]) -> float:
    """The smallest bulk effective sample size of draws (chain, draw, ...)."""
    columns = [c for s in sites for c in np.moveaxis(s.reshape(*s.shape[:2], -1), -1, 0)]
    return min(float(array_stats.ess(c, chain_axis=0, draw_axis=1, method="bulk")) for c in columns)


def guidebook_side(seed: int, draws: int = DRAWS) -> tuple[float, float]:
    """Seconds of the call and effective draws."""
    start = time.perf_counter()
    fit = gb.nuts(
        eight_schools, gb.datasets.eight_schools(), draws=draws, seed=seed, progress=False
    )
    seconds = time.perf_counter() - start
    posterior: Any = fit.posterior()["posterior"]
    return seconds, least_ess([posterior[site].values for site in SITES])


def pyro_side(seed: int, iterations: int) -> tuple[float, float, float]:
    """Seconds of the call, seconds after the warm-up, effective draws."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    warm = 0.0

    def note(kernel: Any, samples: Any, stage: str, number: int) -> None:
        nonlocal warm
        if stage.startswith("Warmup"):
            warm = time.perf_counter()

    data = {name: value.float() for name, value in gb.datasets.eight_schools().items()}
    start = time.perf_counter()
    mcmc = MCMC(
        NUTS(eight_schools), iterations, warmup_steps=iterations, disable_progbar=True, hook_fn=note
    )
    mcmc.run(**data)
    end = time.perf_counter()
    samples = mcmc.get_samples(group_by_chain=True)
    return end - start, end - warm, least_ess([samples[s].double().numpy() for s in SITES])


def numpyro_side(ask: Any, seed: int) -> tuple[float, float, float, float]:
    """Seconds of a call with nothing compiled, effective draws, seconds of each, and of each further one."""
    with tempfile.TemporaryDirectory() as folder:
        told = f"eight_schools-eight_schools_noncentered {folder}/data.npz"
        data = gb.datasets.eight_schools()
        np.savez(f"{folder}/data.npz", **{f"data_{n}": v.double() for n, v in data.items()})
        whole = ask(f"cold {told} sequential {DRAWS}")[0]
        a_draw = ask(f"nuts {told} {seed} sequential {DRAWS}")[1]
        with np.load(f"{folder}/data.npz.draws.npz") as held:
            ess = least_ess([held[site] for site in SITES])
    return whole, ess, whole / ess, a_draw * DRAWS / ess


def one_seed(
    seed: int, quick: bool, ask: Any, whole: Any, further: Any, rows: list[list[str]]
) -> None:
    """Adds the figures of every sampler with this seed."""
    seconds, ess = guidebook_side(seed)
    longer, more = guidebook_side(seed, MORE * DRAWS)
    theirs, after, least = pyro_side(seed, 100 if quick else ITERATIONS)
    found = {
        "gb.nuts": (seconds, ess, seconds / ess, (longer - seconds) / (1 - 1 / MORE) / more),
        "pyro.infer.NUTS": (theirs, least, theirs / least, after / least),
    }
    if ask:
        found["numpyro.infer.NUTS"] = numpyro_side(ask, seed)
    for name, (time_, size, per, only) in found.items():
        whole[name].append(per)
        further[name].append(only)
        shown = timing.shown(time_), f"{size:.0f}", timing.shown(per), timing.shown(only)
        rows.append([name, str(seed), *shown])


def main() -> None:
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    guidebook_side(99)  # imports of both, and the kernels
    rows: list[list[str]] = []
    with numpyro("numpyro_posteriors.py") as ask:
        kinds = ("gb.nuts", "pyro.infer.NUTS", *(("numpyro.infer.NUTS",) if ask else ()))
        whole: dict[str, list[float]] = {name: [] for name in kinds}
        further: dict[str, list[float]] = {name: [] for name in kinds}
        for seed in range(1 if quick else 3):
            one_seed(seed, quick, ask, whole, further, rows)
    header = ["sampler", "seed", "time", "least bulk ESS", "per effective draw", "draws only"]
    timing.table(header, rows)
    for words, kind in (("with set-up", whole), ("draws only", further)):
        for name in kinds[1:]:
            gain = statistics.median(kind[name]) / statistics.median(kind["gb.nuts"])
            print(f"per effective draw, {words}: {gain:.1f} times faster than {name}")


if __name__ == "__main__":
    main()
