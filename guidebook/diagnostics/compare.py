"""The making of a comparison: every approximation judged, and what is shown of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from guidebook.diagnostics.amortized.assess import assess_rows
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.uses import CODES, MODEL
from guidebook.diagnostics.assess import assess, refused
from guidebook.diagnostics.compared import Compared, size_of, thinned
from guidebook.diagnostics.evidence.subject import Effort
from guidebook.diagnostics.inputs import (
    alike,
    amortized_of,
    as_tree,
    density_of,
    kept_apart,
    named,
    of_these,
    standard,
)
from guidebook.diagnostics.judging.assessment import NUMBERS, Assessment
from guidebook.diagnostics.judging.findings import Judgement
from guidebook.diagnostics.measures.forms import elbo_forms
from guidebook.diagnostics.numerics.basins import Basins, search
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.numerics.modes import STARTS
from guidebook.diagnostics.numerics.psis import khat_limit
from guidebook.diagnostics.rescue import rescued
from guidebook.errors import DataError, GuidebookError
from guidebook.inference.fits.fit import Fit
from guidebook.programs.data import number_of_rows, same_arguments

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


Say = Callable[[str], None]
"""Told every stage of a comparison, in a few words, before it begins."""
SHOWN_DRAWS = 4000
PREDICTED_DRAWS, PREDICTED_ROWS = 400, 20_000


def compared(
    fits: Mapping[str, Fit | xr.DataTree],
    reference: str | Fit | xr.DataTree | None = None,
    seed: int = 0,
    labels: Any = None,
    held_out: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Calibration] | None = None,
    effort: Effort = "full",
    say: Say = lambda stage: None,
) -> Compared:
    """What `guidebook.compare` documents, as a value."""
    given = named(fits, reference)
    calibrations = of_these(calibration, given)
    name_of_reference = _name_of(reference)
    amortized = amortized_of(given, labels, held_out)
    plain = {n: f for n, f in given.items() if n not in amortized}
    _share_recordings(plain, say)
    trees, unsound = _sound(plain, name_of_reference, seed, len(given) == 1, effort)
    plain = {n: plain[n] for n in trees}
    alike(trees, given)
    rows = _assessed(trees, plain, name_of_reference, seed, calibrations, effort, say)
    by_row = _by_row(amortized, seed, labels, held_out, calibrations, effort, say)
    rows |= {n: a for n, (a, _) in by_row.items()} | unsound
    rows = {n: rows[n] for n in given}
    shown = _with_predictions(_shown(trees), given, seed, say)
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
        khat_limits={n: khat_limit(size_of(t)) for n, t in trees.items()},
        matched=_matched(rows, shown),
        fits={n: one for n, one in given.items() if isinstance(one, Fit)},
        calibrations=calibrations,
    )


def _by_row(
    amortized: Mapping[str, Fit],
    seed: int,
    labels: Any,
    held_out: Mapping[str, Any] | None,
    calibrations: Mapping[str, Calibration],
    effort: Effort,
    say: Say,
) -> dict[str, tuple[Assessment, AmortizedNumbers]]:
    """Every amortised approximation judged, with its numbers."""
    found = {}
    for name, fit in amortized.items():
        say(f"judging {name}, row by row")
        kept = kept_apart(name, fit, held_out)
        found[name] = assess_rows(fit, seed, labels, kept, calibrations.get(name), effort)
    return found


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
    say: Say,
) -> dict[str, Assessment]:
    """Every global approximation judged, the reference first: the others are held against it."""
    if trees:
        say("searching for modes")
    basins = _basins_of(given, seed, STARTS[effort])
    rows: dict[str, Assessment] = {}
    against = None
    for name in sorted(trees, key=lambda n: n != reference):
        fit = given[name] if isinstance(given[name], Fit) else None
        say(f"judging {name}")
        told = (trees[name], fit, against, basins.get(name), seed)
        found = assess(*told, calibration=calibrations.get(name), effort=effort)
        rows[name] = rescued(found, *told) if effort == "full" else found
        if name == reference:
            verdict = rows[name].judgement.verdict
            against = standard(name, given[name], trees[name], verdict)
    return rows


def _share_recordings(fits: Mapping[str, Any], say: Say) -> None:
    """Fits of one density evaluate one recording of it: recording takes longer than many evaluations."""
    if fits:
        say("draws of every approximation, and the densities there")
    firsts: list[Fit] = []
    for one in fits.values():
        if not isinstance(one, Fit) or not one.approximation.has_joint:
            continue
        same = (f for f in firsts if _same_density(f, one) and _alike(f, one))
        first = next(same, None)
        if first is None:
            firsts.append(one)
        else:
            one.approximation.keep(first.potential)


def _alike(one: Fit, other: Fit) -> bool:
    """Whether both are of the same coordinates, in one precision and on one device."""
    first, second = (
        (
            [(site.name, site.size) for site in a.sites],
            a.dtype,
            {value.device for value in a.tensors.values() if isinstance(value, Tensor)},
        )
        for a in (one.approximation, other.approximation)
    )
    return first == second


def _basins_of(fits: Mapping[str, Any], seed: int, starts: int) -> dict[str, Basins | None]:
    """The basins of every fit's density: fits of one model with the same arguments share one search."""
    searched: list[tuple[Fit, Basins]] = []
    basins: dict[str, Basins | None] = {}
    for name, one in fits.items():
        if not isinstance(one, Fit) or not one.approximation.has_joint:
            continue
        if one.approximation.kind == "point":
            continue
        known = (b for fit, b in searched if _same_density(fit, one))
        found = next(known, None)
        if found is None:
            found = search(one, seed, starts)
            if found is not None:
                searched.append((one, found))
        basins[name] = found
    return basins


def _same_density(one: Fit, other: Fit) -> bool:
    assert one.data is not None and other.data is not None
    return density_of(one) == density_of(other) and same_arguments(one.data, other.data)


# outputs -----------------------------------------------------------------------------------------


def _shown(trees: Mapping[str, xr.DataTree]) -> dict[str, tuple[xr.DataTree, np.ndarray]]:
    """All trees at one size and with the parameters they share, and which draws those are."""
    if not trees:
        return {}
    sizes = {n: size_of(t) for n, t in trees.items()}
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


def _with_predictions(
    shown: dict[str, tuple[xr.DataTree, np.ndarray]], given: Mapping[str, Any], seed: int, say: Say
) -> dict[str, tuple[xr.DataTree, np.ndarray]]:
    """What is shown, with predictions added."""
    say("numbers for the figures")
    for name, (tree, _) in shown.items():
        _add_predictions(tree, given[name], seed)
    return shown


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
        size = size_of(drawn)
        index = np.linspace(0, size - 1, min(size, PREDICTED_DRAWS)).round().astype(int)
        group = thinned(drawn, index)["posterior_predictive"].to_dataset()
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
