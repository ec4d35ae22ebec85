"""Approximations side by side as a value: draws, weights, verdicts and numbers, without drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.diagnostics.amortized.assess import assess_rows
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.rows import is_amortized
from guidebook.diagnostics.amortized.uses import CODES, MODEL
from guidebook.diagnostics.assess import assess, refused
from guidebook.diagnostics.inputs import (
    as_tree,
    kept_apart,
    named,
    of_these,
    same_parameters,
    standard,
)
from guidebook.diagnostics.judging.assessment import NUMBERS, Assessment
from guidebook.diagnostics.judging.findings import Judgement, Verdict
from guidebook.diagnostics.measures.forms import elbo_forms
from guidebook.diagnostics.measures.identities import Bound
from guidebook.diagnostics.measures.leave_one_out import LeaveOneOut, leave_one_out
from guidebook.diagnostics.measures.sensitivity import Sensitivity, sensitivity
from guidebook.diagnostics.model_kinds.energy import EnergyNumbers, energy_numbers
from guidebook.diagnostics.model_kinds.mixtures import MixtureNumbers, mixture_numbers
from guidebook.diagnostics.numerics.basins import Basins, search
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.numerics.modes import STARTS
from guidebook.diagnostics.numerics.psis import khat_limit
from guidebook.diagnostics.rescue import rescued
from guidebook.diagnostics.structure import Structure, structure_of
from guidebook.diagnostics.witnesses.subject import Effort
from guidebook.errors import DataError, GuidebookError, NameNotFound, nearest
from guidebook.inference.fits.fit import Fit
from guidebook.programs.data import number_of_rows
from guidebook.programs.owned import Owned

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


COLUMNS = ("verdict", "reason", "next", "checks", *NUMBERS, "seconds", "engine")


SHOWN_DRAWS = 4000
PREDICTED_DRAWS, PREDICTED_ROWS = 400, 20_000


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
        """
        if name not in self.posteriors:
            raise NameNotFound(
                f"The comparison has no approximation {name!r}. {nearest(name, self.posteriors)}"
            )
        weights = self.weights[name]
        if weights is None:
            raise DataError(
                f"'{name}' has no importance weights, because lp or log_q is missing: give a Fit of a "
                "guide with a density, or draws whose sample_stats hold lp and log_q."
            )
        size = draws or len(weights)
        rng = np.random.default_rng(seed)
        # systematic resampling: the least noise (Kitagawa 1996)
        places = (rng.random() + np.arange(size)) / size
        index = np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1)
        return thinned(self._drawn(name), index)

    def __repr__(self) -> str:
        words = ", ".join(f"{name}: {v.value}" for name, v in self.verdicts.items())
        return f"{type(self).__name__}({words})"


def compared(
    fits: Mapping[str, Fit | xr.DataTree],
    reference: str | Fit | xr.DataTree | None = None,
    seed: int = 0,
    labels: Any = None,
    held_out: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Calibration] | None = None,
    effort: Effort = "full",
) -> Compared:
    """What `guidebook.compare` documents, as a value."""
    given = named(fits, reference)
    calibrations = of_these(calibration, given)
    name_of_reference = _name_of(reference)
    amortized = {n: f for n, f in given.items() if isinstance(f, Fit) and is_amortized(f)}
    plain = {n: f for n, f in given.items() if n not in amortized}
    trees, unsound = _sound(plain, name_of_reference, seed, len(given) == 1, effort)
    plain = {n: plain[n] for n in trees}
    same_parameters(trees)
    rows = _assessed(trees, plain, name_of_reference, seed, calibrations, effort)
    by_row = {n: assess_rows(f, seed, labels, kept_apart(n, f, held_out), calibrations.get(n), effort)
              for n, f in amortized.items()}  # fmt: skip
    rows |= {n: a for n, (a, _) in by_row.items()} | unsound
    rows = {n: rows[n] for n in given}
    shown = _shown(trees)
    for name, (tree, _) in shown.items():
        _add_predictions(tree, given[name], seed)
    first = next((f for f in given.values() if isinstance(f, Fit)), None)
    return Compared(
        table=_table(rows, {n: numbers.uses for n, (_, numbers) in by_row.items()}),
        verdicts={n: a.judgement.verdict for n, a in rows.items()},
        reference=name_of_reference,
        posteriors={n: t for n, (t, _) in shown.items()},
        weights={n: _weights_at(rows[n].weights, i) for n, (_, i) in shown.items()},
        histories={n: _history(given[n]) for n in given},
        khat_sites={n: a.khat_sites for n, a in rows.items()},
        witnesses={n: a.witnesses for n, a in rows.items()},
        model=first.model if first else None,
        data=first.data if first else None,
        amortized={n: numbers for n, (_, numbers) in by_row.items()},
        bounds=elbo_forms(plain, name_of_reference, seed) if effort == "full" else {},
        seed=seed,
        khat_limits={n: khat_limit(_size(t)) for n, t in trees.items()},
        matched=_matched(rows, shown),
        fits={n: one for n, one in given.items() if isinstance(one, Fit)},
        calibrations=calibrations,
    )


