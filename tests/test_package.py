"""What is put into a user's site-packages: guidebook, and nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the build backend that the test extra installed: no network."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), str(ROOT)],
        check=True,
        capture_output=True,
        cwd=out,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_guidebook_is_packaged(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"guidebook", "guidebook-0.1.0.dist-info"}


def test_every_source_and_every_resource_is_packaged(names: list[str]) -> None:
    """The wheel holds what the tree holds: the template of the page, shipped data, py.typed."""
    in_tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "guidebook").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_tree == {name for name in names if name.startswith("guidebook/")}
    assert "guidebook/py.typed" in names
    assert any(name.startswith("guidebook/reports/") and ".html" in name for name in names)


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 1_000_000


def test_the_wheel_imports_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    program = (
        "import guidebook, guidebook.models, guidebook.guides\n"
        "print(guidebook.__file__)\n"
        "print(guidebook.__version__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, version = done.stdout.split()
    assert Path(where).is_relative_to(site)
    assert version == "0.1.0"


def test_import_is_lazy() -> None:
    """`import guidebook` reads neither torch nor pyro: it costs a user nothing until used."""
    program = "import sys, guidebook; print(*{'torch', 'pyro', 'arviz_stats'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
