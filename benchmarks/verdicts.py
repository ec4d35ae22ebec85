"""Verdicts against truth: every guide family on posteriors whose moments are known.

    python -m benchmarks.verdicts --set reference          # writes benchmarks/VERDICTS.md
    python -m benchmarks.verdicts --set trials             # writes benchmarks/VERDICTS_TRIALS.md

Each fit is compared without a reference, as a user would who has none, and its verdict is then held
against the truth. An approximation is *truly good* when the raw draws have every marginal mean
within 0.1 posterior standard deviations and every standard deviation within 20 %, *truly
reweightable* when that holds for its importance-weighted draws, after moment matching where it
moved them. Every result is appended to benchmarks/.cache/verdicts.jsonl, so that an interrupted run
continues; results of other versions of the engines, of the diagnostics or of the posteriors are not
used.
"""

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.posteriors import available, flatten, load
from benchmarks.verdict_table import document, summary, table, truly

HERE = Path(__file__).resolve().parent
RESULTS = HERE / ".cache" / "verdicts.jsonl"
FAMILIES = ("mean_field", "full_rank", "low_rank", "flow", "laplace")
OUTPUT = {"reference": HERE / "VERDICTS.md", "trials": HERE / "VERDICTS_TRIALS.md"}
DRAWS = 20_000
MEAN_WITHIN = 0.1
SD_WITHIN = 0.2

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """One fit to make: a posterior of a set, a family and a seed."""

    set: str
    posterior: str
    family: str
    seed: int


@dataclass(frozen=True)
class Errors:
    """Largest standardised error of a mean, and the range of ratios of standard deviations."""

    mean: float
    sd_low: float
    sd_high: float

    @property
    def small(self) -> bool:
        within = self.sd_low >= 1 - SD_WITHIN and self.sd_high <= 1 + SD_WITHIN
        return self.mean <= MEAN_WITHIN and within


# One fit ------------------------------------------------------------------------------------------


def problem(
    task: Task,
) -> tuple[Callable[..., Any], dict[str, Any], dict[str, float], dict[str, float]]:
    """Model, data, and the true mean and standard deviation per flattened name."""
    if task.set == "reference":
        model, data, reference = load(task.posterior)
        return model, dict(data), reference.mean, reference.sd
    from benchmarks.trials import TRIALS

    trial = TRIALS[task.posterior]
    mean, sd = trial.truth()
    return trial.model, dict(trial.data), flatten(mean), flatten(sd)


def run(task: Task) -> dict[str, Any]:
    """Fit, compare without a reference, and judge the verdict by the truth."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        result = _judged(task)
    except Exception as error:
        frames = traceback.format_exc(limit=8)
        result = {"verdict": "error", "reason": f"{type(error).__name__}: {error}", "trace": frames}
    return {**asdict(task), "seconds": time.perf_counter() - started, **result}


def _judged(task: Task) -> dict[str, Any]:
    import guidebook as gb

    model, data, mean, sd = problem(task)
    if task.family == "laplace":
        fit = gb.laplace(model, data, seed=task.seed)
    else:
        guide = getattr(gb.guides, task.family)(model)
        fit = gb.svi(model, guide, data, seed=task.seed, progress=False)
    started = time.perf_counter()
    comparison = gb.compare({"fit": fit})
    row = comparison.table.loc["fit"]
    compared = time.perf_counter() - started
    tree = fit.posterior(draws=DRAWS, seed=task.seed + 1_000)
    draws = _draws(tree, model, data, mean)
    raw = errors(draws, np.full(DRAWS, 1 / DRAWS), mean, sd)
    moved = comparison.matched.get("fit", tree)
    weights = _smoothed(
        np.asarray(moved["sample_stats"]["lp"] - moved["sample_stats"]["log_q"]).reshape(-1)
    )
    weighted = errors(_draws(moved, model, data, mean), weights, mean, sd)
    numbers = {k: _number(row[k]) for k in ("khat", "khat_se", "ess", "stein", "elbo")}
    return {
        "verdict": str(getattr(row["verdict"], "value", row["verdict"])),
        "reason": str(row["reason"]),
        "next": str(row["next"]),
        "status": fit.status.name,
        "seconds": fit.seconds,
        "compare_seconds": compared,
        **numbers,
        "good": raw.small,
        "reweightable": weighted.small,
        "raw": asdict(raw),
        "weighted": asdict(weighted),
    }


def _number(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _smoothed(log_ratio: Array) -> Array:
    """Pareto-smoothed importance weights that sum to one."""
    from arviz_stats.base import array_stats

    if np.ptp(log_ratio) < 1e-8:
        return np.full(log_ratio.size, 1 / log_ratio.size)
    # psislw negates its input.
    log_weights, _ = array_stats.psislw(-(log_ratio - log_ratio.max()), r_eff=1)
    weights: Array = np.exp(log_weights - np.max(log_weights))
    return weights / weights.sum()


def _draws(
    tree: Any, model: Callable[..., Any], data: Mapping[str, Any], truth: Iterable[str]
) -> dict[str, Array]:
    """Draws per site (draws, *shape), with the model's deterministic sites where truth has them."""
    posterior = tree["posterior"].to_dataset()
    draws = {str(n): np.asarray(v)[0] for n, v in posterior.data_vars.items()}
    missing = {name.partition("[")[0] for name in truth} - set(draws)
    if missing:
        draws |= {n: v for n, v in _deterministic(model, data, draws).items() if n in missing}
    return draws


