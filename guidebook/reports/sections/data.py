"""The data that the model was given: names, shapes, types, and values or their summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.reports.elements.numbers import minus, number
from guidebook.reports.elements.section import Section, Table

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared


def data(comparison: Compared) -> Section | None:
    """Name, shape and values of everything the model was given; None where nothing is known."""
    rows = data_rows(comparison)
    table = Table("", ["Name", "Shape", "Type", "Values"], rows, numeric=False)
    return Section("The data", tables=[table]) if rows else None


def data_rows(comparison: Compared) -> list[tuple[str, str, str, str]]:
    """Name, shape, type and values of everything the model was given, or the files carried."""
    if comparison.data is not None:
        return [(str(name), *_described(value)) for name, value in comparison.data.items()]
    rows: dict[str, tuple[str, str, str, str]] = {}
    for tree in comparison.posteriors.values():
        for group in ("observed_data", "constant_data"):
            if group in tree.children:
                for name, array in tree[group].data_vars.items():
                    rows.setdefault(str(name), (str(name), *_described(array.values)))
    return list(rows.values())


def _described(value: Any) -> tuple[str, str, str]:
    """Shape, type and the values or their summary."""
    detach = getattr(value, "detach", None)
    if detach is not None:
        value = detach().cpu().numpy()
    if value is None or isinstance(value, str | bool | int | float):
        return "–", type(value).__name__, "not observed" if value is None else str(value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return "–", type(value).__name__, ""
    if array.dtype.kind not in "biuf" or array.size == 0:
        return _shape(array), type(value).__name__, "empty" if array.size == 0 else ""
    if array.size <= 10:
        return (
            _shape(array),
            str(array.dtype),
            minus(", ".join(f"{float(x):.4g}" for x in array.ravel())),
        )
    numbers = array.astype(float)
    lost = int(np.count_nonzero(~np.isfinite(numbers)))
    seen = numbers[np.isfinite(numbers)]
    text = (
        f"{number(float(seen.min()))} to {number(float(seen.max()))}, "
        f"mean {number(float(seen.mean()))}, sd {number(float(seen.std()))}"
        if seen.size
        else ""
    )
    return _shape(array), str(array.dtype), minus(text) + (f"; {lost:,} not finite" if lost else "")


def _shape(array: np.ndarray) -> str:
    return " × ".join(f"{size:,}" for size in array.shape) or "one number"
