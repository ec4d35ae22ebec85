"""Libraries on disk: damaged, too many, made by two at once, or in no folder that can be written."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from guidebook.programs.native import kept
from guidebook.programs.native.library import CannotCompile, library

TRIVIAL = 'extern "C" void use_blas(...) {} extern "C" int answer() { return %d; }'


def test_a_damaged_library_is_made_again(cache: Path) -> None:
    assert library([(TRIVIAL % 1, False)]).answer() == 1
    (made,) = (p for p in cache.glob("*.so") if b"answer" in p.read_bytes())
    other = made.read_bytes()[: made.stat().st_size // 2]
    made.unlink()  # the library in memory stays
    made.write_bytes(other)
    assert library([(TRIVIAL % 1, False)]).answer() == 1
    assert made.read_bytes() != other


def test_the_oldest_go_where_they_are_too_many(cache: Path, monkeypatch) -> None:
    library([(TRIVIAL % 2, False)])
    monkeypatch.setattr(kept, "MOST_BYTES", 20_000)
    library([(TRIVIAL % 3, False)])
    left = list(cache.glob("*.so"))
    assert 1 <= len(left) <= 2 and not list(cache.glob("tmp*"))


def test_a_folder_that_cannot_be_written_is_not_needed(tmp_path, monkeypatch) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert library([(TRIVIAL % 4, False)]).answer() == 4


def test_the_first_source_that_compiles_is_taken(cache) -> None:
    assert library([("int x = ;", False), (TRIVIAL % 5, False)]).answer() == 5
    with pytest.raises(CannotCompile, match="error"):
        library([("int x = ;", False)])


def test_threads_and_processes_may_make_the_same_at_once(cache) -> None:
    found = []
    text = TRIVIAL % 6
    threads = [
        threading.Thread(target=lambda: found.append(library([(text, False)]).answer()))
        for _ in range(4)
    ]
    code = "from guidebook.programs.native.library import library; "
    code += f"print(library([({text!r}, False)]).answer())"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [6] * 4 and other.communicate(timeout=60)[0].strip() == "6"
    assert not list(cache.glob("tmp*"))
