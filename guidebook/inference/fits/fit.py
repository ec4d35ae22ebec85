"""What an engine returns: a frozen value that holds the approximation and how it was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.errors import DataError
from guidebook.inference.fits.status import Status
from guidebook.programs.data import as_tensors, find_device
from guidebook.programs.owned import dtype_of, parameters_of
from guidebook.programs.potential import Potential
from guidebook.programs.sites import Site

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor


@dataclass(frozen=True)
class Fit:
    """An approximation of p(z | x), and everything that says how it came about.

    Attributes:
        model: the Pyro model, a copy with its trained parameters where it has any.
        guide: the trained guide, a copy; None for sampling engines.
        data: the model's keyword arguments as they were given; None after `load` without data.
        history: the objective (-ELBO) at every step, shape (steps,); empty for other engines.
        status: how it ended.
        seed, seconds, engine: as named.
        sites: the latent sites that q covers.
        draws: unconstrained draws (chain, draw, D) of a sampling engine, else None.
        notes: numbers and words of the engine (restarts' R-hat, divergences, log evidence, ...).
    """

    model: Callable[..., Any] | None
    guide: Callable[..., Any] | None
    data: Mapping[str, Any] | None
    history: np.ndarray
    status: Status
    seed: int
    seconds: float
    engine: str
    sites: tuple[Site, ...] = ()
    draws: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def potential(self) -> Potential:
        """The model's log density at the fit's data, recorded once and kept.

        Raises:
            DataError: the fit was loaded without its model or data.
        """
        if self.model is None or self.data is None:
            raise DataError(
                "This fit was loaded without its model or its data, so log p(x, z) is not known. "
                "Give them: gb.load(path, model=model, data=data)."
            )
        dtype = self.draws.dtype if self.draws is not None else dtype_of(self.model, self.guide)
        device = next((p.device for p in parameters_of(self.model, self.guide)), None)
        tensors = as_tensors(self.data, dtype, device or find_device(None, self.data))
        return Potential(self.model, tensors, self.sites)

    def posterior(
        self,
        draws: int = 4000,
        seed: int = 0,
        *,
        log_likelihood: bool = False,
        posterior_predictive: bool = False,
    ) -> xr.DataTree:
        """Draws of the approximation as an ArviZ DataTree, dimensions (chain, draw, ...).

        Groups: posterior; sample_stats with lp = log p(x, z) and log_q = log q(z) per draw;
        unconstrained with position u and gradient d log p(x, u) / du, on which Stein's identities
        are checked; observed_data; constant_data; vi_fit with the objective per step; on request
        log_likelihood and posterior_predictive. A sampler's own chains and draws are kept.
        """
        from guidebook.inference.fits.datatree import to_datatree

        return to_datatree(
            self,
            draws,
            seed,
            log_likelihood=log_likelihood,
            posterior_predictive=posterior_predictive,
        )

    def save(self, path: str | Path) -> Path:
        """Writes one file without pickled code and without the training data; see `load`."""
        from guidebook.inference.fits.saving import save

        return save(self, path)

    def __repr__(self) -> str:
        last = f", objective {self.history[-1]:.4g}" if len(self.history) else ""
        return (
            f"Fit({self.engine}, {len(self.sites)} sites, {self.seconds:.1f} s{last}): "
            f"{self.status.value}"
        )
