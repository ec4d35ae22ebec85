"""A page is written whole or not at all."""

import os
from pathlib import Path

import pytest

import guidebook as gb
from guidebook.errors import FileError
from guidebook.reports.page import to_html


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without figures, where only its writing is looked at."""
    monkeypatch.setattr("guidebook.reports.page.whole_page", lambda *_: "<!DOCTYPE html>")


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_made(comparison: gb.Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"cannot be written to .*report\.html.*Give a file name"):
        to_html(comparison, tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_written(
    comparison: gb.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the root user, so the refusal is played."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(FileError, match="Permission denied"):
        to_html(comparison, tmp_path / "report.html")
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
