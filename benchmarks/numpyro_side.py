"""NumPyro's side of a benchmark: a script in an environment of its own, asked line by line.

python -m venv benchmarks/.cache/numpyro
benchmarks/.cache/numpyro/bin/pip install numpyro jax jaxlib funsor
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".cache" / "numpyro" / "bin" / "python"


@contextmanager
def numpyro(script: str) -> Iterator[Callable[[str], list[float]] | None]:
    """A function of a line to the numbers that the script answers; None where there is no environment."""
    if not PYTHON.exists():
        print(f"no NumPyro: {PYTHON} is missing (see benchmarks/numpyro_side.py)")
        yield None
        return
    process = subprocess.Popen(
        [PYTHON, HERE / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    print(process.stdout.readline().strip())

    def ask(line: str) -> list[float]:
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return [float(number) for number in process.stdout.readline().split()]

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()
