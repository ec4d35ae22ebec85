"""pandas, polars and xarray objects: their numbers as an array, and the labels of their rows.

Labels go to ArviZ: a plate of the model is labelled by the index (or dimension) of its name, else by
that of its length, where there is only one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

import numpy as np

from guidebook.errors import DataError

Labels = tuple[str | None, np.ndarray]
"""The name of a dimension, None where it has none, and the label of every place along it."""


class Labelled(dict[str, Any]):
    """A model's arguments, and the labels that came with them."""

    def __init__(self, values: Mapping[str, Any], labels: Iterable[Labels]) -> None:
        super().__init__(values)
        self.labels = tuple(labels)


def is_labelled(value: Any) -> bool:
    """Whether it is a Series, a DataFrame, a DataArray, or another object with `to_numpy`."""
    return hasattr(value, "to_numpy") and not isinstance(value, type)


def columns_of(data: Any) -> dict[str, Any] | None:
    """The columns of a table by name; None of anything else.

    Raises:
        DataError: two columns of one name.
    """
    if not is_labelled(data) or not hasattr(data, "columns"):
        return None
    names = [str(name) for name in data.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"The table has several columns called '{twice[0]}': rename them.")
    return {str(name): data[name] for name in data.columns}


def labels_of(data: Any, values: Mapping[str, Any]) -> list[Labels]:
    """The labels of a table and of its values, each once; none where rows are only numbered from 0.

    Raises:
        DataError: two values have the same labels in another order.
    """
    found: list[tuple[str, Labels]] = []
    for name, value in (("the table", data), *values.items()):
        for dimension, rows in _labels_of(value):
            for other, (other_dimension, other_rows) in found:
                if dimension == other_dimension and _reordered(other_rows, rows):
                    raise DataError(
                        f"'{other}' and '{name}' have the same labels in another order, and rows go to the "
                        f"model by their place: give {name}.reindex_like({other}), or {name}.to_numpy()."
                    )
            if not any(dimension == d and np.array_equal(rows, r) for _, (d, r) in found):
                found.append((name, (dimension, rows)))
    return [(d, _readable(rows)) for _, (d, rows) in found if not _only_numbered(rows)]


def _labels_of(value: Any) -> list[Labels]:
    if hasattr(value, "dims") and hasattr(value, "coords"):
        return [(str(d), value.coords[d].to_numpy()) for d in value.dims if d in value.coords]
    if hasattr(getattr(value, "index", None), "to_numpy"):
        name = value.index.name
        return [(None if name is None else str(name), value.index.to_numpy())]
    return []


def _reordered(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the labels are the same, and not their order."""
    if one.shape != other.shape or np.array_equal(one, other):
        return False
    return sorted(map(str, one)) == sorted(map(str, other))


def _only_numbered(rows: np.ndarray) -> bool:
    return rows.dtype.kind in "iu" and bool((rows == np.arange(len(rows))).all())


def _readable(rows: np.ndarray) -> np.ndarray:
    """Labels that a netCDF file can hold."""
    if rows.dtype.kind in "iufbM":
        return rows
    words = [" / ".join(map(str, row)) if isinstance(row, tuple) else str(row) for row in rows]
    return np.array(words, dtype=str)


def numbers_in(name: str, value: Any) -> np.ndarray:
    """The numbers of a labelled object; what is missing in it is NaN.

    Raises:
        DataError: words, categories or dates, with the conversion to make.
    """
    array = np.asarray(value.to_numpy())
    if array.dtype.kind in "mM":
        raise DataError(
            f"'{name}' holds dates or times ({array.dtype}), and a model computes with numbers: give "
            f"days since the first, ({name} - {name}.min()).dt.days, or another number."
        )
    if array.dtype != object:
        if array.dtype.kind not in "fiubc":
            raise DataError(_no_numbers(name, array.flat[0] if array.size else ""))
        return array
    flat = [np.nan if _missing(one) else one for one in array.reshape(-1)]
    words = [one for one in flat if not isinstance(one, (Number, np.bool_))]
    if words:
        raise DataError(_no_numbers(name, words[0]))
    found = np.array(flat).reshape(array.shape)
    return found.astype(np.float64) if found.dtype == object else found


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _no_numbers(name: str, value: Any) -> str:
    return (
        f"'{name}' holds {value!r}, and a model computes with numbers: give the number of each "
        f"category, pandas.factorize({name})[0], or leave the column out."
    )
