"""A fit written to a file as it goes, and continued from it to the same result."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidebook.errors import FileError

FORMAT = "guidebook checkpoint 1"


def usable(path: str | Path | None) -> Path | None:
    """The path, its folder made and writable.

    Raises:
        FileError: it is not.
    """
    if path is None:
        return None
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"checkpoint='{path}': its folder cannot be made ({error}).") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise FileError(f"checkpoint='{path}' cannot be written: give a file in a writable folder.")
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
        raise FileError(f"'{path}' cannot be written ({error}).") from error
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
        raise FileError(f"'{path}' is not there.") from error
    except Exception as error:
        raise FileError(
            f"'{path}' cannot be read as a {kind.rsplit(' ', 1)[0]}: truncated or foreign "
            f"({type(error).__name__}). Write it again, or give another path."
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
    raise FileError(f"'{path}' is not a {name}. Give another path, or remove the file.")


def write(
    path: Path, signature: dict[str, Any], state: dict[str, Tensor], joined: nn.Module
) -> None:
    """State, buffers of the guide and the random state, in one file."""
    content = {
        "format": FORMAT,
        "signature": json.dumps(signature),
        "state": {name: value.cpu() for name, value in state.items()},
        "buffers": {name: value.cpu() for name, value in joined.named_buffers()},
        "random": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        content["random_cuda"] = torch.cuda.get_rng_state()
    write_atomically(content, path)


def restore(
    path: Path, signature: dict[str, Any], state: dict[str, Tensor], joined: nn.Module
) -> int:
    """Puts a checkpoint, where there is one, into the state; returns the steps already done.

    Raises:
        FileError: unreadable, or written by a fit of another model, guide, data or settings.
    """
    if not path.exists():
        return 0
    content = read(path, FORMAT)
    theirs = json.loads(content["signature"])
    different = [key for key, value in signature.items() if theirs.get(key) != value]
    if different:
        raise FileError(
            f"checkpoint='{path}' belongs to another fit: it differs in {', '.join(different)}. "
            "Give another path, or remove the file to start anew."
        )
    for name, value in content["state"].items():
        state[name].copy_(value)
    buffers = dict(joined.named_buffers())
    for name, value in content["buffers"].items():
        buffers[name].copy_(value)
    torch.set_rng_state(content["random"])
    if "random_cuda" in content and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(content["random_cuda"])
    return int(state["step"])


def fingerprint(data: Mapping[str, Any]) -> str:
    """A checksum of (the first batch of) the data, to tell one data set from another."""
    value = 0
    for name in sorted(data):
        item = data[name]
        raw = (
            item.detach().cpu().contiguous().numpy().tobytes()
            if isinstance(item, Tensor)
            else repr(item).encode()
        )
        value = zlib.crc32(raw, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def checksum(text: str) -> str:
    """A short name of a text."""
    return f"{zlib.crc32(text.encode()):08x}"