def _name_of(reference: Any) -> str | None:
    if reference is None or isinstance(reference, str):
        return reference
    return "reference"


def _sound(
    given: Mapping[str, Any], reference: str | None, seed: int, alone: bool, effort: Effort
) -> tuple[dict[str, xr.DataTree], dict[str, Assessment]]:
    """The draws of every approximation that has finite ones, and the others, rejected with the reason.

    Raises DataError where that is the reference, or there is no other.
    """
    trees: dict[str, xr.DataTree] = {}
    unsound: dict[str, Assessment] = {}
    for name, one in given.items():
        try:
            trees[name] = as_tree(name, one, seed, effort)
        except DataError as error:
            if alone or name == reference or not isinstance(one, Fit):
                raise
            unsound[name] = refused(one, str(error))
    return trees, unsound


def _assessed(
    trees: Mapping[str, xr.DataTree],
    given: Mapping[str, Any],
    reference: str | None,
    seed: int,
    calibrations: Mapping[str, Calibration],
    effort: Effort,
) -> dict[str, Assessment]:
    """Every global approximation judged, the reference first: the others are held against it."""
    basins = _basins_of(given, seed, STARTS[effort])
    rows: dict[str, Assessment] = {}
    against = None
    for name in sorted(trees, key=lambda n: n != reference):
        fit = given[name] if isinstance(given[name], Fit) else None
        told = (trees[name], fit, against, basins.get(name), seed)
        found = assess(*told, calibration=calibrations.get(name), effort=effort)
        rows[name] = rescued(found, *told) if effort == "full" else found
        if name == reference:
            verdict = rows[name].judgement.verdict
            against = standard(name, given[name], trees[name], verdict)
    return rows


def _density_of(fit: Fit) -> int:
    """What fits share whose model is the same function without parameters: each fit owns a copy."""
    model = fit.model
    if isinstance(model, Owned) and not any(True for _ in model.parameters()):
        return id(model.function[0])
    return id(model)


def _basins_of(fits: Mapping[str, Any], seed: int, starts: int) -> dict[str, Basins | None]:
    """The basins of every fit's density: fits of one model share one search."""
    found: dict[int, Basins | None] = {}
    basins: dict[str, Basins | None] = {}
    for name, one in fits.items():
        if not isinstance(one, Fit) or not one.approximation.has_joint:
            continue
        if one.approximation.kind == "point":
            continue
        model = _density_of(one)
        if found.get(model) is None:
            found[model] = search(one, seed, starts)
        basins[name] = found[model]
    return basins


# outputs -----------------------------------------------------------------------------------------


def thinned(tree: xr.DataTree, index: np.ndarray) -> xr.DataTree:
    """The draws of these places, chains joined, as one chain (1, S); groups with draws of their own,
    as predictions of fewer, are left out.
    """
    import xarray as xr

    result = {}
    for name, group in tree.children.items():
        data = group.to_dataset()
        if {"chain", "draw"} <= set(data.dims):
            if data.sizes["chain"] * data.sizes["draw"] != _size(tree):
                continue
            joined = data.stack(both=("chain", "draw")).isel(both=index)
            joined = joined.drop_vars(["both", "chain", "draw"], errors="ignore")
            joined = joined.rename_dims(both="draw").expand_dims(chain=[0])
            joined = joined.assign_coords(draw=np.arange(len(index)))
            data = joined.transpose("chain", "draw", ...)
        result[f"/{name}"] = data
    made = xr.DataTree.from_dict(result)
    made.attrs.update(tree.attrs)
    return made


