"""Who may import whom: strictly downwards, absolute, and from the defining module."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "guidebook"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A room may import what has a lower rank, and itself. Rooms of one rank do not know each other; the
# files that lie directly in a room are its top floor, above its sub-rooms (of `programs` the ground floor).
RANK = {
    "errors": 0,
    "scope": 0,
    "programs/graphs": 1,
    "programs/values": 1,
    "programs": 2,
    "programs/batches": 3,
    "programs/start": 3,
    "programs/native": 3,
    "datasets": 3,
    "models/energy": 3,
    "models/decoders": 3,
    "models": 4,
    "guides/autoguides": 3,
    "guides/exact": 3,
    "guides/energy": 3,
    "guides/amortized": 3,
    "guides/conjugate": 4,
    "guides": 5,
    "inference/fits": 6,
    "inference/protocols": 7,
    "inference/objectives": 7,
    "inference/optimisers": 7,
    "inference/energy": 7,
    "inference/normals": 7,
    "inference/gradient": 8,
    "inference": 9,
    "diagnostics/numerics": 10,
    "diagnostics/evidence": 11,
    "diagnostics/witnesses": 12,
    "diagnostics/measures": 12,
    "diagnostics/judging": 13,
    "diagnostics/amortized": 14,
    "diagnostics/model_kinds": 14,
    "diagnostics/simulation": 15,
    "diagnostics": 16,
    "reports/elements": 17,
    "reports/figures": 18,
    "reports/checks": 19,
    "reports/sections": 19,
    "reports": 20,
    "shelf": 21,
    "front door": 22,
}
STRANGERS = (("models", "guides"), ("datasets", "models"), ("datasets", "guides"))
"""Rooms that do not know each other, whatever their ranks."""


def room_of(parts: tuple[str, ...]) -> str:
    """Name the room of `guidebook.<parts>`: a folder, `errors`, `scope`, or the front door.

    The front door is `__init__`, `__main__`, `catalogue` and every public name of the package.
    """
    folders = [part for i, part in enumerate(parts) if (PACKAGE.joinpath(*parts[: i + 1])).is_dir()]
    if folders:
        return "/".join(folders)
    return parts[0] if parts[:1] in (("errors",), ("scope",)) else "front door"


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
        allowed = other == own or RANK[other] < RANK[own]
        for pair in STRANGERS:
            allowed &= {own.split("/")[0], other.split("/")[0]} != set(pair)
        assert allowed, (
            f"{identify(source)}:{line}: {own} may not import guidebook.{'.'.join(target)}"
        )


def test_no_files_import_one_another_in_a_circle() -> None:
    known = {tuple(s.relative_to(PACKAGE).with_suffix("").parts): s for s in SOURCES}
    below = {
        parts: {target[:n] for _, target in imports(source) for n in (len(target), len(target) - 1)}
        & set(known) - {parts}
        for parts, source in known.items()
        if source.name != "__init__.py"
    }
    while below:
        free = [parts for parts, wanted in below.items() if not wanted & set(below)]
        assert free, f"a circle among {sorted('/'.join(parts) for parts in below)}"
        for parts in free:
            del below[parts]


@pytest.mark.parametrize("folder", sorted({s.parent for s in SOURCES}), ids=str)
def test_a_folder_is_one_concept(folder: Path) -> None:
    files = [s for s in folder.glob("*.py") if s.name != "__init__.py"]
    assert len(files) <= 12, f"{folder}: {len(files)} files. Which concept is missing?"


@pytest.mark.parametrize("source", SOURCES, ids=identify)
def test_functions_can_be_read_at_once(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        doc = ast.get_docstring(node, clean=False)
        length = node.end_lineno - node.lineno + 1 - (doc.count("\n") + 1 if doc else 0)
        reasoned = any("# long:" in line for line in lines[node.lineno - 2 : node.lineno + 1])
        assert length <= 45 or reasoned, f"{identify(source)}: {node.name} has {length} lines"
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        asked = [a.arg for a in given if a.arg not in ("self", "cls")]
        # an engine's keywords are what a user may wish for: svi takes thirteen
        engine = source.parent == PACKAGE / "inference" and not node.name.startswith("_")
        assert len(asked) <= 8 or engine, f"{identify(source)}: {node.name}({', '.join(asked)})"


@pytest.mark.parametrize("source", SOURCES, ids=identify)
def test_imports_are_absolute_and_name_the_defining_module(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{identify(source)}:{node.lineno}: relative import"
            assert all(alias.name != "*" for alias in node.names), (
                f"{identify(source)}:{node.lineno}: import *"
            )


def test_models_never_mention_an_engine() -> None:
    for source in (PACKAGE / "models").rglob("*.py"):
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
