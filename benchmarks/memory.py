"""Peak memory of a mini-batch fit on a memory-mapped file: does it grow with the rows?

    python -m benchmarks.memory           # about three minutes, 440 MB of disk

Logistic regression on 10 columns in float32, 10^5 and 10^7 rows (4.4 and 440 MB of files, written
before and deleted after), 3,000 steps of 256 rows, each in a fresh process. Memory that counts is
anonymous; pages of a file may be given back at any time, and the system keeps some while nobody
else asks for the room. Both are sampled during the fit, 200 times a second; Linux only.
"""

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks import timing

ROWS = (100_000, 10_000_000)
COLUMNS = 10
PERIOD = 0.005


def write(folder: Path, rows: int) -> None:
    """X.npy and y.npy, by pieces."""
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


def resident() -> dict[str, float]:
    """Megabytes of this process that are in memory: in all, anonymous, of files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    rss, anonymous = kilobytes["Rss"] / 1024, kilobytes["Anonymous"] / 1024
    return {"resident": rss, "anonymous": anonymous, "files": rss - anonymous}


class Peak(threading.Thread):
    """Samples `resident` until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = resident()
        self.most = dict(self.before)
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(PERIOD):
            for name, value in resident().items():
                self.most[name] = max(self.most[name], value)


def fit(folder: Path) -> None:
    """Print the peaks, in MB, and the seconds and the end of the fit."""
    import resource

    import numpy as np
    import torch

    import guidebook as gb
    from guidebook.models.regression import logistic_regression

    torch.set_num_threads(1)
    data = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("X", "y")}
    guide = gb.guides.mean_field(logistic_regression)
    svi = gb.svi  # its imports are not part of the fit
    peak = Peak()
    peak.start()
    found = svi(logistic_regression, guide, data, batch_size=256, steps=3000, progress=False)
    peak.stopped.set()
    peak.join()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    grown = peak.most["anonymous"] - peak.before["anonymous"]
    numbers = [most, peak.most["anonymous"], grown, peak.most["files"]]
    print(*(f"{n:.0f}" for n in numbers), f"{found.seconds:.1f}", found.status.name)


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
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            rows.append([f"{count:,}", *done.stdout.split()])
    header = ["rows", "peak resident, MB", "of it anonymous", "grown during the fit",
              "of files", "seconds", "status"]  # fmt: skip
    timing.table(header, rows)


if __name__ == "__main__":
    main()
