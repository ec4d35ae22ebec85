"""Who may import whom: strictly downwards, absolute, and from the defining module."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "guidebook"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A room may import what has a lower rank, and itself. Rooms of one rank do not know each other.
RANK = {
    "errors": 0,
    "datasets": 1,
    "models": 1,
    "guides": 1,
    "inference": 2,
    "diagnostics": 3,
    "reports": 4,
    "shelf": 5,
    "front door": 6,
}


def room_of(parts: tuple[str, ...]) -> str:
    """Name the room of `guidebook.<parts>`: a folder, `errors`, or the front door.

    The front door is `__init__`, `__main__`, `catalogue` and every public name of the package.
    """
    if parts and (parts[0] == "errors" or (PACKAGE / parts[0]).is_dir()):
        return parts[0]
    return "front door"


def imports(source: Path) -> list[tuple[int, tuple[str, ...]]]:
    """List (line, path below guidebook) for every import of this package in a file."""
    found = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = (
                [f"guidebook.{alias.name}" for alias in node.names]
                if module == "guidebook"
                else [module]
            )
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "guidebook":
                found.append((node.lineno, tuple(rest)))
    return found


def identify(source: Path) -> str:
    return source.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("source", SOURCES, ids=identify)
def test_imports_go_strictly_downwards(source: Path) -> None:
    own = room_of(source.relative_to(PACKAGE).with_suffix("").parts)
    assert own in RANK, f"{own}: a new room needs its place in RANK, and in the design"
    for line, target in imports(source):
        other = room_of(target)
        assert other == own or RANK[other] < RANK[own], (
            f"{identify(source)}:{line}: {own} may not import guidebook.{'.'.join(target)}"
        )


@pytest.mark.parametrize("source", SOURCES, ids=identify)
def test_imports_are_absolute_and_name_the_defining_module(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{identify(source)}:{node.lineno}: relative import"
            assert all(alias.name != "*" for alias in node.names), (
                f"{identify(source)}:{node.lineno}: import *"
            )


def test_models_never_mention_an_engine() -> None:
    for source in (PACKAGE / "models").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            name = getattr(node, "module", None) or ""
            assert not name.startswith("pyro.infer"), f"{identify(source)} imports {name}"


def test_no_room_for_odds_and_ends() -> None:
    for path in PACKAGE.rglob("*"):
        assert path.stem not in {"utils", "util", "core", "helpers", "common", "misc"}, path


def test_root_links_lead_to_the_rooms() -> None:
    root = PACKAGE.parent
    for room in ("models", "guides", "inference"):
        link = root / room
        assert link.is_symlink(), f"{link} is not a link"
        assert link.resolve() == PACKAGE / room
