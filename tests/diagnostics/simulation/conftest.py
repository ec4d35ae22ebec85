"""A conjugate normal model, and an engine that gives its posterior exactly, or wrong as planted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.programs.sites import latent_sites

Engine = Callable[..., Fit]


def conjugate(n: int, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mu, 2.0), obs=y)


@pytest.fixture
def model() -> Any:
    return conjugate


@pytest.fixture
def data() -> dict[str, Any]:
    return {"n": 4, "y": torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)}


@pytest.fixture
def planted() -> Callable[..., Engine]:
    """An engine of `conjugate`: N(m + shift s, (scale s)^2), m and s of all values of y that it is given."""

    def make(shift: float = 0.0, scale: float = 1.0, status: Status = Status.CONVERGED) -> Engine:
        def engine(model: Any, data: Any, *, seed: int = 0) -> Fit:
            values = torch.cat([v for name, v in data.items() if name != "n"])
            precision = 1 + len(values) / 4
            mean, sd = float(values.sum()) / 4 / precision, precision**-0.5
            noise = torch.randn(1, 400, 1, generator=torch.Generator().manual_seed(seed + 1))
            draws = mean + sd * (shift + scale * noise.double())
            sites = latent_sites(model, data)
            return Fit(model, None, data, np.empty(0), status, seed, 0.0, "planted", sites, draws,
                       draws_are="particles")  # fmt: skip

        return engine

    return make
