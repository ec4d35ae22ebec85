"""A fit written to a file as it goes, and continued from it to the same result."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidebook.errors import FileError
from guidebook.inference.fits.files import read, write_atomically

FORMAT = "guidebook checkpoint 1"


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
            "Give another path, or remove the file to start again."
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
