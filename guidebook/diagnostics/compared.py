"""A comparison as a value: approximations side by side, their draws, weights, verdicts and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.judging.assessment import NUMBERS
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.measures.identities import Bound
from guidebook.diagnostics.measures.leave_one_out import LeaveOneOut, leave_one_out
from guidebook.diagnostics.measures.sensitivity import Sensitivity, sensitivity
from guidebook.diagnostics.model_kinds.energy import EnergyNumbers, energy_numbers
from guidebook.diagnostics.model_kinds.mixtures import MixtureNumbers, mixture_numbers
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.structure import Structure, structure_of
from guidebook.errors import DataError, NameNotFound, nearest
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import MOST, check_whole

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

JOINED = "chains and draws joined"
"""A name that no dimension of a user's variable has."""
COLUMNS = ("verdict", "reason", "next", "checks", *NUMBERS, "seconds", "engine")


@dataclass(frozen=True)
class Compared:
    """Approximations side by side.

    Attributes:
        table: a DataFrame, one row an approximation, with the columns of `COLUMNS`; of amortised fits
            also `model` and `codes`, the verdicts on these uses.
        verdicts: name to Verdict; of an amortised fit on the posterior of each row.
        reference: the name of the reference, or None.
        posteriors: name to DataTree, all of shape (chain=1, draw=S) with the same variables.
        weights: name to smoothed importance weights (S,) summing to 1, or None.
        matched: name to the draws that the weights are of, where moment matching moved them after the
            fit; of all others they are those in `posteriors`.
        histories: name to the objective per step.
        khat_sites: name to site to (k-hat of its second moments, standard error).
        witnesses: name to sentences, what each diagnostic said.
        model, data: of the fits, where they came as fits.
        amortized: name to the numbers of amortised guides, row by row.
        bounds: name to the ELBO in its three forms, where it can be had quickly.
        calibrations: name to the calibration that was given with it.
        khat_limits: name to the k-hat beyond which its importance weights are unreliable: it depends
            on the number of draws that were judged.
        fits: name to Fit, of the approximations that came as fits.
        seed: of the draws, and of what is computed when it is first asked for, once: `mixture`,
            `energy` and `structure` of one kind of model, `leave_one_out` and `sensitivity` of the
            approximations that can be used.
    """

    table: pd.DataFrame
    verdicts: dict[str, Verdict]
    reference: str | None
    posteriors: dict[str, xr.DataTree]
    weights: dict[str, np.ndarray | None]
    histories: dict[str, np.ndarray]
    khat_sites: dict[str, dict[str, tuple[float, float]]]
    witnesses: dict[str, list[str]]
    model: Callable[..., Any] | None = None
    data: Mapping[str, Any] | None = None
    amortized: dict[str, AmortizedNumbers] = field(default_factory=dict)
    bounds: dict[str, Bound] = field(default_factory=dict)
    seed: int = 0
    khat_limits: dict[str, float] = field(default_factory=dict)
    matched: dict[str, xr.DataTree] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict, repr=False)
    calibrations: dict[str, Calibration] = field(default_factory=dict)

    @cached_property
    def mixture(self) -> MixtureNumbers | None:
        """Clusters and responsibilities of every approximation; None for other models."""
        return mixture_numbers(self.model, self.data, self.posteriors, self.histories)

    @cached_property
    def energy(self) -> EnergyNumbers | None:
        """Recall, samples and log Z of a Boltzmann machine; None for other models. Some seconds."""
        return energy_numbers(self.model, self.data, self.posteriors, self.seed)

    @cached_property
    def structure(self) -> Structure:
        """The model's sites, priors and plates, or why they cannot be had."""
        return structure_of(self.model, self.data)

    @cached_property
    def leave_one_out(self) -> dict[str, LeaveOneOut]:
        """Name to the leave-one-out predictive densities of the rows, of trusted and reweighted fits.

        Empty where the observations do not lie in one plate of 3 to 2,000 rows.
        """
        found = {n: leave_one_out(self.fits[n], self._drawn(n), self.seed) for n in self._usable()}
        return {n: one for n, one in found.items() if one is not None}

    @cached_property
    def sensitivity(self) -> dict[str, Sensitivity]:
        """Name to how much the marginals change with prior and likelihood, of trusted and reweighted
        fits; of these the weighted draws are looked at.
        """
        found = {}
        for name in self._usable():
            mended = self.verdicts[name] is Verdict.REWEIGHT
            tree = self.weighted(name, seed=self.seed) if mended else self.posteriors[name]
            found[name] = sensitivity(self.fits[name], tree)
        return {n: one for n, one in found.items() if one is not None}

    def _usable(self) -> list[str]:
        """The fits that are trusted or reweighted, and have draws of one posterior."""
        return [
            n for n in self.fits
            if n in self.posteriors and self.verdicts[n] is not Verdict.REJECT
        ]  # fmt: skip

    def _drawn(self, name: str) -> xr.DataTree:
        """The draws that verdict and weights are of."""
        return self.matched.get(name, self.posteriors[name])

    def weighted(self, name: str, draws: int | None = None, seed: int = 0) -> xr.DataTree:
        """Draws resampled by their importance weights: what the verdict 'reweight' asks to use.

        Where moment matching moved the draws after the fit, these are the moved ones.

        Raises:
            NameNotFound: no such approximation.
            DataError: it has no weights.
            SettingError: `draws` is not a whole number of at least 1, `seed` of at least 0.
        """
        check_whole(draws=(1 if draws is None else draws, 1, MOST), seed=(seed, 0))
        if not isinstance(name, str) or name not in self.posteriors:
            raise NameNotFound(
                f"The comparison has no approximation {name!r}. {nearest(str(name), self.posteriors)}"
            )
        weights = self.weights[name]
        if weights is None:
            raise DataError(
                f"'{name}' has no importance weights, because lp or log_q is missing: give a Fit of a "
                "guide with a density, or draws whose sample_stats hold lp and log_q."
            )
        size = len(weights) if draws is None else draws
        rng = np.random.default_rng(seed)
        # systematic resampling: the least noise (Kitagawa 1996)
        places = (rng.random() + np.arange(size)) / size
        index = np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1)
        return thinned(self._drawn(name), index)

    def __repr__(self) -> str:
        words = ", ".join(f"{name}: {v.value}" for name, v in self.verdicts.items())
        return f"{type(self).__name__}({words})"


