"""C++ source compiled to a library, once: kept on disk (`guidebook.programs.native.kept`)."""

from __future__ import annotations

import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from guidebook.programs.native import kept

SECONDS = 120.0
"""A compiler that takes longer hangs."""
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
         "-fassociative-math", "-fno-signed-zeros", "-fno-tree-pre", "-fno-tree-reassoc",
         "-std=c++20", "-shared", "-fPIC", "-w")  # fmt: skip
"""Sums may be taken in any order; not-a-numbers and infinities are what they are. A number that is known
where a turn of a loop begins is not kept for the next one, which would not be independent of it; nor are
terms moved between sums, in which vectors of several sums are no longer seen."""


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
    needed = *(_of_torch() if needs_torch else ()), *_vectors()
    name = kept.name_of(
        [source, compiler, _version(compiler), _processor(), torch.__version__, *FLAGS, *needed]
    )
    known = kept.found(name, ".so")
    if known is not None:
        return known
    with tempfile.TemporaryDirectory(dir=kept.folder()) as work:
        code, made = Path(work) / "code.cpp", Path(work) / "code.so"
        code.write_text(source)
        _run([compiler, *FLAGS, "-o", str(made), str(code), *needed])
        return kept.keep(made, name, ".so")


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
    names = (f"{kind}{name}_" for name in ("gemm", "trsm", "potrf") for kind in "ds")
    found: list[Any] = [getattr(torchs, name, None) for name in names]
    return [ctypes.cast(function, ctypes.c_void_p) for function in found]


@functools.cache
def _vectors() -> tuple[str, ...]:
    """The library of functions of vectors of numbers where this system has it; else none are declared."""
    try:
        ctypes.CDLL("libmvec.so.1")
        return ("-lmvec", "-lm")
    except OSError:
        return ("-DSIMD=",)


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
