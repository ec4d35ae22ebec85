"""From how many steps on does compiling pay? The recorded step called from Python, run by TorchScript's
interpreter, and compiled; one core.

    python -m benchmarks.compiling          # some minutes
    python -m benchmarks.compiling --quick
"""

from benchmarks import timing

CORE = timing.one_core()  # before torch counts the cores

import os
import statistics
import tempfile
import time
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import guidebook as gb
from benchmarks.captured import captured_block, captured_step
from guidebook.inference.gradient import step as module
from guidebook.models.hierarchical import eight_schools
from guidebook.programs.graphs.compiled import SECONDS_SAVED, SECONDS_TO_COMPILE


def normal(y: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, scale), obs=y)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"y": np.random.default_rng(0).normal(3, 1, count)}


CASES = {
    "normal, 20 rows, mean-field": (normal, gb.guides.mean_field, rows(20)),
    "normal, 5,000 rows, mean-field": (normal, gb.guides.mean_field, rows(5000)),
    "eight schools, mean-field": (eight_schools, gb.guides.mean_field, gb.datasets.eight_schools()),
    "eight schools, full-rank": (eight_schools, gb.guides.full_rank, gb.datasets.eight_schools()),
    "normal, 20 rows, flow": (normal, gb.guides.flow, rows(20)),
}


def measured(model: object, family: object, data: dict, quick: bool) -> list[str]:
    def made(compiled: bool) -> module.Step:
        return captured_step(model, family(model), data, compiled=compiled)

    with mock.patch.object(module, "interpreted", lambda graph, *_: torch.no_grad()(graph)):
        python = made(False)
    interpreter = made(False)
    begin = time.perf_counter()
    compiled = made(True)
    whole = time.perf_counter() - begin
    begin = time.perf_counter()
    made(False)
    compiling = whole - (time.perf_counter() - begin)  # recording and the start are in both
    steps = 20 if quick else 200
    blocks = {
        name: captured_block(step, steps)
        for name, step in (("python", python), ("interpreter", interpreter), ("compiled", compiled))
    }
    taken = timing.interleaved(blocks, 3 if quick else 9)
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    saved = middle["interpreter"] - middle["compiled"]
    return [
        *(timing.shown(middle[name]) for name in blocks),
        f"{timing.ratio(taken, 'python', 'interpreter'):.2f}",
        f"{compiling:.1f} s",
        f"{compiling / saved:,.0f}" if saved > 0 else "never",
    ]


def main() -> None:
    given = timing.arguments(__doc__)
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n")
    found = []
    with tempfile.TemporaryDirectory() as folder:  # nothing is compiled yet
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for name, case in CASES.items():
            found.append([name, *measured(*case, given.quick)])
    timing.table(
        [
            "step",
            "python",
            "interpreter",
            "compiled",
            "python / interpreter",
            "to compile",
            "pays from",
        ],
        found,
    )
    per_call, per_element = SECONDS_SAVED
    print(
        f'\n`compile="auto"` compiles from {SECONDS_TO_COMPILE / per_call:,.0f} steps on, of 100,000 '
        f"elements from {SECONDS_TO_COMPILE / (per_call + 1e5 * per_element):,.0f}."
    )


if __name__ == "__main__":
    main()
