"""Reusable model/guide pairs for Pyro, and the verdict on every fit: trust, reweight or reject."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "svi": "guidebook.inference.svi",
    "nuts": "guidebook.inference.nuts",
    "laplace": "guidebook.inference.normals.laplace",
    "exact": "guidebook.inference.exact",
    "em": "guidebook.inference.em",
    "cavi": "guidebook.inference.cavi",
    "natural_svi": "guidebook.inference.natural_svi",
    "gibbs": "guidebook.inference.gibbs",
    "ep": "guidebook.inference.ep",
    "svgd": "guidebook.inference.svgd",
    "pathfinder": "guidebook.inference.normals.pathfinder",
    "wake_sleep": "guidebook.inference.wake_sleep",
    "Fit": "guidebook.inference.fits.fit",
    "Status": "guidebook.inference.fits.status",
    "load": "guidebook.inference.fits.loading",
    "calibrate": "guidebook.diagnostics.calibrate",
    "Calibration": "guidebook.diagnostics.numerics.calibration",
    "compare": "guidebook.reports.comparison",
    "Comparison": "guidebook.reports.comparison",
    "Verdict": "guidebook.diagnostics.judging.findings",
    "Pair": "guidebook.shelf.pair",
    "PAIRS": "guidebook.catalogue",
    "pair": "guidebook.catalogue",
    "GuidebookError": "guidebook.errors",
}
_ROOMS = ("datasets", "models", "guides", "inference", "diagnostics", "reports", "errors")

if TYPE_CHECKING:
    from guidebook import datasets, diagnostics, errors, guides, inference, models, reports
    from guidebook.catalogue import PAIRS, pair
    from guidebook.diagnostics.calibrate import calibrate
    from guidebook.diagnostics.judging.findings import Verdict
    from guidebook.diagnostics.numerics.calibration import Calibration
    from guidebook.errors import GuidebookError
    from guidebook.inference.cavi import cavi
    from guidebook.inference.em import em
    from guidebook.inference.ep import ep
    from guidebook.inference.exact import exact
    from guidebook.inference.fits.fit import Fit
    from guidebook.inference.fits.loading import load
    from guidebook.inference.fits.status import Status
    from guidebook.inference.gibbs import gibbs
    from guidebook.inference.natural_svi import natural_svi
    from guidebook.inference.normals.laplace import laplace
    from guidebook.inference.normals.pathfinder import pathfinder
    from guidebook.inference.nuts import nuts
    from guidebook.inference.svgd import svgd
    from guidebook.inference.svi import svi
    from guidebook.inference.wake_sleep import wake_sleep
    from guidebook.reports.comparison import Comparison, compare
    from guidebook.shelf.pair import Pair

__all__ = [
    "PAIRS", "Calibration", "Comparison", "Fit", "GuidebookError", "Pair", "Status", "Verdict",
    "calibrate", "cavi", "compare", "datasets", "diagnostics", "em", "ep", "errors", "exact", "gibbs",
    "guides", "inference", "laplace", "load", "models", "natural_svi", "nuts", "pair", "pathfinder",
    "reports", "svgd", "svi", "to_arviz", "wake_sleep",
]  # fmt: skip


def to_arviz(fit: Fit, draws: int = 4000, seed: int = 0, **groups: bool) -> Any:
    """fit.posterior(draws, seed, **groups): an xarray.DataTree in ArviZ's groups."""
    return fit.posterior(draws, seed, **groups)


def __getattr__(name: str) -> Any:
    """Loads public names when they are first asked for: importing ArviZ takes seconds."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"guidebook.{name}")
    else:
        import difflib

        near = difflib.get_close_matches(name, __all__, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise AttributeError(f"guidebook has no '{name}'.{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
