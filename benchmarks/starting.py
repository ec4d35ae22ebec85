"""How long does a program with a loop over time take until its first step, its fit, its verdict, its page?

python -m benchmarks.starting          # CPU seconds, one run of each; ten minutes or more
python -m benchmarks.starting --quick  # loops of an eighth of the length
"""

from benchmarks import timing

CORE = timing.one_core()  # before torch counts the cores

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import guidebook as gb
from guidebook.inference.gradient import run as loop
from guidebook.inference.gradient import step
from guidebook.programs import recordings as of_potential
from guidebook.programs.graphs import recorded

RNG = np.random.default_rng(0)


def arma(y: torch.Tensor) -> None:
    """ARMA(1, 1): one likelihood a step, whose mean waits for the error of the step before."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(5.0))
    error = y[0] - mu - phi * mu
    for t in range(1, len(y)):
        mean = mu + phi * y[t - 1] + theta * error
        error = y[t] - mean
        pyro.sample(f"y_{t}", dist.Normal(mean, sigma), obs=y[t])


def walk(y: torch.Tensor) -> None:
    """A random walk seen with noise: one latent site a step."""
    scale, level = pyro.sample("scale", dist.HalfNormal(1.0)), torch.zeros(())
    for t in range(len(y)):
        level = pyro.sample(f"level_{t}", dist.Normal(level, scale))
        pyro.sample(f"y_{t}", dist.Normal(level, 1.0), obs=y[t])


def second_order(y: torch.Tensor) -> None:
    """A latent AR(2) in a `pyro.markov` loop with history=2."""
    a = pyro.sample("a", dist.Normal(0.0, 0.5))
    b = pyro.sample("b", dist.Normal(0.0, 0.5))
    now = before = torch.zeros(())
    for t in pyro.markov(range(len(y)), history=2):
        level = pyro.sample(f"level_{t}", dist.Normal(a * now + b * before, 1.0))
        now, before = level, now
        pyro.sample(f"y_{t}", dist.Normal(level, 1.0), obs=y[t])


def hidden_markov(y: torch.Tensor) -> None:
    """Three hidden states, summed out, for every row of y (sequences, time)."""
    rows = 0.9 * torch.eye(3) + 0.1
    moves = pyro.sample("moves", dist.Dirichlet(rows).to_event(1))
    means = pyro.sample("means", dist.Normal(torch.tensor([-2.0, 0.0, 2.0]), 1.0).to_event(1))
    state: Any = 0
    with pyro.plate("sequence", len(y), dim=-1):
        for t in pyro.markov(range(y.shape[1])):
            state = pyro.sample(
                f"state_{t}", dist.Categorical(moves[state]), infer={"enumerate": "parallel"}
            )
            pyro.sample(f"y_{t}", dist.Normal(means[state], 1.0), obs=y[:, t])


def noisy(*shape: int) -> dict[str, np.ndarray]:
    steps = RNG.normal(scale=0.3, size=shape).cumsum(-1)
    return {"y": steps + RNG.normal(size=shape)}


def cases(shorter: int) -> dict[str, tuple[Any, dict[str, np.ndarray]]]:
    return {
        "ARMA(1, 1), 200 steps": (arma, noisy(200 // shorter)),
        "random walk, 200 latent sites": (walk, noisy(200 // shorter)),
        "pyro.markov, history=2, 100 steps": (second_order, noisy(100 // shorter)),
        "HMM, 3 states, 60 steps": (hidden_markov, noisy(1, 60 // shorter)),
        "HMM, 3 states, 60 steps, 8 sequences": (hidden_markov, noisy(8, 60 // shorter)),
    }


def measured(model: Callable[..., Any], data: dict[str, np.ndarray]) -> list[str]:
    """CPU seconds before the first step, of the steps, of compare, of the page; recordings in all."""
    marks, recordings = [time.process_time()], [0]
    record, run = recorded.record, loop.run_captured

    def counted(*arguments: Any) -> Any:
        recordings[0] += 1
        return record(*arguments)

    def begins(*arguments: Any) -> Any:
        marks.append(time.process_time())
        return run(*arguments)

    with (
        mock.patch.object(step, "record", counted),
        mock.patch.object(of_potential, "record", counted),
        mock.patch.object(loop, "run_captured", begins),
        tempfile.TemporaryDirectory() as folder,
    ):
        fit = gb.svi(model, gb.guides.mean_field(model), data, progress=False)
        marks.append(time.process_time())
        comparison = gb.compare({"mean-field": fit})
        marks.append(time.process_time())
        comparison.to_html(Path(folder) / "page.html")
        marks.append(time.process_time())
    seconds = [f"{b - a:.1f}" for a, b in pairwise(marks)]
    return [*seconds, f"{marks[-1] - marks[0]:.0f}", str(recordings[0])]


def main() -> None:
    given = timing.arguments(__doc__)
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}; CPU seconds\n")
    rows = [[name, *measured(*case)] for name, case in cases(8 if given.quick else 1).items()]
    header = ["program", "before step 1", "the steps", "compare", "to_html", "all", "recordings"]
    timing.table(header, rows)


if __name__ == "__main__":
    main()
