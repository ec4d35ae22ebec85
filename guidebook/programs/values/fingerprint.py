"""Checksums of values, to tell whether two are the same: of arrays of any size, of anything else by value.

An array is read whole, in blocks, also one that is mapped from a file and larger than memory. Of a
function the code, the defaults and the values it closes over count; of a class and a module the name;
of any other object its state, as `copy` takes it. Two equal values have the same checksum in every
process; two others have the same one with a probability of about 2^-32.
"""

from __future__ import annotations

import hashlib
import types
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.programs.values.arrays import forget_pages

BYTES = 1 << 24
"""Read at a time, of what is mapped from a file."""


def fingerprint(value: Any) -> str:
    """The checksum of a value, 16 hexadecimal digits."""
    return _Checksums().of(value).hex()


class _Checksums:
    """The checksums of a value and of everything in it, each computed once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}  # the value is held: no id comes again

    def of(self, value: Any) -> bytes:
        """The checksum, 8 bytes; that of a value inside of itself says only that it is."""
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            return _sum(type(value).__name__, repr(value).encode("utf-8", "surrogatepass"))
        if isinstance(value, Tensor):
            return self._of_array("tensor", _as_array(value), str(value.dtype))
        if isinstance(value, (np.ndarray, np.generic)):
            return self._of_array("array", np.asanyarray(value), "")
        if id(value) not in self._known:
            self._known[id(value)] = value, b"again"
            self._known[id(value)] = value, self._of_parts(value)
        return self._known[id(value)][1]

    def _of_array(self, kind: str, array: np.ndarray, told: str) -> bytes:
        if array.dtype.hasobject:
            inside = b"".join(self.of(one) for one in array.reshape(-1))
        else:
            inside = str(_read(array)).encode()
        return _sum(kind, f"{told} {array.dtype.str} {array.shape} ".encode(), inside)

    def _of_parts(self, value: Any) -> bytes:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, (set, frozenset)):
            return _sum(kind, *sorted(self.of(one) for one in value))
        return _sum(kind, *(self.of(part) for part in _parts(value)))


def _sum(kind: str, *parts: bytes) -> bytes:
    found = hashlib.blake2b(kind.encode(), digest_size=8)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


def _as_array(value: Tensor) -> np.ndarray:
    value = value.detach()
    value = (value if value.layout is torch.strided else value.to_dense()).cpu().resolve_conj()
    if value.dtype not in _NUMPYS:  # bfloat16 and shorter floats: their bytes
        value = value.contiguous().reshape(*value.shape, 1).view(torch.uint8)
    return value.resolve_neg().numpy()


_NUMPYS = {torch.from_numpy(np.zeros(1, kind)).dtype for kind in "?bhilBHILefdFD"}


def _read(array: np.ndarray) -> int:
    """The CRC-32 of the bytes of an array, in the order of its entries."""
    found = 0
    rows = max(1, BYTES // max(1, array[:1].nbytes)) if array.ndim else 1
    for start in range(0, len(array) if array.ndim else 1, rows):
        block = np.ascontiguousarray(array[start : start + rows] if array.ndim else array)
        if block.size:
            found = zlib.crc32(block.reshape(-1).view(np.uint8).data, found)
        forget_pages(array)
    return found


def _parts(value: Any) -> Iterator[Any]:
    """What a value is made of."""
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        yield getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__)
    elif isinstance(value, types.FunctionType):
        yield value.__code__
        yield value.__defaults__, value.__kwdefaults__
        yield from (_inside(cell) for cell in value.__closure__ or ())
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_consts, value.co_names, value.co_varnames)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from value
    else:
        yield from _state(value)


def _inside(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _state(value: Any) -> Iterator[Any]:
    """What `copy` would make an object anew from; nothing of one that cannot be copied."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # locks, files, generators
        return
    if isinstance(reduced, str):
        yield reduced
        return
    make, given, *state = reduced
    yield getattr(make, "__qualname__", type(make).__qualname__)
    yield given
    for some in state:
        yield list(some) if isinstance(some, Iterator) else some
