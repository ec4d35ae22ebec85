"""C++ source compiled to a library, once: kept on disk under a name made of all that it depends on.

The folder is $XDG_CACHE_HOME/guidebook (~/.cache/guidebook), or one for this process where that cannot be
written. A file is used where its checksum is that in its name; it is written beside and moved into place,
so processes that compile the same do not disturb one another. The oldest go where all are more than 256 MB.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

SECONDS = 120.0
"""A compiler that takes longer hangs."""
MOST_BYTES = 256 * 2**20
FLAGS = ("-O2", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
         "-std=c++20", "-shared", "-fPIC", "-w")  # fmt: skip


class CannotCompile(Exception):
    """There is no compiler, or it failed; the message says what it said."""


def library(sources: Sequence[tuple[str, bool]]) -> ctypes.CDLL:
    """The library of the first source that compiles; each with whether it needs torch's headers.

    Raises:
        CannotCompile: none of them does.
    """
    said = ""
    for source, needs_torch in sources:
        try:
            loaded = ctypes.CDLL(str(_compiled(source, needs_torch)))
            loaded.use_blas(*_blas())
            return loaded
        except (CannotCompile, OSError) as error:
            said = str(error)
    raise CannotCompile(said)


def _compiled(source: str, needs_torch: bool) -> Path:
    compiler = _compiler()
    told = "\0".join(
        [source, compiler, _version(compiler), _processor(), torch.__version__, *FLAGS]
    )
    name = hashlib.sha256(told.encode()).hexdigest()[:32]
    folder = _folder()
    for known in folder.glob(f"{name}-*.so"):
        if known.stem.endswith(_checksum(known)):
            os.utime(known)  # the oldest are those not used for longest
            return known
        known.unlink(missing_ok=True)  # damaged
    with tempfile.TemporaryDirectory(dir=folder) as work:
        code, made = Path(work) / "code.cpp", Path(work) / "code.so"
        code.write_text(source)
        needed = _of_torch() if needs_torch else ()
        _run([compiler, *FLAGS, "-o", str(made), str(code), *needed])
        final = folder / f"{name}-{_checksum(made)}.so"
        made.replace(final)
    _forget_the_oldest(folder, final)
    return final


def _run(command: list[str]) -> str:
    """What it prints. CannotCompile where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CannotCompile(f"the compiler took more than {SECONDS:.0f} s") from error
    except OSError as error:
        raise CannotCompile(f"the compiler cannot be run: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise CannotCompile(f"the compiler failed: {lines[0][:300]}")
    return done.stdout


def _of_torch() -> list[str]:
    root = Path(torch.__file__).parent
    include = root / "include"
    return [
        "-fopenmp",
        f"-I{include}",
        f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-L{root / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
    ]


def _compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        raise CannotCompile("there is no C++ compiler (Debian: g++)")
    return found


@functools.cache
def _blas() -> list[ctypes.c_void_p]:
    """Products, triangular systems and Cholesky factors in double and single precision, of the library that
    torch was built with; null where it does not export them.
    """
    try:
        torchs: Any = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        torchs = None
    names = [f"{kind}{name}_" for name in ("gemm", "trsm", "potrf") for kind in "ds"]
    return [ctypes.cast(getattr(torchs, name, 0), ctypes.c_void_p) for name in names]


@functools.cache
def _version(compiler: str) -> str:
    return _run([compiler, "--version"])


@functools.cache
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        return "\n".join(
            line for line in lines if line.startswith(("flags", "model name", "Features"))
        )
    except OSError:
        return platform.processor() + platform.machine()


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="guidebook-")


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "guidebook"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(_own_folder().name)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _forget_the_oldest(folder: Path, kept: Path) -> None:
    known = []
    for path in folder.glob("*.so"):
        try:
            told = path.stat()
        except OSError:  # another process was faster
            continue
        known.append((told.st_mtime, told.st_size, path))
    total = sum(size for _, size, _ in known)
    for _, size, path in sorted(known):
        if total <= MOST_BYTES:
            return
        if path != kept:
            path.unlink(missing_ok=True)
            total -= size
