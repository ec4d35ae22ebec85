"""Every measurement of speed and memory, one after the other.

    python -m benchmarks                  # about half an hour; what `make bench` runs
    python -m benchmarks --write          # and put the results into benchmarks/README.md
    python -m benchmarks --quick          # few repetitions: does everything run?

Verdicts against truth take hours and are run by themselves: `python -m benchmarks.verdicts`.
"""

import argparse
import datetime
import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    "speed",
    "native",
    "vae_speed",
    "nuts_speed",
    "memory",
    "import_time",
    "mixture_speed",
    "mixture_memory",
    "boltzmann_sweeps",
)
README = Path(__file__).with_name("README.md")
MARK = "<!-- results: everything below is written by `python -m benchmarks --write` -->"


def output_of(program: str, options: list[str]) -> str:
    """Run one of them and show what it prints as it comes.

    Raises SystemExit if it fails.
    """
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{program}", *options]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"benchmarks.{program} failed with exit status {process.returncode}.")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "programs", nargs="*", choices=[[], *PROGRAMS], help="all, if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--write", action="store_true", help="put the results into README.md")
    chosen = parser.parse_args()
    if chosen.write and (chosen.quick or chosen.programs):
        parser.error("--write goes with all programs at full length.")
    pieces = []
    for program in chosen.programs or PROGRAMS:
        print(f"\n== python -m benchmarks.{program}", flush=True)
        output = output_of(program, ["--quick"] if chosen.quick else [])
        pieces.append(f"## `python -m benchmarks.{program}`\n\n{output.strip()}\n")
    if chosen.write:
        above = README.read_text(encoding="utf-8").split(MARK)[0]
        today = datetime.date.today().isoformat()
        below = "\n".join([f"Measured on {today}.\n", *pieces])
        README.write_text(f"{above}{MARK}\n\n{below}", encoding="utf-8")
        print(f"\nwritten: {README}")


if __name__ == "__main__":
    main()
