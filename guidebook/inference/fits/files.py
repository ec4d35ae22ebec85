"""Files written whole or not at all; files of tensors and plain values, read without running code.

A file is written beside its place, flushed to the disk and then renamed, so that its path holds all of it
or what it held before: on a full disk, after Ctrl-C, after a kill. What a killed process leaves is a hidden
part, .NAME.TOKEN.part, which the next writer of the path removes. A writer locks its part, and the system
lifts the lock of a process that is gone: parts of living writers are told by it.

Tensors and plain values lie in torch's zip archive, whose checksums of every member are verified, and
with them a checksum of all of the content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from guidebook.errors import FileError
from guidebook.programs.values.fingerprint import fingerprint

try:
    import fcntl
except (
    ImportError
):  # Windows, which has no such locks: parts stay there until they are removed by hand
    fcntl = None  # type: ignore[assignment]

CHECKSUM = "checksum"
"""The entry of a file that holds the checksum of all others."""


def path_of(given: Any, given_as: str) -> Path:
    """What a caller gave as a path, as one; `given_as` as of `usable`.

    Raises:
        FileError: it is none, is empty, or holds a NUL, which no file system allows in a name.
    """
    told = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(told, str) or not told or "\0" in told:
        raise FileError(
            f"{given_as.format(given)}: this is no path of a file. Give a str or a pathlib.Path that is "
            "not empty and has no NUL characters."
        )
    return Path(told)


def usable(path: str | os.PathLike[str], given_as: str) -> Path:
    """The path, its folder made and writable.

    `given_as` is what the caller wrote, with {} for the path: "checkpoint='{}'", "fit.save('{}')".

    Raises:
        FileError: it is not; or it is that of a folder, a device, a pipe or a socket.
    """
    path, given = path_of(path, given_as), given_as.format(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{given}: its folder cannot be made ({error}). Give a file in a writable folder."
        ) from error
    try:
        target = _target(path)
    except OSError as error:
        raise FileError(
            f"{given} cannot be written ({_reason(error)}). Give the path of a file."
        ) from error
    if not os.access(target.parent, os.W_OK):
        raise FileError(
            f"{given}: its folder cannot be written to. Give a file in a writable folder."
        )
    if target.exists() and not os.access(target, os.W_OK):
        raise FileError(f"{given}: the file there is write-protected. Give another path.")
    return path


# writing ------------------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """The file that `write` fills: the path holds all of it or what it held before.

    A symbolic link stays, and what it points to is replaced. A new file has the mode that open() gives
    it, by the umask; one that is replaced keeps its own.

    Raises:
        FileError: the folder is not writable, the disk is full, or the path is that of a folder, a
            device, a pipe or a socket.
    """
    try:
        target = _target(path)
        _remove_abandoned(target)
        part, number = _begun(target)
        try:
            with os.fdopen(number, "wb") as file:
                whole = _Whole(file)
                write(whole)  # type: ignore[arg-type]
                whole.finish()
                if fcntl is None:  # Windows renames no open file
                    file.close()
                os.replace(part, target)  # under the lock
        finally:
            with contextlib.suppress(OSError):  # which would hide what went wrong
                part.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"'{path}' cannot be written ({_reason(error)}): give the path of a file on a disk with room, "
            "in a folder that you may write to."
        ) from error


def write_atomically(content: dict[str, Any], path: Path) -> None:
    """Tensors and plain values, with their checksum, as `read` reads them. Raises as `write_whole`."""
    content = {**content, CHECKSUM: fingerprint(content)}
    verified = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(
        True
    )  # `read` wants the checksums, whatever the process does
    try:
        write_whole(path, lambda file: torch.save(content, file))
    finally:
        torch.serialization.set_crc32_options(verified)


class _Whole:
    """A binary file to write to. It keeps the first error for `finish`: below torch.save an exception of
    a write becomes one that says nothing of the disk.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._failed = file, None if file.writable() else OSError(errno.EBADF, "closed")

    def write(self, some: Any) -> int:
        if self._failed is None:
            try:
                self._file.write(some)
            except OSError as error:
                self._failed = error
        return memoryview(some).nbytes

    def flush(self) -> None:
        """What is written is on the disk when it is finished."""

    def finish(self) -> None:
        """Everything is on the disk, or OSError: some file systems say so only here."""
        if self._failed is not None:
            raise self._failed
        self._file.flush()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # not offered
                raise


def _target(path: Path) -> Path:
    """Where a file of this path lies, behind links. Raises OSError where no file can be."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket")
    return Path(os.path.realpath(path))


def _begun(target: Path) -> tuple[Path, int]:
    """The part of a file that is about to be written, and its locked descriptor."""
    while True:
        part = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.part")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        number = os.open(part, flags, 0o666)
        if _locked(number, wait=True) and not os.fstat(number).st_nlink:
            os.close(number)  # taken for abandoned before it was locked
            continue
        with contextlib.suppress(OSError):
            os.chmod(part, stat.S_IMODE(os.stat(target).st_mode))
        return part, number


def _remove_abandoned(target: Path) -> None:
    """Removes parts of this file whose writers are gone."""
    kind = re.compile(rf"\.{re.escape(target.name[:40])}\.[0-9a-f]{{16}}\.part")
    for found in [one for one in os.listdir(target.parent) if kind.fullmatch(one)]:
        part = target.with_name(found)
        with contextlib.suppress(OSError):
            number = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _locked(number, wait=False):
                    part.unlink()
            finally:
                os.close(number)


def _locked(number: int, *, wait: bool) -> bool:
    """Whether the file is locked now by this descriptor; no, where locks are not offered."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


# reading ------------------------------------------------------------------------------------------


def read(path: Path, kind: str, remedy: str = "Write it again.") -> dict[str, Any]:
    """The content of a file of ours, read without running code; `remedy` for one that is damaged.

    Raises:
        FileError: missing, truncated, damaged, foreign or of a newer format.
    """
    name, version = kind.rsplit(" ", 1)
    content = _loaded(path, name)
    found = content.get("format") if isinstance(content, dict) else None
    if found == kind:
        written = content.pop(CHECKSUM, None)
        if written != fingerprint(content):
            raise FileError(
                f"'{path}' is damaged: its content is not what was written, by its checksum. {remedy}"
            )
        return dict(content)
    if isinstance(found, str) and found.startswith(name + " "):
        raise FileError(
            f"'{path}' has format '{found}', this Guidebook reads version {version}: install the "
            "Guidebook that wrote it, or a newer one."
        )
    raise FileError(f"'{path}' is not a {name}. Give another path.")


def _loaded(path: Path, name: str) -> Any:
    """What an archive of torch holds, its members verified. Raises FileError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(
                f"'{path}' cannot be read as a {name}: it is no file. Give another path."
            )
        with open(path, "rb") as file:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of '{damaged}' is another")
            file.seek(0)
            return torch.load(file, weights_only=True, map_location="cpu")
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"There is no file '{path}': check the path.") from error
    except PermissionError as error:
        raise FileError(
            f"'{path}' cannot be read ({_reason(error)}): give a file that you may read."
        ) from error
    except (
        Exception
    ) as error:  # whatever zipfile, zlib, pickle and torch raise for bytes of all kinds
        raise FileError(
            f"'{path}' cannot be read as a {name}: damaged, truncated or of another kind "
            f"({type(error).__name__}: {' '.join(str(error).split())[:100]}). Write it again, or give "
            "another path."
        ) from error
