"""Fits without an engine: what is kept, shown and drawn does not depend on how it was found."""

from typing import Any

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.programs.data import as_tensors
from guidebook.programs.owned import Owned, copied, dtype_of
from guidebook.programs.sites import latent_sites
from guidebook.scope import local_parameters, precision, random_state


def _made(model: Any, guide: Any, data: Any, **fields: Any) -> gb.Fit:
    """The guide with its parameters at random values, and with a full factor where it takes one."""
    model, guide = copied(model, guide)
    if not isinstance(guide, torch.nn.Module):
        guide = Owned(guide)
    dtype = dtype_of(model, guide)
    with local_parameters(), precision(dtype), random_state(0), torch.no_grad():
        tensors = as_tensors(data, dtype, torch.device("cpu"))
        sites = latent_sites(model, tensors)
        guide(**tensors)
        if hasattr(guide, "start_at"):
            D = sum(site.size for site in sites)
            guide.start_at(torch.randn(D), torch.eye(D) + 0.2 * torch.randn(D, D).tril())
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    guide.eval()
    history, notes = np.array([3.0, 2.5]), {"steps": 2, "rhat": 1.02}
    return gb.Fit(
        model, guide, data, history, gb.Status.STILL_MOVING, 5, 1.5, "svi", sites, notes=notes,
        **fields,
    )  # fmt: skip


@pytest.fixture(scope="session")
def made() -> Any:
    return _made
