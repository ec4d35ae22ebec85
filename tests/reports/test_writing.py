"""A page is written whole or not at all."""

import os
from pathlib import Path

import arviz_base
import numpy as np
import pandas as pd
import pytest

import guidebook as gb
from guidebook.errors import FileError
from guidebook.reports.files import read_draws, write_netcdf, write_table
from guidebook.reports.page import to_html
from tests.full_disk import full_disk


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without figures, where only its writing is looked at."""
    monkeypatch.setattr("guidebook.reports.page.whole_page", lambda *_: "<!DOCTYPE html>")


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_made(comparison: gb.Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"^to_html\(.*report\.html.*folder cannot be made"):
        to_html(comparison, tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_written(
    comparison: gb.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the root user, so the refusal is played."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileError, match="Permission denied"):
        to_html(comparison, tmp_path / "report.html")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_page_leaves_the_earlier_one(
    comparison: gb.Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
) -> None:
    target = tmp_path / "report.html"
    target.write_text("earlier")

    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((FileError, KeyboardInterrupt)):
        to_html(comparison, target)
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("quick")
def test_a_page_over_a_directory(comparison: gb.Comparison, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        to_html(comparison, tmp_path / "report.html")


@pytest.mark.usefixtures("quick")
def test_a_page_on_a_full_disk(
    comparison: gb.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guidebook.reports.page.whole_page", lambda *_: "x" * 3000)
    with full_disk(2000), pytest.raises(FileError, match="File too large"):
        to_html(comparison, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 2000, 100_000])
def test_draws_and_tables_on_a_full_disk(size: int, tmp_path: Path) -> None:
    """HDF5 ends the process where it cannot write; the old files stay."""
    tree = arviz_base.from_dict(
        {"posterior": {"a": np.random.default_rng(0).normal(size=(1, 20_000))}}
    )
    draws, table = tmp_path / "draws.nc", tmp_path / "table.csv"
    write_netcdf(tree, draws)
    write_table(pd.DataFrame({"a": [1.0]}), table)
    np.testing.assert_array_equal(read_draws(draws)["posterior"]["a"], tree["posterior"]["a"])
    before = draws.read_bytes(), table.read_bytes()
    with full_disk(size):
        for write in (
            lambda: write_netcdf(tree, draws),
            lambda: write_table(pd.DataFrame({"a": np.arange(50_000.0)}), table),
        ):
            with pytest.raises(FileError, match="File too large"):
                write()
    assert (draws.read_bytes(), table.read_bytes()) == before
    assert {p.name for p in tmp_path.iterdir()} == {draws.name, table.name}
