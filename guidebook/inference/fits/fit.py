"""What an engine returns: a frozen value that holds an approximation and how it was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.status import Record, Status
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
        guide: the trained guide, a copy; None for engines that return draws.
        data: the model's keyword arguments as they were given, numbers as tensors and arrays; None
            after `load` without data.
        history: the objective (-ELBO) at every step, shape (steps,); empty for other engines.
        status: how it ended.
        seed, seconds, engine: as named.
        sites: the latent sites that q covers.
        draws: unconstrained positions (chain, draw, D) of an engine that returns draws, else None.
        notes: numbers and words of the engine (restarts' R-hat, divergences, log evidence, ...).
        draws_are: what an engine that returns draws says they are: "chains" of a sampler, whose
            R-hat means something, or "particles", which stand for the posterior together.
        approximation: the value that says what q is (density, point, chains or particles).
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
    draws_are: Literal["chains", "particles"] = "chains"

    @cached_property
    def approximation(self) -> Approximation:
        """q, and what it approximates: its kind, its draws, the joint density."""
        return Approximation(
            self.model, self.guide, self.data, self.sites, self.draws, self.draws_are
        )

    @property
    def record(self) -> Record:
        """How it came about, without q."""
        return Record(self.engine, self.status, self.seed, self.seconds, self.history, self.notes)

    @property
    def potential(self) -> Potential:
        """The model's log density at the fit's data, recorded once and kept.

        Raises:
            DataError: the fit was loaded without its model or data.
        """
        return self.approximation.potential

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
        are checked; observed_data, NaN where the model masks it; constant_data; vi_fit with the
        objective per step, and as attributes what q is (kind, family, discrete) and how it was found
        (engine, status, ...); on request log_likelihood and posterior_predictive. Where sites are
        summed out, log_likelihood has those observed sites alone whose rows are independent given z:
        of a mixture, not of a Markov chain. Chains and
        particles are kept as they are, whatever `draws`; only a density has log_q.

        log_likelihood is log p(x_i | z) of every observed value, 0 where the model masks it, without the
        scale of plates and handlers. Where discrete sites are summed out, observed sites that hang on the
        same of them have log p(x_k | x_1, ..., x_{k-1}, z), in the order of the model; rows that share such a
        site have one value together, in the plates outside of it.

        Raises:
            SettingError: `draws` is not a whole number of at least 1, `seed` of at least 0.
            DataError: model or data are needed and were not loaded; or no argument of the model can
                be left out to predict.
            GuideError: the model cannot run without its observed data.
        """
        from guidebook.inference.fits.datatree import to_datatree

        return to_datatree(
            self.approximation, self.record, draws, seed, log_likelihood, posterior_predictive
        )

    def save(self, path: str | Path) -> Path:
        """Writes one file without pickled code and without the training data; see `load`.

        Raises:
            FileError: the path cannot be written; nothing is left behind.
        """
        from guidebook.inference.fits.saving import save

        return save(self.approximation, self.record, path)

    def __repr__(self) -> str:
        last = f", objective {self.history[-1]:.4g}" if len(self.history) else ""
        return (
            f"Fit({self.engine}, {len(self.sites)} sites, {self.seconds:.1f} s{last}): "
            f"{self.status.value}"
        )
