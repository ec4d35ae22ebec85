"""Files written whole or not at all, and read without running code."""

import os

import pytest
import torch

from guidebook.errors import FileError
from guidebook.inference.fits.files import read, usable, write_atomically

KIND = "guidebook thing 3"
CONTENT = {"format": KIND, "values": torch.arange(1000.0)}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "thing.pt"
    write_atomically(CONTENT, path)
    return path


def test_what_is_written_is_read(written):
    found = read(written, KIND)
    assert torch.equal(found["values"], CONTENT["values"])
    assert list(written.parent.iterdir()) == [written]


def test_a_failed_write_keeps_what_was_there(written, monkeypatch):
    def full(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FileError, match=r"cannot be written \(No space left"):
        write_atomically({"format": KIND}, written)
    monkeypatch.undo()
    assert torch.equal(read(written, KIND)["values"], CONTENT["values"])
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("given_as", ["checkpoint='{}'", "fit.save('{}')"])
def test_a_path_that_cannot_be_written_is_named_as_the_caller_wrote_it(given_as, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    for path, fault in ((blocker / "one.pt", "folder cannot be made"), (tmp_path, "is a folder")):
        with pytest.raises(FileError, match=fault) as error:
            usable(path, given_as)
        assert str(error.value).startswith(given_as.format(path))
    assert list(tmp_path.iterdir()) == [blocker]


def test_a_folder_is_made(tmp_path):
    where = tmp_path / "a" / "b" / "one.pt"
    assert usable(str(where), "fit.save('{}')") == where
    assert where.parent.is_dir() and not where.exists()


def test_files_that_are_not_ours_raise_one_error(written):
    content = written.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        written.write_bytes(content[: int(share * len(content))])
        with pytest.raises(FileError, match=r"truncated or of another kind.*Write it again"):
            read(written, KIND)
    for foreign in (b"PK\x03\x04 not a zip", b"\x89HDF\r\n", b"text"):
        written.write_bytes(foreign)
        with pytest.raises(FileError, match="truncated or of another kind"):
            read(written, KIND)
    for other in ({"weights": torch.zeros(3)}, [1, 2], {"format": "guidebook fit 3"}):
        torch.save(other, written)
        with pytest.raises(FileError, match="is not a guidebook thing"):
            read(written, KIND)
    with pytest.raises(FileError, match="There is no file"):
        read(written.with_name("other.pt"), KIND)
    with pytest.raises(FileError, match=r"cannot be read|There is no file"):
        read(written.parent, KIND)


def test_a_file_with_code_in_it_is_refused(written, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"format": KIND, "values": Evil()}, written)
    with pytest.raises(FileError, match="truncated or of another kind"):
        read(written, KIND)
    assert not (tmp_path / "run").exists()


def test_a_newer_format_names_the_remedy(written):
    torch.save({**CONTENT, "format": "guidebook thing 99"}, written)
    with pytest.raises(FileError, match=r"guidebook thing 99.*version 3.*newer"):
        read(written, KIND)


def test_a_folder_that_is_there_will_do(tmp_path, monkeypatch):
    assert usable(tmp_path / "one.pt", "fit.save('{}')") == tmp_path / "one.pt"
    monkeypatch.setattr(os, "access", lambda path, how: not (path == tmp_path and how == os.W_OK))
    with pytest.raises(FileError, match="cannot be written to"):
        usable(tmp_path / "one.pt", "fit.save('{}')")


def test_it_is_written_beside_the_place_where_it_will_lie(tmp_path, monkeypatch):
    """Another folder may be on another disk, whence a file cannot be moved in one step."""
    seen = []
    monkeypatch.setattr(torch, "save", lambda *_: seen.extend(tmp_path.iterdir()))
    write_atomically(CONTENT, tmp_path / "thing.pt")
    (temporary,) = seen
    assert temporary.name.startswith(".thing.pt.")
    assert list(tmp_path.iterdir()) == [tmp_path / "thing.pt"]
