"""What of a user's values becomes a tensor, and what goes to the model as it is.

- Tensors and NumPy arrays of numbers become tensors of the fit's dtype (the floating ones) and
  device, also inside of lists, tuples, dicts and packed sequences.
- A *list* of numbers, or of lists of equal lengths of numbers, is an array. A *tuple* stays a tuple: it is
  how shapes and sizes are written.
- pandas, polars and xarray objects are their numbers (`guidebook.programs.values.labelled`).
- Everything else goes to the model untouched, as Pyro passes it: words, None, functions, ragged lists, lists
  of tensors.

What looks like numbers and cannot be read as such without a guess (masked values, sparse layouts, None
among numbers) is refused with the conversion to make.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from guidebook.errors import DataError
from guidebook.programs.values.labelled import is_labelled, numbers_in

NUMERIC = "fiubc"
"""Kinds of NumPy dtypes that torch has."""

BLOCK = 262_144
"""Rows looked at together, so that a file need not fit into memory."""


def is_array(value: Any) -> bool:
    """Whether the value becomes one tensor."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in NUMERIC
    return isinstance(value, Tensor) or (isinstance(value, list) and _is_numbers(value))


def plain(name: str, value: Any) -> Any:
    """The value, with numbers as a tensor or an array that is not copied where it is one.

    Raises:
        DataError: masked values, a sparse layout, None among numbers, words in a table.
    """
    if isinstance(value, Tensor):
        _refuse_layout(name, value)
        return value
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(name, value)
    if isinstance(value, np.ndarray):
        return _from_objects(name, value) if value.dtype == object else value
    if isinstance(value, list):
        return _from_list(name, value)
    if is_labelled(value):
        return numbers_in(name, value)
    if hasattr(value, "toarray"):
        raise DataError(f"'{name}' is a sparse matrix: give {name}.toarray().")
    return value


