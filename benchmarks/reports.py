"""`guidebook report` as a user waits for it: CPU seconds, memory and verdicts, pair by pair.

    python -m benchmarks.reports [--quick] [PAIR ...]       # about an hour; --quick a quarter of it

Each page is written by a fresh process on one core, as from the shell. Seconds are of the processor, user
and system, imports included; the memory is the most that was resident at once. The verdicts are those of the
page, the truth (NUTS, Gibbs sampling, a closed form) included.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from benchmarks.timing import machine
from guidebook.catalogue import PAIRS

TARGETS = {"eight-schools": 25, "logistic-regression": 60}
OTHERS, QUICK, MEGABYTES = 120, 30, 2000
"""To reach: CPU seconds of the other pages, of each quick one, and resident memory."""
USES = {"Model": "model", "Codes": "codes", "Each row's posterior": "rows"}
"""What the page calls the uses of an amortised fit, and what the table does."""


@dataclass(frozen=True)
class Report:
    """What one page took, and the verdict of each of its fits."""

    seconds: float
    wall: float
    megabytes: float
    verdicts: tuple[str, ...]


def report(pair: str, *, quick: bool) -> Report:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "guidebook", "report", pair, "--out", f"{folder}/page"]
        started = time.perf_counter()
        process = subprocess.Popen(
            command + ["--quick"] * quick,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode != 0:
        raise RuntimeError(f"guidebook report {pair} ended with {process.returncode}:\n{text}")
    return Report(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024, verdicts_of(text))


def verdicts_of(text: str) -> tuple[str, ...]:
    """The verdict of every fit in the text of a page, with those by use where it has any."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if re.match(r"\S.*: (trust|reweight|reject)\b", line):
            found.append((line, []))
        use = re.match(rf"  ({'|'.join(USES)}): (trust|reweight|reject)\b", line)
        if use is not None and found:
            found[-1][1].append(f"{USES[use[1]]} {use[2]}")
    return tuple(f"{line} ({', '.join(uses)})" if uses else line for line, uses in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    print(f"{machine()}\n")
    print(
        "| pair | CPU s | to reach | wall s | resident MB | verdicts |\n|---|---|---|---|---|---|"
    )
    for name in asked.pairs or PAIRS:
        target = QUICK if asked.quick else TARGETS.get(name, OTHERS)
        found = report(name, quick=asked.quick)
        verdicts = "; ".join(found.verdicts)
        print(
            f"| {name} | {found.seconds:.0f} | {target} | {found.wall:.0f} | {found.megabytes:.0f} | "
            f"{verdicts} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
