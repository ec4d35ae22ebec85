"""`import guidebook` against `import pyro`, medians of fresh processes in turns.

python -m benchmarks.import_time      # about a minute
"""

import statistics
import subprocess
import sys

from benchmarks import timing

SIDES = {
    "import pyro": "import pyro",
    "import guidebook": "import guidebook",
    "guidebook.svi": "import guidebook; guidebook.svi",
    "guidebook.compare": "import guidebook; guidebook.compare",
}


def seconds_of(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    quick = timing.arguments(__doc__).quick
    print(f"{timing.machine()}\n", flush=True)
    blocks = {name: (lambda s=statement: seconds_of(s)) for name, statement in SIDES.items()}
    seconds = timing.interleaved(blocks, 2 if quick else 7, warm=1)
    rows = [
        [name, timing.shown(statistics.median(values)),
         f"{timing.ratio(seconds, name, 'import pyro'):.2f}"]
        for name, values in seconds.items()
    ]  # fmt: skip
    timing.table(["statement", "time", "ratio to import pyro"], rows)


if __name__ == "__main__":
    main()
