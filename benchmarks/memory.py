"""Peak memory of a mini-batch fit on a memory-mapped file: does it grow with the rows?

    python -m benchmarks.memory           # about three minutes, 440 MB of disk

Logistic regression on 10 columns in float32, 10^5 and 10^7 rows, each in a fresh process: the peak
resident set, and of it the anonymous part (file pages can be given back at any time).
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import timing

ROWS = (100_000, 10_000_000)
COLUMNS = 10


def write(folder: Path, rows: int) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (rows, COLUMNS))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (rows,))
    for start in range(0, rows, 100_000):
        part = slice(start, min(rows, start + 100_000))
        X[part] = rng.standard_normal((part.stop - part.start, COLUMNS), dtype=np.float32)
        y[part] = rng.random(part.stop - part.start) < 1 / (1 + np.exp(-X[part].sum(1)))
    X.flush()
    y.flush()


def fit(folder: Path) -> None:
    """Prints the peak resident set and the anonymous memory, in MB, and the seconds of the fit."""
    import resource

    import numpy as np
    import torch

    import guidebook as gb
    from guidebook.models import logistic_regression

    torch.set_num_threads(1)
    data = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("X", "y")}
    guide = gb.guides.mean_field(logistic_regression)
    found = gb.svi(
        logistic_regression, guide, data, batch_size=256, steps=3000, compile="graph",
        progress=False,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    anonymous = next(int(x.split()[1]) for x in rollup if x.startswith("Anonymous")) / 1024
    print(f"{peak:.0f} {anonymous:.0f} {found.seconds:.1f} {found.status.name}")


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "--fit":
        fit(Path(sys.argv[2]))
        return
    quick = timing.arguments(__doc__).quick
    print(f"{timing.machine()}\n", flush=True)
    rows = []
    for count in (ROWS[0], 1_000_000) if quick else ROWS:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), count)
            command = [sys.executable, "-m", "benchmarks.memory", "--fit", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append([f"{count:,}", *done.stdout.split()])
    header = ["rows", "peak resident, MB", "anonymous at the end, MB", "seconds", "status"]
    timing.table(header, rows)


if __name__ == "__main__":
    main()
