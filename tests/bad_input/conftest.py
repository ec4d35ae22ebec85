"""One law for every list of bad input: one clear error, and nothing half-written.

A list is a dict in a file of its room: what is given, to (call, class of the error, words). The words are
searched in the sentence, in any order: the cause, and the remedy. A call that takes `here`, the folder
it runs in, finds the files of `given.files` there.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest

from guidebook.errors import GuidebookError
from tests.bad_input.given import files

Bad = tuple[Any, ...]
LONGEST = 1000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bad" in metafunc.fixturenames:
        table: dict[str, Bad] = metafunc.module.ERRORS
        metafunc.parametrize("bad", list(table.values()), ids=list(table))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Bad], None]:
    """Checks one row of a list."""
    monkeypatch.chdir(tmp_path)

    def check(bad: Bad) -> None:
        call, kind, *words = bad
        assert issubclass(kind, GuidebookError) and words
        takes_folder = "here" in inspect.signature(call).parameters
        for name, given in (files() if takes_folder else {}).items():
            (tmp_path / name).write_bytes(given)
        before = content(tmp_path)
        with pytest.raises(kind) as caught:
            call(here=tmp_path) if takes_folder else call()
        message = str(caught.value)
        for word in words:
            assert re.search(word, message, re.DOTALL), f"{word!r} is not in: {message}"
        assert len(message) < LONGEST
        assert content(tmp_path) == before
        assert list(pyro.get_param_store().keys()) == []

    return check


def content(folder: Path) -> dict[str, bytes]:
    """All files below, with what is in them."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
