"""The captured step against pyro.infer.SVI on small models, one core.

    python -m benchmarks.speed            # about five minutes

Both sides fit the same model with the same stock guide and ELBO. Pyro's side is what its users
write: float32 data, pyro.optim.Adam. Guidebook's is the step that `svi` runs, float64 where the
model has no network, with its schedule, averaging and guard against NaN. Then the time to 5,000
steps from a cold start: fresh processes, no compiled kernel on disk, imports of both not counted.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import guidebook as gb
from benchmarks.captured import captured_block, captured_step
from guidebook.models.hierarchical import eight_schools

STEPS = 5000
RATE = 0.01


@config_enumerate
def mixture(x: torch.Tensor) -> None:
    """Three components in the plane, the component of every row summed out."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("component", 3):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with pyro.plate("row", len(x)):
        c = pyro.sample("c", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(mean[c], 1.0).to_event(1), obs=x)


def mixture_data() -> dict[str, torch.Tensor]:
    """500 rows around two of three centres."""
    torch.manual_seed(0)
    return {"x": torch.randn(500, 2) + 3 * (torch.rand(500, 1) > 0.5)}


@dataclass(frozen=True)
class Case:
    """A model, a stock guide, an objective; `target` is how many times faster it must be."""

    name: str
    model: Callable[..., Any]
    guide: Callable[[], Any]
    data: Callable[[], dict[str, torch.Tensor]]
    objective: Callable[[], Any]
    target: int | None = None


def _sixteen() -> Trace_ELBO:
    return Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)


def _schools(name: str, guide: Callable[..., Any], objective: Any, target: int | None) -> Case:
    data = gb.datasets.eight_schools
    return Case(name, eight_schools, lambda: guide(eight_schools), data, objective, target)


CASES = (
    _schools("eight schools, mean-field", AutoNormal, Trace_ELBO, 15),
    _schools("the same, 16 particles", AutoNormal, _sixteen, 15),
    _schools("the same, full-rank", AutoMultivariateNormal, Trace_ELBO, None),
    Case(
        "mixture of 3, enumerated",
        mixture,
        lambda: AutoNormal(poutine.block(mixture, hide=["c"])),
        mixture_data,
        lambda: TraceEnum_ELBO(max_plate_nesting=1),
        8,
    ),
)


def pyro_step(case: Case) -> Callable[[], Any]:
    """One step as Pyro's users write it."""
    pyro.clear_param_store()
    data = {name: value.float() for name, value in case.data().items()}
    svi = SVI(case.model, case.guide(), pyro.optim.Adam({"lr": RATE}), case.objective())
    return lambda: svi.step(**data)


def per_step(case: Case, rounds: int) -> list[str]:
    store = pyro.get_param_store()
    with store.scope():
        theirs = pyro_step(case)
        theirs()
        ours = captured_step(case.model, case.guide(), case.data(), case.objective())
        blocks = {
            "pyro": timing.steps_block(theirs, 20),
            "captured": captured_block(ours, 500),
        }
        seconds = timing.interleaved(blocks, rounds)
    gain = timing.ratio(seconds, "pyro", "captured")
    target = f"{case.target}" if case.target else ""
    medians = [timing.shown(statistics.median(seconds[name])) for name in blocks]
    return [case.name, *medians, f"{gain:.1f}", target]


def own_guides(rounds: int) -> None:
    """gb.guides: 16 particles a step in svi's default."""
    data = gb.datasets.eight_schools()
    families = {"mean_field": gb.guides.mean_field, "full_rank": gb.guides.full_rank}
    rows = []
    for name, family in families.items():
        kinds = {
            "compiled": captured_step(eight_schools, family(eight_schools), data),
            "recorded, not compiled": captured_step(
                eight_schools, family(eight_schools), data, compiled=False
            ),
        }
        blocks = {kind: captured_block(step, 200) for kind, step in kinds.items()}
        seconds = timing.interleaved(blocks, rounds)
        rows += [[name, k, timing.shown(statistics.median(s))] for k, s in seconds.items()]
    timing.table(["gb.guides on eight schools, 16 particles", "engine", "a step"], rows)


# from a cold start ------------------------------------------------------------------------------


def from_cold(case: Case, side: str) -> float:
    """Seconds to 5,000 steps in this process, whose caches are empty."""
    data = case.data()
    start = time.perf_counter()
    if side == "pyro":
        step = pyro_step(case)
        for _ in range(STEPS):
            step()
    else:
        compile_it = True if side == "compiled" else "auto"
        gb.svi(
            case.model, case.guide(), data, objective=case.objective(), steps=STEPS,
            compile=compile_it, progress=False,
        )  # fmt: skip
    return time.perf_counter() - start


def cold_process(number: int, side: str) -> float:
    """The same in a fresh process with fresh folders for kernels and precompiled headers."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "kernels"),
            "TMPDIR": folder,
        }
        command = [sys.executable, "-m", "benchmarks.speed", "--cold", str(number), side]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1])


def cold(repeats: int, cases: tuple[int, ...]) -> None:
    rows = []
    for number in cases:
        sides = ("pyro", "compiled", "auto")
        blocks = {s: (lambda s=s, n=number: cold_process(n, s)) for s in sides}
        seconds = timing.interleaved(blocks, repeats, warm=0)
        medians = [timing.shown(statistics.median(seconds[s])) for s in sides]
        gain = timing.ratio(seconds, "pyro", "compiled")
        rows.append([CASES[number].name, *medians, f"{gain:.1f}"])
    header = [
        f"{STEPS:,} steps from cold",
        "pyro.infer.SVI",
        "compile=True",
        "compile='auto'",
        "ratio",
    ]
    timing.table(header, rows)


def main() -> None:
    if "--cold" in sys.argv:
        number, side = sys.argv[-2:]
        torch.set_num_threads(1)
        print(from_cold(CASES[int(number)], side))
        return
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    rounds = 4 if quick else 20
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    rows = [per_step(case, rounds) for case in CASES]
    timing.table(["a step", "pyro.infer.SVI", "captured", "ratio", "target"], rows)
    print()
    own_guides(rounds)
    print()
    cold(1 if quick else 3, (0,) if quick else (0, 1, 3))


if __name__ == "__main__":
    main()
