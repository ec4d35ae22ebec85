"""The README runs: its Python blocks in order in an empty directory, its two commands in make."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from guidebook.guides.autoguides.flow import Flow
from guidebook.guides.autoguides.whitened import Whitened

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [body for name, body in BLOCKS if name == language]


def test_every_block_says_what_it_is() -> None:
    assert {name for name, _ in BLOCKS} == {"python", "sh", "text"}


def test_python_blocks_run_in_an_empty_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader copies the blocks one after the other: later ones use the names of earlier ones.

    Fits of fewer steps and a fifth of the draws: what they give is tested elsewhere.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("guidebook.diagnostics.inputs.MOST_DRAWS", 4000)
    for family in (Whitened, Flow):
        monkeypatch.setattr(family, "defaults", replace(family.defaults, steps=300))
    names: dict[str, object] = {"__name__": "__main__"}
    for body in blocks("python"):
        line = README[: README.index(body)].count("\n")
        exec(compile("\n" * line + body, str(ROOT / "README.md"), "exec"), names)
    page = tmp_path / "bioassay.html"
    assert page.stat().st_size < 1_000_000
    assert (tmp_path / "full-rank.nc").is_file()
    assert (tmp_path / "full-rank.pt").is_file()


def test_shell_blocks_are_the_two_commands() -> None:
    assert [body.strip() for body in blocks("sh")] == ["make report", "make test"]


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("report", "guidebook report eight-schools --out reports/"),
        ("test", "pytest -q --numprocesses 2 --dist loadscope"),
    ],
)
def test_make_does_what_the_readme_says(target: str, runs: str, tmp_path: Path) -> None:
    """Ask make what it would do with no environment there: install, then the command.

    The suite itself runs below make, whose variables would have this one print its directories.
    """
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    plan = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path / 'venv'}", target],
        cwd=ROOT,
        env=outside,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-m venv" in plan
    assert "--constraint constraints.txt" in plan
    assert plan.rstrip().endswith(runs)


def test_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_shelf_table_is_the_catalogue() -> None:
    from guidebook.catalogue import PAIRS

    section = README.split("## The shelf")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)`", section, flags=re.MULTILINE) == list(PAIRS)
