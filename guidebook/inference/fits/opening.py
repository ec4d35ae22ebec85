"""NEEDS A DOCSTRING: guidebook.inference.fits.opening."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.programs.check import check_pair
from guidebook.programs.rows import some_rows
from guidebook.programs.scope import local_parameters, precision, random_state
from guidebook.programs.sites import latent_sites


def finished(
    model: Any, guide: Any, data: Mapping[str, Any], device: torch.device, history: np.ndarray,
    status: Status, seed: int, started: float, engine: str, notes: dict[str, Any],
) -> Fit:  # fmt: skip
    """The Fit of a guide that was fitted in place, checked against the model on some rows."""
    with local_parameters(), precision(torch.float64), random_state(seed), torch.no_grad():
        rows = some_rows(data, 100, 0, device)
        check_pair(model, guide, rows)
        sites = latent_sites(model, rows, discrete=True)
    seconds = time.perf_counter() - started
    return Fit(model, guide, data, history, status, seed, seconds, engine, sites, notes=notes)
