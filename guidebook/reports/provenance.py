"""Where a comparison comes from: its seeds, and the versions that made it."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

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
