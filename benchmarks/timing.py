"""Two sides of a comparison on one core, in one run, in turns; medians, ratios and the machine.

A machine's speed drifts by tens of per cent within minutes, so the sides take turns in blocks of
some tenths of a second, and a ratio is the median of the ratios within each round.
"""

import os
import platform
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Block = Callable[[], float]
"""Does some of the work and returns seconds a unit of it (a step, a draw)."""


def arguments(description: str | None) -> Namespace:
    """The arguments of every benchmark: --quick, for trying the benchmark and not the machine."""
    parser = ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: numbers mean little")
    return parser.parse_args()


def one_core() -> int | None:
    """Pin this process and those it starts to one core, before torch counts the cores."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def machine() -> str:
    """One line: processor, cores, load, and the versions of what is measured."""
    packages = ("torch", "pyro-ppl", "nutpie", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = os.cpu_count()
    return f"{_processor()}, {cores} cores{load}; Python {platform.python_version()}, {versions}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
    flags = next((x for x in lines if x.startswith("flags")), "")
    wide = "AVX-512" if " avx512f" in flags else "AVX2" if " avx2" in flags else ""
    return " ".join(part for part in (name or platform.processor(), wide) if part)


def steps_block(step: Callable[[], object], steps: int) -> Block:
    """A block of so many calls of `step`."""

    def block() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - start) / steps

    return block


def interleaved(blocks: Mapping[str, Block], rounds: int, warm: int = 2) -> dict[str, list[float]]:
    """Seconds a unit of every block in every round; the order turns, `warm` rounds are not kept."""
    names = list(blocks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm, rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            taken = blocks[name]()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """How many times longer `slow` takes than `fast`: the median over rounds."""
    pairs = zip(seconds[slow], seconds[fast], strict=True)
    return statistics.median(a / b for a, b in pairs)


def shown(seconds: float) -> str:
    """With a unit, three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, which is also what benchmarks/README.md holds."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    for row in (header, ["-" * w for w in widths], *rows):
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")
    sys.stdout.flush()