def as_tensor(value: Any, dtype: torch.dtype, device: torch.device, name: str = "a value") -> Any:
    """The value as the model gets it; see the module.

    Raises:
        DataError: as `plain`.
    """
    value = plain(name, value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in NUMERIC:
            return value
        value = torch.from_numpy(native(np.array(value)))
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to(device=device, dtype=dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, PackedSequence):
        packed: Any = value  # torch's annotations know of fewer arguments
        return packed.to(device, dtype if value.data.is_floating_point() else value.data.dtype)
    if not _is_container(value):
        return value
    inside = {label: _inside(one, dtype, device, label) for label, one in _parts(name, value)}
    return _rebuilt(value, list(inside.values()))


def _inside(value: Any, dtype: torch.dtype, device: torch.device, label: str) -> Any:
    """A value within a container: a list of numbers, or a table, stays there what it is."""
    if is_labelled(value) or (isinstance(value, list) and _is_numbers(value)):
        return value
    return as_tensor(value, dtype, device, label)


def arrays_in(name: str, value: Any) -> Iterator[tuple[str, Tensor | np.ndarray]]:
    """Every array of numbers in a plain value, with what it is called: 'y', 'y[1]'."""
    if isinstance(value, PackedSequence):
        yield f"{name}.data", value.data
    elif isinstance(value, (Tensor, np.ndarray)):
        if is_array(value):
            yield name, value
    elif _is_container(value):
        for label, one in _parts(name, value):
            yield from arrays_in(label, one)


def native(array: np.ndarray) -> np.ndarray:
    """The array in a dtype that torch has, of this machine's byte order.

    Raises:
        DataError: whole numbers beyond 64 bits with a sign.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and size > 1:
        if size == 8 and array.size and int(array.max()) >= 2**63:
            raise DataError(f"An array holds {array.max()}, and whole numbers end below 2^63.")
        return array.astype(np.int64)
    if kind == "f" and size > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def not_finite(array: Tensor | np.ndarray, most: int = 1) -> Iterator[tuple[tuple[int, ...], str]]:
    """The places of the first values that are not finite, at most so many, and what stands there."""
    found = 0
    for start in range(0, max(1, len(array) if array.ndim else 1), BLOCK):
        block: Any = array[start : start + BLOCK] if array.ndim else array
        if isinstance(block, Tensor):
            if not (block.is_floating_point() or block.is_complex()):
                return
            wide = block.is_floating_point()  # NumPy has no bfloat16
            block = (block.detach().double() if wide else block.detach()).cpu().numpy()
        if block.dtype.kind not in "fc":
            return
        for index in np.argwhere(~np.isfinite(block))[: most - found]:
            word = str(block[tuple(index)])
            place = tuple(int(i) for i in index)
            found += 1
            yield (
                (place[0] + start, *place[1:]) if place else place,
                "NaN" if word == "nan" else word,
            )
        forget_pages(array)
        if found >= most:
            return


def forget_pages(value: Any) -> None:
    """Tells the system that pages of a memory-mapped file need not stay resident."""
    mapped = getattr(value, "_mmap", None)
    changed = (
        getattr(value, "mode", "c") == "c"
    )  # pages of a map to be changed in memory alone are all there is
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and not changed:
        mapped.madvise(mmap.MADV_DONTNEED)


# lists and other containers -----------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, (Number, np.bool_))


def _is_numbers(value: list[Any]) -> bool:
    """Whether a list holds numbers only, or lists of equal lengths of them."""
    if not value:
        return False
    if all(_is_number(one) for one in value):
        return True
    lists = all(isinstance(one, list) and _is_numbers(one) for one in value)
    return lists and len({_shape(one) for one in value}) == 1


def _shape(value: list[Any]) -> tuple[int, ...]:
    inner = _shape(value[0]) if isinstance(value[0], list) else ()
    return (len(value), *inner)


def _from_list(name: str, value: list[Any]) -> Any:
    if _is_numbers(value):
        return _from_objects(name, np.array(value))
    number = any(_is_number(one) for one in value)
    if number and any(one is None for one in value):
        raise DataError(_among(name, (value.index(None),), None))
    return value


def _from_objects(name: str, array: np.ndarray) -> np.ndarray:
    """An array of objects that are numbers as an array of numbers; one of other objects as it is."""
    if array.dtype != object:
        return array
    flat = list(array.reshape(-1))
    others = [i for i, one in enumerate(flat) if not _is_number(one)]
    if len(others) == len(flat):
        return array
    if others:
        where = tuple(int(i) for i in np.unravel_index(others[0], array.shape))
        raise DataError(_among(name, where, flat[others[0]]))
    found = np.array(flat).reshape(array.shape)
    return found.astype(np.float64) if found.dtype == object else found


def _among(name: str, where: tuple[int, ...], value: Any) -> str:
    return (
        f"'{name}' holds {value!r} at index {where} among numbers. Leave the row out; or give NaN "
        "there and mask it in the model (pyro.poutine.mask)."
    )


def _is_container(value: Any) -> bool:
    return type(value) in (list, tuple, dict) or (
        isinstance(value, tuple) and hasattr(value, "_fields")
    )


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield f"{name}[{key!r}]", value[key]


def _rebuilt(value: Any, parts: list[Any]) -> Any:
    if isinstance(value, dict):
        return dict(zip(value, parts, strict=True))
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    return type(value)(parts)


# refusals -----------------------------------------------------------------------------------------


def _refuse_layout(name: str, value: Tensor) -> None:
    if value.is_nested:
        raise DataError(f"'{name}' is a nested tensor: give a list of tensors, {name}.unbind().")
    if value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
        raise DataError(f"'{name}' is a sparse tensor ({kind}): give {name}.to_dense().")


def _unmasked(name: str, value: np.ma.MaskedArray[Any, Any]) -> Any:
    places = np.argwhere(np.ma.getmaskarray(value))
    if not len(places):
        return plain(name, value.data)
    where = tuple(int(i) for i in places[0])
    raise DataError(
        f"'{name}' is a masked array, and {len(places)} of its values are masked, the first at index "
        f"{where}. Leave these rows out, {name}.compressed(); or give {name}.filled(0.0), and "
        f"~{name}.mask as an argument by which the model masks them (pyro.poutine.mask)."
    )
