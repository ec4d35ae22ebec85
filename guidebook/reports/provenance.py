"""Where a comparison comes from: its data, its seeds, the versions that made it."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.reports.elements.numbers import minus, number

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared

_PACKAGES = (
    "guidebook",
    "torch",
    "pyro-ppl",
    "zuko",
    "nutpie",
    "arviz-base",
    "arviz-stats",
    "xarray",
    "numpy",
    "matplotlib",
)


def data_rows(comparison: "Compared") -> list[tuple[str, str, str, str]]:
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


def seeds(comparison: "Compared") -> list[tuple[str, str]]:
    """The seed of each approximation, where its DataTree's attributes have it."""
    found = []
    for name, tree in comparison.posteriors.items():
        groups = [tree, *tree.children.values()]
        seed = next((group.attrs["seed"] for group in groups if "seed" in group.attrs), None)
        if seed is not None:
            found.append((name, str(seed)))
    return found


def versions() -> list[tuple[str, str]]:
    """What made the page: Python, and the packages that are installed."""
    found = [("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found