# draws -------------------------------------------------------------------------------------------


def thinned(tree: xr.DataTree, index: np.ndarray) -> xr.DataTree:
    """The draws of these places, chains joined, as one chain (1, S); groups with draws of their own,
    as predictions of fewer, are left out.
    """
    import xarray as xr

    chain, draw = np.divmod(index, tree["posterior"].sizes["draw"])
    places = {"chain": xr.DataArray(chain, dims=JOINED), "draw": xr.DataArray(draw, dims=JOINED)}
    result = {}
    for name, group in tree.children.items():
        data = group.to_dataset()
        if {"chain", "draw"} <= set(data.dims):
            if data.sizes["chain"] * data.sizes["draw"] != size_of(tree):
                continue
            joined = data.isel(places).drop_vars(["chain", "draw"], errors="ignore")
            joined = joined.rename_dims({JOINED: "draw"}).expand_dims(chain=[0])
            joined = joined.assign_coords(draw=np.arange(len(index)))
            data = joined.transpose("chain", "draw", ...)
        result[f"/{name}"] = data
    made = xr.DataTree.from_dict(result)
    made.attrs.update(tree.attrs)
    return made


def size_of(tree: xr.DataTree) -> int:
    """S, the number of draws, chains joined."""
    return int(tree["posterior"].sizes["chain"] * tree["posterior"].sizes["draw"])
