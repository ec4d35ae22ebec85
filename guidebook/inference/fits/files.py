"""Files of tensors and plain values: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from guidebook.errors import FileError


def path_of(given: Any, given_as: str) -> Path:
    """What a caller gave as a path, as one; `given_as` as of `usable`.

    Raises:
        FileError: it is none, or holds a NUL, which no file system allows in a name.
    """
    if not isinstance(given, (str, os.PathLike)) or "\0" in os.fspath(given):
        raise FileError(
            f"{given_as.format(given)}: this is no path of a file. Give a str or a pathlib.Path without "
            "NUL characters."
        )
    return Path(given)


def usable(path: str | Path, given_as: str) -> Path:
    """The path, its folder made and writable.

    `given_as` is what the caller wrote, with {} for the path: "checkpoint='{}'", "fit.save('{}')".

    Raises:
        FileError: it is not.
    """
    path, given = path_of(path, given_as), given_as.format(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{given}: its folder cannot be made ({error}). Give a file in a writable folder."
        ) from error
    if path.is_dir():
        raise FileError(
            f"{given}: this is a folder and cannot be written. Give the path of a file."
        )
    if not os.access(path.parent, os.W_OK):
        raise FileError(
            f"{given}: its folder cannot be written to. Give a file in a writable folder."
        )
    return path


def write_atomically(content: Any, path: Path) -> None:
    """torch.save through a temporary file: the path holds all of it or what it held before.

    Raises:
        FileError: the folder is not writable or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise FileError(f"'{path}' cannot be written ({error}): give a writable folder.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
        os.replace(name, path)
    except OSError as error:
        raise FileError(
            f"'{path}' cannot be written ({error}): give a path on a disk with room."
        ) from error
    finally:
        if os.path.exists(name):
            os.unlink(name)


def read(path: Path, kind: str) -> dict[str, Any]:
    """The content of a file of ours, read without running code.

    Raises:
        FileError: missing, truncated, foreign or of a newer format.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise FileError(f"There is no file '{path}': check the path.") from error
    except Exception as error:
        raise FileError(
            f"'{path}' cannot be read as a {kind.rsplit(' ', 1)[0]}: truncated or of another "
            f"kind ({type(error).__name__}). Write it again, or give another path."
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found == kind:
        return content
    name, version = kind.rsplit(" ", 1)
    if isinstance(found, str) and found.startswith(name + " "):
        raise FileError(
            f"'{path}' has format '{found}', this Guidebook reads version {version}: install the "
            "Guidebook that wrote it, or a newer one."
        )
    raise FileError(f"'{path}' is not a {name}. Give another path.")
