"""Files kept on disk under a name made of all that they depend on, with the checksum of their content.

The folder is $XDG_CACHE_HOME/guidebook (~/.cache/guidebook), or one for this process where that cannot be
written. A file is used where its checksum is that in its name; it is written beside and moved into place,
so processes that make the same do not disturb one another. The oldest go where all are more than 256 MB.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

MOST_BYTES = 256 * 2**20
KINDS = ".so", ".json"


def name_of(told: Sequence[str]) -> str:
    """The name of a file that depends on these words."""
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:32]


def found(name: str, kind: str) -> Path | None:
    """The file of this name, of a kind in `KINDS`, where it is there and whole."""
    for known in folder().glob(f"{name}-*{kind}"):
        try:
            if known.stem.endswith(_checksum(known)):
                os.utime(known)  # the oldest are those not used for longest
                return known
            known.unlink(missing_ok=True)  # damaged
        except OSError:  # another process was faster
            continue
    return None


def keep(made: Path, name: str, kind: str) -> Path:
    """Moves a file that was made in the folder to its name; where it lies now."""
    place = folder()
    final = place / f"{name}-{_checksum(made)}{kind}"
    made.replace(final)
    _forget_the_oldest(place, final)
    return final


def folder() -> Path:
    """Where the files are, or one of this process alone where they cannot be kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    usual = Path(base) / "guidebook"
    try:
        usual.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=usual):
            return usual
    except OSError:
        return Path(_own_folder().name)


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="guidebook-")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _forget_the_oldest(place: Path, kept: Path) -> None:
    known = []
    for path in (p for kind in KINDS for p in place.glob(f"*{kind}")):
        try:
            told = path.stat()
        except OSError:
            continue
        known.append((told.st_mtime, told.st_size, path))
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= MOST_BYTES:
            return
        if path != kept:
            path.unlink(missing_ok=True)
            total -= size
