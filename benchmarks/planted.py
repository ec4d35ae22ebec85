"""Planted failures: mixtures of normals judged where every error is known in closed form.

    python -m benchmarks.planted --jobs 2         # writes benchmarks/PLANTED.md
    python -m benchmarks.planted --every 5        # every fifth target: a first look

A target is a mixture of one to three normals in D dimensions; an approximation is another mixture with
a known density: the target itself and a near one (sound twins), and the same with a planted failure (too
narrow, too wide, shifted, without a mode, with modes in wrong shares, without its correlations). Each is
judged by `gb.compare` without a reference, at its defaults. *Truly good*: every marginal mean within 0.1
standard deviations and every standard deviation within 20 % of the target's, in closed form; *truly
reweightable*: the same of the smoothed importance-weighted draws, after moment matching where it moved
them. Rates have the one-sided upper 95 %
bound of Clopper and Pearson beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import guidebook as gb
from benchmarks.timing import machine
from benchmarks.verdict_table import rate
from guidebook.diagnostics.numerics.psis import psis, weighted_moments
from guidebook.selftest import Mixture, planted

OUTPUT = Path(__file__).resolve().parent / "PLANTED.md"
DRAWS = 20_000


def targets() -> Iterator[tuple[str, Mixture]]:
    """One, two and three modes over dimensions, distances and shares."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 10, 30, 60):
        for correlated in (False, True) if size > 1 else (False,):
            spread = 10.0 ** rng.uniform(-1, 0.5, size)
            root = np.linalg.cholesky(_correlation(size, 0.6 if correlated else 0.0))
            normal = Mixture(np.ones(1), rng.normal(size=(1, size)), (spread[:, None] * root)[None])
            yield f"normal, D = {size}{', correlated' if correlated else ''}", normal
    for size in (1, 2, 10, 30):
        for distance in (5.0, 10.0, 25.0):
            for share in (0.5, 0.2, 0.02, 0.005):
                means = np.zeros((2, size))
                means[1, 0] = distance
                factors = np.stack([np.eye(size), 0.7 * np.eye(size)])
                both = Mixture(np.array([1 - share, share]), means, factors)
                yield f"two modes, D = {size}, {distance:g} sd apart, {share:.1%}", both
    for size in (2, 10):
        means = 8.0 * rng.normal(size=(3, size)) / math.sqrt(size) * np.array([[0], [1], [-1.5]])
        three = Mixture(np.array([0.5, 0.3, 0.2]), means, np.stack([np.eye(size)] * 3))
        yield f"three modes, D = {size}", three


def _correlation(size: int, rho: float) -> np.ndarray:
    return rho ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))


def approximations(p: Mixture) -> dict[str, Mixture]:
    """The target, a near one, and it with each failure."""
    _, sd = p.moments()
    own = np.sqrt(np.square(p.factors).sum(-1))  # of each mode
    found = {
        "exact": p,
        "near": replace(p, factors=0.95 * p.factors, means=p.means + 0.03 * own),
        "narrow": replace(p, factors=0.6 * p.factors),
        "wide": replace(p, factors=1.5 * p.factors),
        "shifted": replace(p, means=p.means + 0.3 * sd),
    }
    if len(p.shares) > 1:
        found["missing mode"] = replace(
            p,
            shares=p.shares[:-1] / p.shares[:-1].sum(),
            means=p.means[:-1],
            factors=p.factors[:-1],
        )
        wrong = p.shares * np.where(np.arange(len(p.shares)) == 0, 0.5, 1.0)
        found["first mode halved"] = replace(p, shares=wrong / wrong.sum())
        wrong = p.shares * np.where(np.arange(len(p.shares)) == 0, 1.0, 0.3)
        found["others to a third"] = replace(p, shares=wrong / wrong.sum())
    elif p.means.shape[1] > 1 and np.abs(np.tril(p.factors[0], -1)).max() > 0:
        precision = np.linalg.inv(p.factors[0] @ p.factors[0].T)
        apart = np.diag(1 / np.sqrt(np.diagonal(precision)))
        found["factorised"] = replace(p, factors=apart[None])
    return found


def good(mean: np.ndarray, sd: np.ndarray, p: Mixture) -> bool:
    of_p, sd_p = p.moments()
    return bool((np.abs(mean - of_p) / sd_p < 0.1).all() and (np.abs(sd / sd_p - 1) < 0.2).all())


