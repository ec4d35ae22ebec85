"""Build the wheel, install it in an empty environment and use it from an empty directory.

`tests/test_package.py` checks the names inside the wheel; this installs it with its dependencies
(pip is asked for the versions of constraints.txt), which takes a minute or two.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the source tree, and return what it printed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def top_level_names(site_packages: Path) -> set[str]:
    """Return what the installed distribution `guidebook` owns at the top of site-packages."""
    (guidebook,) = (d for d in distributions(path=[str(site_packages)]) if d.name == "guidebook")
    return {file.parts[0] for file in guidebook.files or () if file.parts[0] != ".."}


def main() -> None:
    """Exit with a message at the first thing that is not as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        run(sys.executable, "-m", "build", "--outdir", work, ROOT, cwd=elsewhere)
        (wheel,) = work.glob("*.whl")
        (sdist,) = work.glob("*.tar.gz")
        print(f"built {wheel.name} and {sdist.name}")

        environment = work / "environment"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        constraints = ROOT / "constraints.txt"
        run(python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel, cwd=elsewhere)

        (site_packages,) = (environment / "lib").glob("python*/site-packages")
        names = top_level_names(site_packages)
        if names != {"guidebook", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}:
            sys.exit(f"the wheel puts {sorted(names)} into site-packages")

        where = run(python, "-c", "import guidebook; print(guidebook.__file__)", cwd=elsewhere)
        if not Path(where.strip()).resolve().is_relative_to(environment.resolve()):
            sys.exit(f"imported {where.strip()}, not the installed wheel")
        shelf = run(environment / "bin" / "guidebook", "list", cwd=elsewhere)
        if "eight-schools" not in shelf:
            sys.exit(f"`guidebook list` printed\n{shelf}")
        run(python, "-m", "pip", "check", cwd=elsewhere)
        print(f"installed and used from an empty directory: {sorted(names)}")


if __name__ == "__main__":
    main()
