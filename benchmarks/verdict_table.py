"""The tables of verdicts against truth, as Markdown."""

import multiprocessing
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta


def truly(row: Mapping[str, Any]) -> str:
    if row["good"]:
        return "good"
    return "reweightable" if row["reweightable"] else "bad"


def _cell(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mark(row: Mapping[str, Any]) -> str:
    wrong = (row["verdict"] == "trust" and not row["good"]) or (
        row["verdict"] == "reweight" and not row["reweightable"]
    )
    return f"**{row['verdict']}** (wrong)" if wrong else str(row["verdict"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "posterior | family | seed | verdict | truly | khat | stein | max mean err"
    head = f"| {head} | sd ratio range | weighted: mean err | sd ratio range | status | seconds |"
    lines = [head, "|" + "---|" * 13]
    for row in rows:
        if row["verdict"] == "error":
            cells = [row["posterior"], row["family"], row["seed"], "error", row["reason"][:80]]
            lines.append("| " + " | ".join(str(c).replace("\n", " ") for c in cells) + " |" * 9)
            continue
        raw, weighted = row["raw"], row["weighted"]
        cells = [
            row["posterior"],
            row["family"],
            row["seed"],
            _mark(row),
            truly(row),
            _cell(row["khat"]),
            _cell(row["stein"]),
            _cell(raw["mean"]),
            f"{raw['sd_low']:.2f} to {raw['sd_high']:.2f}",
            _cell(weighted["mean"]),
            f"{weighted['sd_low']:.2f} to {weighted['sd_high']:.2f}",
            row["status"].lower().replace("_", " "),
            _cell(row["seconds"], 1),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def rate(bad: int, of: int) -> str:
    """A share with its upper 95 % bound."""
    if not of:
        return "0 of 0"
    bound = beta.ppf(0.95, bad + 1, of - bad) if bad < of else 1.0
    return f"{bad} of {of} ({bad / of:.1%}, at most {bound:.1%})"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.0f} %)" if whole else "")


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Wrong trusts, wrong reweights and recognised good ones, altogether and by family."""
    lines = [
        "| fits of | fits | truly good | wrong trust | wrong reweight | good ones trusted | "
        "reweightable, not good: said so | errors | median seconds |",
        "|" + "---|" * 9,
    ]
    families = list(dict.fromkeys(row["family"] for row in rows))
    for name in ["all families", *families]:
        chosen = [row for row in rows if name in ("all families", row["family"])]
        fits = [row for row in chosen if row["verdict"] != "error"]
        trusts = [row for row in fits if row["verdict"] == "trust"]
        reweights = [row for row in fits if row["verdict"] == "reweight"]
        good = [row for row in fits if row["good"]]
        second = [row for row in fits if row["reweightable"] and not row["good"]]
        cells = [
            name,
            len(fits),
            len(good),
            rate(sum(not row["good"] for row in trusts), len(trusts)),
            rate(sum(not row["reweightable"] for row in reweights), len(reweights)),
            _share(sum(row["verdict"] == "trust" for row in good), len(good)),
            _share(sum(row["verdict"] == "reweight" for row in second), len(second)),
            len(chosen) - len(fits),
            _cell(float(np.median([row["seconds"] for row in fits])) if fits else None, 1),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def document(rows: Sequence[Mapping[str, Any]], which: str, command: str, jobs: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "pyro-ppl", "numpy"))
    where = f"{processor()}, {multiprocessing.cpu_count()} cores, {platform.system()}"
    source = {
        "reference": "nine posteriordb posteriors, 10,000 reference draws each",
        "trials": "the posteriors of `benchmarks/trials.py`, exact, by quadrature or long NUTS",
    }[which]
    return f"""# Verdicts against truth

Truth: {source}.
Every fit is judged by `gb.compare` **without** a reference. *Truly good*: the
20,000 raw draws have every marginal mean within 0.1 posterior standard deviations and every
standard deviation within 20 %. *Truly reweightable*: the same of the
Pareto-smoothed importance-weighted draws, after moment matching where it moved them.
Wrong trust: *trust* and not truly good. Wrong reweight: *reweight* and not truly reweightable;
their rates with the one-sided upper 95 % bound of Clopper and Pearson.

Command: `{command}`, {jobs} fits at a time, one thread each.
Machine: {where}; Python {platform.python_version()}, {versions}.

## Summary

{summary(rows)}

## Every fit

{table(rows)}
"""
