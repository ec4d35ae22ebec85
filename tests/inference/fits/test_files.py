"""Files written whole or not at all, and read without running code."""

import os
import signal
import socket
import stat
from pathlib import Path

import pytest
import torch

from guidebook.errors import FileError
from guidebook.inference.fits.files import path_of, read, usable, write_atomically, write_whole
from tests.full_disk import full_disk

KIND = "guidebook thing 3"
CONTENT = {"format": KIND, "values": torch.arange(1000.0)}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "thing.pt"
    write_atomically(CONTENT, path)
    return path


def fill(content):
    return lambda file: file.write(content)


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


# what cannot be written ---------------------------------------------------------------------------


def test_a_full_disk_is_named_and_the_old_file_stays(written):
    """torch.save makes an error of its own of one that a write raises."""
    before = written.read_bytes()
    with (
        full_disk(2000),
        pytest.raises(FileError, match=r"cannot be written \(File too large\): give"),
    ):
        write_atomically({"format": KIND, "values": torch.zeros(100_000)}, written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_part_that_cannot_be_removed_hides_no_error(written, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with full_disk(2000), pytest.raises(FileError, match="File too large"):
        write_whole(written, fill(b"x" * 3000))


def test_an_error_of_the_last_moment_counts(written, monkeypatch):
    """Some file systems say only when all is flushed that there was no room."""

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        write_whole(written, fill(b"x"))
    assert torch.equal(read(written, KIND)["values"], CONTENT["values"])


def special_files(folder):
    """Whatever else a path may be; the device is one of ours, with the numbers of /dev/null."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to(folder / "folder")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    found = ["pipe", "folder", "link", "socket"]
    try:
        os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        found.append("device")
    except PermissionError:  # for the root user alone
        pass
    return found


def test_only_files_are_replaced_and_read(tmp_path):
    """Reading a pipe would wait for ever."""
    for name in special_files(tmp_path):
        path = tmp_path / name
        before = os.lstat(path)
        for write in (lambda p: write_whole(p, fill(b"x")), lambda p: usable(p, "fit.save('{}')")):
            with pytest.raises(FileError, match=r"it is a (folder|device, a pipe or a socket)"):
                write(path)
        with pytest.raises(FileError, match="it is no file"):
            read(path, KIND)
        assert os.lstat(path) == before, name


@pytest.mark.parametrize("given", [None, "", "a\0b", b"bytes", 3, ["a"]])
def test_what_is_no_path_is_refused(given):
    for use in (path_of, usable):
        with pytest.raises(FileError, match=r"^gb\.load\(.*this is no path of a file"):
            use(given, "gb.load('{}')")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    for use in (lambda p: usable(p, "fit.save('{}')"), lambda p: write_whole(p, fill(b"x"))):
        with pytest.raises(FileError, match="File name too long"):
            use(tmp_path / ("x" * 256))
    write_whole(tmp_path / ("x" * 255), fill(b"x"))


# how a file is replaced ---------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there, tmp_path):
    target, link = tmp_path / "below" / "target", tmp_path / "link"
    target.parent.mkdir()
    if there:
        target.write_text("earlier")
    link.symlink_to(target)
    write_whole(link, fill(b"now"))
    assert link.is_symlink() and target.read_text() == "now"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["below", "link", "target"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        for name, kept in (("new", None), ("closed", 0o600), ("open", 0o666)):
            path = tmp_path / name
            if kept is not None:
                path.touch()
                path.chmod(kept)
            write_whole(path, fill(b"x"))
            assert stat.S_IMODE(path.stat().st_mode) == (mode if kept is None else kept)
    finally:
        os.umask(before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_next_writer_removes_what_a_kill_left_and_nothing_else(tmp_path):
    path, others = (
        tmp_path / "fit",
        [".fit.backup.part", ".fit.0123456789abcdef.part.txt", ".fitter.part"],
    )
    for name in others:
        (tmp_path / name).touch()

    def killed(file):
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        write_whole(path, killed)
    os.waitpid(child, 0)
    (left,) = {p.name for p in tmp_path.iterdir()} - set(others)
    assert left.startswith(".fit.") and left.endswith(".part")

    def during(file):
        """A second writer of the path comes and goes while this one lives."""
        write_whole(path, fill(b"second"))
        assert path.read_text() == "second"
        file.write(b"first")

    write_whole(path, during)
    assert path.read_text() == "first"
    assert {p.name for p in tmp_path.iterdir()} == {"fit", *others}


# what is read -------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_wherever_it_is(written):
    """Or means nothing: a date, say. Every 37th byte, and all of the archive's own."""
    whole = written.read_bytes()
    refused = 0
    for place in [*range(0, len(whole), 37), *range(len(whole) - 300, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        written.write_bytes(damaged)
        try:
            assert torch.equal(read(written, KIND)["values"], CONTENT["values"])
        except FileError:
            refused += 1
    assert refused > 100


def test_content_that_is_not_what_was_written_is_refused(written):
    """A file that a program read, changed and wrote again."""
    content = torch.load(written, weights_only=True)
    for changes in (
        {"values": CONTENT["values"] + 1},
        {"more": 1},
        {"checksum": "0" * 16},
        {"checksum": None},
    ):
        torch.save({**content, **changes}, written)
        with pytest.raises(FileError, match=r"by its checksum\. Do it again"):
            read(written, KIND, "Do it again.")
    torch.save(content, written)
    assert torch.equal(read(written, KIND)["values"], CONTENT["values"])


def test_the_checksums_of_the_archive_are_written_whatever_the_process_does(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        write_atomically(CONTENT, tmp_path / "thing.pt")
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read(tmp_path / "thing.pt", KIND)["values"], CONTENT["values"])
