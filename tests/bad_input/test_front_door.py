"""Bad input at the front door: unknown names, unknown pairs, the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guidebook as gb
from guidebook.__main__ import main
from guidebook.errors import NameNotFound
from tests.bad_input.conftest import Bad, content
from tests.bad_input.given import files, tree

ERRORS: dict[str, Bad] = {
    "unknown pair": (
        lambda: gb.pair("eigth-schools"),
        NameNotFound,
        "Did you mean",
        "eight-schools",
    ),
}


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


@pytest.mark.parametrize("name", ["svl", "guide", "lapace"])
def test_an_unknown_name_names_the_near_ones(name: str) -> None:
    with pytest.raises(AttributeError, match="Did you mean"):
        getattr(gb, name)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "unknown guide": (
        ["report", "eight-schools", "--guides", "mean-feld", "--out", "out"], "mean-field"
    ),
    "an empty file": (["compare", "empty"], "empty"),
    "a foreign file": (["compare", "foreign"], "foreign"),
    "a foreign file of the same format": (["compare", "hdf5"], "hdf5"),
    "a truncated file": (["compare", "draws.nc"], "draws.nc"),
    "a folder below a file": (
        ["report", "eight-schools", "--out", "foreign/out", "--quick"], "foreign"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_ends_with_2_and_a_sentence(
    case: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "foreign", "hdf5"):
        (tmp_path / name).write_bytes(files()[name])
    drawn = tmp_path / "draws.nc"
    tree(x=2).to_netcdf(drawn, engine="h5netcdf")
    drawn.write_bytes(drawn.read_bytes()[:2000])
    before = content(tmp_path)
    command, words = COMMANDS[case]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert content(tmp_path) == before