def judged(p: Mixture) -> list[dict[str, Any]]:
    """Every approximation of a target: its verdict, and what is true."""
    mixtures = approximations(p)
    fits = {name: planted(p, q) for name, q in mixtures.items()}
    rows = []
    for name, q in mixtures.items():
        found = gb.compare({name: fits[name]})  # alone: what another fit visits must not help
        tree = found.matched.get(name) or fits[name].posterior(DRAWS, seed=9)
        u = tree["posterior"]["u"].values.reshape(-1, p.means.shape[1])
        stats = tree["sample_stats"]
        weights = psis((stats["lp"] - stats["log_q"]).values.reshape(-1))
        moments = weighted_moments(u, None if weights is None else weights.weights)
        row = found.table.loc[name]
        rows.append(
            {
                "fit": name,
                "verdict": row["verdict"],
                "good": good(*q.moments(), p),
                "reweightable": good(*moments, p),
                "khat": row["khat"],
                "reason": row["reason"],
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, str]:
    trusted = [r for r in rows if r["verdict"] == "trust"]
    mended = [r for r in rows if r["verdict"] == "reweight"]
    twins = [r for r in rows if r["fit"] in ("exact", "near") and r["good"]]
    return {
        "fits": str(len(rows)),
        "failures (truly not good)": str(sum(not r["good"] for r in rows)),
        "wrong trust": rate(sum(not r["good"] for r in trusted), sum(not r["good"] for r in rows)),
        "wrong reweight, of all reweights": rate(
            sum(not r["reweightable"] for r in mended), len(mended)
        ),
        "sound twins (exact, near) not trusted": rate(
            sum(r["verdict"] != "trust" for r in twins), len(twins)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    began, rows = time.perf_counter(), []
    chosen = list(targets())[:: arguments.every]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, context, torch.set_num_threads, (1,)) as pool:
        results = zip(chosen, pool.map(judged, [p for _, p in chosen]), strict=True)
        for (name, _), found in results:
            rows += [{"target": name, **row} for row in found]
            _report(rows[-len(found) :])
    text = document(rows, time.perf_counter() - began, arguments.jobs)
    print(text.split("## Every")[0])
    if arguments.every == 1:
        arguments.out.write_text(text, encoding="utf-8")


def _report(rows: list[dict[str, Any]]) -> None:
    """The verdicts on one target, with a mark at those that are wrong."""
    for row in rows:
        wrong = row["verdict"] == "trust" and not row["good"]
        missed = row["good"] and row["verdict"] != "trust"
        mark = "  <- WRONG TRUST" if wrong else "  <- not trusted" if missed else ""
        truth = f"{row['verdict']}, truly {_truth(row)}{mark}"
        print(f"{row['target']}: {row['fit']}: {truth}", flush=True)
        if mark:
            print("    ", row["reason"][:300], flush=True)


def _truth(row: dict[str, Any]) -> str:
    return "good" if row["good"] else "reweightable" if row["reweightable"] else "bad"


def document(rows: list[dict[str, Any]], seconds: float, jobs: int) -> str:
    lines = [
        "# Planted failures", "", __doc__.split("\n\n", 2)[2].strip(), "",
        f"Command: `python -m benchmarks.planted --jobs {jobs}`, {seconds / 60:.0f} minutes.",
        f"Machine: {machine()}.", "", "| | |", "|---|---|",
        *(f"| {key} | {value} |" for key, value in summary(rows).items()),
        "", "Of failures by kind (upper 95 % bounds):", "",
        "| planted | fits | wrong trust |", "|---|---|---|",
    ]  # fmt: skip
    for kind in dict.fromkeys(r["fit"] for r in rows):
        own = [r for r in rows if r["fit"] == kind]
        table = summary(own)
        lines.append(f"| {kind} | {table['fits']} | {table['wrong trust']} |")
    lines += [
        "", "## Every fit", "",
        "| target | approximation | verdict | truly | k-hat |", "|---|---|---|---|---|",
        *(f"| {r['target']} | {r['fit']} | {r['verdict']} | {_truth(r)} | {r['khat']:.2f} |" for r in rows),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