def _deterministic(
    model: Callable[..., Any], data: Mapping[str, Any], draws: Mapping[str, Array]
) -> dict[str, Array]:
    import pyro
    from pyro import poutine

    def one(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(**data)
        sites = trace.nodes.items()
        return {n: s["value"] for n, s in sites if s.get("infer", {}).get("_deterministic")}

    rows = torch.func.vmap(one, chunk_size=1_000)
    with pyro.validation_enabled(False):
        found = rows({n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in draws.items()})
    return {n: v.numpy() for n, v in found.items()}


def errors(
    draws: Mapping[str, Array], weights: Array, mean: Mapping[str, float], sd: Mapping[str, float]
) -> Errors:
    """The worst errors over all marginals of the truth."""
    means, sds = {}, {}
    for site, values in draws.items():
        means[site] = np.tensordot(weights, values, 1)
        sds[site] = np.sqrt(np.tensordot(weights, (values - means[site]) ** 2, 1))
    flat_mean, flat_sd = flatten(means), flatten(sds)
    shift = [abs(flat_mean[n] - mean[n]) / sd[n] for n in mean]
    ratio = [flat_sd[n] / sd[n] for n in sd]
    return Errors(float(max(shift)), float(min(ratio)), float(max(ratio)))


# Many fits ----------------------------------------------------------------------------------------


def code_version() -> str:
    """A hash of the sources that decide a verdict."""
    root = HERE.parent / "guidebook"
    folders = [root / name for name in ("guides", "inference", "diagnostics")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    files += [root / "reports" / "comparison.py", HERE / "posteriors.py"]
    files += [HERE / "trial_models.py", HERE / "trials.py"]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def stored(code: str) -> dict[Task, dict[str, Any]]:
    """Results of this version of the sources, by task."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines() if line.strip()]
    fields = ("set", "posterior", "family", "seed")
    return {Task(*(row[f] for f in fields)): row for row in rows if row["code"] == code}


def run_all(tasks: Sequence[Task], jobs: int, code: str) -> dict[Task, dict[str, Any]]:
    """The results of all tasks: those that are stored, and the others now."""
    done = {task: row for task, row in stored(code).items() if row["verdict"] != "error"}
    left = [task for task in tasks if task not in done]
    print(f"{len(tasks)} fits, {len(tasks) - len(left)} already there", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures: dict[Future[dict[str, Any]], Task] = {pool.submit(run, t): t for t in left}
        for count, future in enumerate(as_completed(futures), 1):
            row = {**future.result(), "code": code}
            if code_version() != code:
                pool.shutdown(cancel_futures=True)
                sys.exit(
                    "guidebook or the posteriors changed while this ran, so its rows would be of "
                    "mixed versions. Run it again, on a copy of the tree while you edit."
                )
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done[futures[future]] = row
            print(f"{count}/{len(left)} {line_of(row)}", flush=True)
    return {task: done[task] for task in tasks}


def line_of(row: Mapping[str, Any]) -> str:
    name = f"{row['posterior']} {row['family']} seed {row['seed']}"
    if row["verdict"] == "error":
        return f"{name}: ERROR {row['reason'][:300]}"
    return f"{name}: {row['verdict']} (truly {truly(row)}) {row['seconds']:.1f} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--set", choices=("reference", "trials"), default="reference")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--only", action="append", help="a posterior's name; may be repeated")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _names(which: str, only: Sequence[str] | None) -> list[str]:
    if which == "reference":
        names = available()
    else:
        from benchmarks.trials import TRIALS

        names = list(TRIALS)
    unknown = [name for name in only or [] if name not in names]
    if unknown:
        sys.exit(f"no posterior {unknown[0]!r} in {which}: there are {', '.join(names)}")
    return [name for name in names if not only or name in only]


def main() -> None:
    given = _arguments()
    families = given.families.split(",")
    names = _names(given.set, given.only)
    seeds = range(given.seeds)
    tasks = [Task(given.set, n, f, s) for n in names for f in families for s in seeds]
    if not tasks:
        return
    results = run_all(tasks, given.jobs, code_version())
    rows = [results[task] for task in tasks]
    command = "python -m benchmarks.verdicts " + " ".join(sys.argv[1:])
    partial = given.only or tuple(families) != FAMILIES
    out = given.out or (None if partial else OUTPUT[given.set])
    if out is None:
        print(f"\n{summary(rows)}\n\n{table(rows)}")
        return
    out.write_text(document(rows, given.set, command.strip(), given.jobs))
    print(f"\n{summary(rows)}\n\n{out}")


if __name__ == "__main__":
    main()
