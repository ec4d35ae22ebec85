"""The user's data: a dict of the model's keyword arguments, checked, as tensors, by rows.

A tuple stands for positional arguments, a table (a pandas DataFrame) for its columns. What of each value
becomes a tensor, and what goes to the model as it is, says `guidebook.programs.values.arrays`.

A mini-batch takes the same rows of every array whose first dimension is the number of rows N, the
longest first dimension among the arrays; other arrays and plain values go to the model whole, and
the model is told N by its argument `size`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, SettingError
from guidebook.programs.values.arrays import arrays_in, as_tensor, is_array, not_finite, plain
from guidebook.programs.values.labelled import Labelled, columns_of, labels_of

OF_PYRO = ("self", "model", "guide")
"""Arguments of Pyro's own (`ELBO.loss`, which takes those of the model beside them)."""


def arguments(model: Callable[..., Any], data: Any) -> dict[str, Any]:
    """The data as the model's keyword arguments, numbers as tensors and arrays.

    Raises:
        DataError: neither a mapping nor a tuple or a table; a name the model does not take, or one it
            needs and does not get; a value that cannot be read (`guidebook.programs.values.arrays`).
    """
    given = as_mapping(model, data)
    if given is None:
        raise DataError(
            f"data must be a dict of the model's keyword arguments, not {type(data).__name__}: "
            "svi(model, guide, {'y': y, ...})."
        )
    _names_fit(model, given, columns_of(data) is not None)
    labels = labels_of(data, given)
    found = {name: plain(name, value) for name, value in given.items()}
    return Labelled(found, labels) if labels else found


def as_mapping(model: Callable[..., Any], data: Any) -> Mapping[str, Any] | None:
    """Arguments by name, of a dict, of a tuple of positional ones, or of a table; None of all else.

    Raises:
        DataError: more positional arguments than the model has.
    """
    columns = columns_of(data)
    if columns is not None:
        return columns
    if isinstance(data, Mapping):
        return data
    return _positional(model, data) if isinstance(data, tuple) else None


def _positional(model: Callable[..., Any], data: tuple[Any, ...]) -> dict[str, Any]:
    signature = _signature(model)
    parameters = signature.parameters.values() if signature else ()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(data) > len(names):
        raise DataError(
            f"data holds {len(data)} positional arguments, and the model takes {names} by name: give a "
            "dict of its keyword arguments."
        )
    return dict(zip(names, data, strict=False))


def _names_fit(model: Callable[..., Any], data: Mapping[str, Any], table: bool) -> None:
    for name in OF_PYRO:
        if name in data:
            raise DataError(
                f"The model has an argument '{name}', and so have Pyro's objectives, which are given the "
                "arguments of the model beside their own: rename it in the model and in data."
            )
    signature = _signature(model)
    if signature is None:
        return
    kinds = signature.parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in kinds)
    known = [p.name for p in kinds if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in data:
        if name not in known and not open_ended:
            near = difflib.get_close_matches(str(name), known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" It takes {known}."
            choose = " Choose the columns: data[['x', 'y']]." if table else ""
            raise DataError(f"data holds '{name}', which the model does not take.{hint}{choose}")
    needed = [p.name for p in kinds
              if p.default is p.empty and p.name in known and p.name not in data]  # fmt: skip
    if needed:
        raise DataError(f"The model needs {needed}, missing from data (which holds {list(data)}).")


def takes(model: Callable[..., Any], name: str) -> bool:
    """Whether the model has an argument of this name."""
    signature = _signature(model)
    return signature is not None and name in signature.parameters


def _signature(model: Callable[..., Any]) -> inspect.Signature | None:
    told = model
    if isinstance(told, nn.Module):  # the function below an owner of parameters, or what is called
        told = getattr(told, "__wrapped__", told.forward)
    try:
        return inspect.signature(told)
    except (TypeError, ValueError):
        return None


def check(data: Mapping[str, Any]) -> None:
    """Refuses data without rows, and values that are not finite, naming the first position.

    Raises:
        DataError: with the name and the index.
    """
    check_rows(data)
    for name, array in arrays(data):
        for index, found in not_finite(array):
            raise DataError(f"'{name}' holds {found} at index {index}. Remove or impute the row.")


def check_rows(data: Mapping[str, Any]) -> None:
    """Refuses arrays none of which has a row. Raises DataError."""
    shapes = {n: np.shape(v) for n, v in data.items() if is_array(v) and np.ndim(v)}
    if shapes and not any(shape[0] for shape in shapes.values()):
        name = next(iter(shapes))
        raise DataError(f"'{name}' is empty (shape {tuple(shapes[name])}): give at least one row.")


def arrays(data: Mapping[str, Any]) -> Iterator[tuple[str, Tensor | np.ndarray]]:
    """Every array of numbers in the data, also inside of lists and dicts, with what it is called."""
    for name, value in data.items():
        yield from arrays_in(name, plain(name, value))


def as_tensors(data: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arrays as tensors on the device, floating ones in dtype; everything else as it is."""
    return {name: as_tensor(value, dtype, device, name) for name, value in data.items()}


def same_arguments(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets of arguments are the same to a model, whatever holds the numbers."""
    if one is other:
        return True
    if one.keys() != other.keys():
        return False
    return all(_same(one[name], other[name]) for name in one)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    cpu = torch.device("cpu")
    one, other = (as_tensor(value, torch.float64, cpu) for value in (one, other))
    if isinstance(one, (Tensor, np.ndarray)) and isinstance(other, (Tensor, np.ndarray)):
        a, b = np.asarray(one), np.asarray(other)
        return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return same_arguments(one, other) if isinstance(one, dict) else bool(one == other)


def number_of_rows(data: Mapping[str, Any]) -> int:
    """N, the longest first dimension; 0 where no array has one."""
    return max((len(v) for v in data.values() if is_array(v) and np.ndim(v) > 0), default=0)


def has_rows(value: Any, count: int) -> bool:
    """Whether the value is an array with this many rows."""
    return is_array(value) and np.ndim(value) > 0 and len(value) == count


def find_device(device: str | torch.device | None, data: Any) -> torch.device:
    """The device asked for, or the one the data are on.

    Raises:
        SettingError: an unknown device, or one that is not there.
    """
    if device is None:
        given = arrays(data) if isinstance(data, Mapping) else ()
        return next((a.device for _, a in given if isinstance(a, Tensor)), torch.device("cpu"))
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = "cpu" + (", cuda" if torch.cuda.is_available() else " (no CUDA device is visible)")
        raise SettingError(
            f"device={device!r} cannot be used ({str(error).splitlines()[0][:120]}). "
            f"Available: {there}."
        ) from error
    return found