def _shown(trees: Mapping[str, xr.DataTree]) -> dict[str, tuple[xr.DataTree, np.ndarray]]:
    """All trees at one size and with the parameters they share, and which draws those are."""
    if not trees:
        return {}
    sizes = {n: _size(t) for n, t in trees.items()}
    size = min([SHOWN_DRAWS, *sizes.values()])
    common = set.intersection(*(set(t["posterior"].data_vars) for t in trees.values()))
    shown = {}
    for name, tree in trees.items():
        index = np.linspace(0, sizes[name] - 1, size).round().astype(int)
        small = thinned(tree, index)
        extra = [v for v in small["posterior"].data_vars if v not in common]
        if extra:
            small["posterior"] = small["posterior"].to_dataset().drop_vars(extra)
        assert small["posterior"].sizes["draw"] == size
        shown[name] = small, index
    return shown


def _matched(
    rows: Mapping[str, Assessment], shown: Mapping[str, tuple[xr.DataTree, np.ndarray]]
) -> dict[str, xr.DataTree]:
    """The draws that moment matching moved, those at the places and of the parameters that are shown."""
    found = {}
    for name, (tree, index) in shown.items():
        matched = rows[name].matched
        if matched is not None:
            found[name] = thinned(matched, index)
            kept = list(tree["posterior"].data_vars)
            found[name]["posterior"] = found[name]["posterior"].to_dataset()[kept]
    return found


def _size(tree: xr.DataTree) -> int:
    """S, the number of draws, chains joined."""
    return int(tree["posterior"].sizes["chain"] * tree["posterior"].sizes["draw"])


def _add_predictions(tree: xr.DataTree, one: Any, seed: int) -> None:
    """Replicated data for the predictive check, where the model can simulate and they are few."""
    import xarray as xr

    if not isinstance(one, Fit) or "posterior_predictive" in tree.children:
        return
    if number_of_rows(one.data or {}) > PREDICTED_ROWS:
        return
    try:
        drawn = one.posterior(PREDICTED_DRAWS, seed, posterior_predictive=True)
    except GuidebookError:
        return
    group = drawn["posterior_predictive"].to_dataset()
    if group.sizes["chain"] > 1:
        group = thinned(drawn, np.arange(PREDICTED_DRAWS))["posterior_predictive"].to_dataset()
    tree["posterior_predictive"] = xr.DataTree(group)


def _weights_at(weights: np.ndarray | None, index: np.ndarray) -> np.ndarray | None:
    if weights is None:
        return None
    chosen = weights[index]
    return chosen / chosen.sum()


def _history(one: Any) -> np.ndarray:
    if isinstance(one, Fit):
        return one.history
    group = one.children.get("vi_fit")
    if group is None or "objective" not in group.data_vars:
        return np.empty(0)
    return group["objective"].values


def _table(
    rows: Mapping[str, Assessment], uses: Mapping[str, Mapping[str, Judgement]]
) -> pd.DataFrame:
    """One row an approximation: the columns of `COLUMNS`, and what else a witness gave a number for;
    of amortised ones the verdicts on model and codes, beside that on each row's posterior.
    """
    import pandas as pd

    more = [key for a in rows.values() for key in a.numbers if key not in NUMBERS]
    keys = list(dict.fromkeys([*NUMBERS, *more]))
    more_uses = [MODEL, CODES] if any(uses.values()) else []
    records = {
        name: {
            "verdict": a.judgement.verdict.value,
            "reason": a.judgement.reason,
            "next": a.judgement.next,
            "checks": a.checks,
            **{use: uses[name][use].verdict.value if uses.get(name) else "" for use in more_uses},
            **{key: a.numbers.get(key, math.nan) for key in keys},
            "seconds": a.seconds,
            "engine": a.engine,
        }
        for name, a in rows.items()
    }
    columns = ["verdict", "reason", "next", "checks", *more_uses, *keys, "seconds", "engine"]
    return pd.DataFrame.from_dict(records, orient="index", columns=columns)
