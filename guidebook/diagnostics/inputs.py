"""What is given to `compare`: checked, named, and brought to draws."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from guidebook.diagnostics.amortized.rows import is_amortized, observed, reads
from guidebook.diagnostics.evidence.subject import Effort, Reference, marginals_of
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.numerics.psis import psis
from guidebook.diagnostics.trees import check_supports, readable
from guidebook.diagnostics.witnesses.chains import effective_draws
from guidebook.diagnostics.witnesses.importance import REWEIGHT_SHARE
from guidebook.errors import DataError, NameNotFound, nearest, printable
from guidebook.inference.fits.fit import Fit
from guidebook.programs.data import check, has_rows, number_of_rows
from guidebook.programs.owned import Owned
from guidebook.programs.values.fingerprint import fingerprint

if TYPE_CHECKING:
    import xarray as xr

MOST_DRAWS, LEAST_DRAWS = 20_000, 4000
HELD, COMPUTED = 1e-6, 1e-5
"""The same data differ by less: relatively, as rounded to float32; and in units of the largest number, as
computed in float32."""
WORK = 2_000_000_000
"""Numbers computed for the draws of one fit: some seconds."""
AFRESH = 4
"""Times the draws, where k-hat of the first ones is within its error of the limit: as its tail is that of
3 sqrt S weights, its error falls by sqrt 2."""


def named(fits: Any, reference: Any) -> dict[str, Any]:
    """Name to Fit or DataTree, the reference among them. Raises DataError, NameNotFound."""
    if not isinstance(fits, Mapping) or not fits:
        raise DataError("Give a dict of at least one approximation: compare({'name': fit, ...}).")
    given = dict(fits)
    for name in given:
        if not isinstance(name, str):
            raise DataError(f"An approximation is named {name!r}: give names of type str.")
    if isinstance(reference, str) and reference not in given:
        raise NameNotFound(
            f"The reference {reference!r} is not among the approximations. {nearest(reference, given)}"
        )
    if reference is not None and not isinstance(reference, str):
        if "reference" in given:
            raise DataError("An approximation is called 'reference': rename it.")
        given["reference"] = reference
    for name, one in given.items():
        if not isinstance(one, Fit):
            given[name] = readable(name, one)
    return given


def of_these(calibration: Any, given: Mapping[str, Any]) -> dict[str, Calibration]:
    """Calibrations by the name of the approximation they are of. Raises DataError, NameNotFound."""
    if calibration is None:
        return {}
    if not isinstance(calibration, Mapping):
        raise DataError(
            "calibration must be a dict from the name of an approximation to what gb.calibrate returned "
            f"for its engine and guide, not {type(calibration).__name__}."
        )
    for name, one in calibration.items():
        if name not in given:
            raise NameNotFound(
                f"The calibration of {name!r} is of none of the approximations. {nearest(name, given)}"
            )
        if not isinstance(one, Calibration):
            raise DataError(
                f"The calibration of '{name}' is a {type(one).__name__}: give what gb.calibrate returned."
            )
    return dict(calibration)


def amortized_of(given: Mapping[str, Any], labels: Any, held_out: Any) -> dict[str, Fit]:
    """Of these the amortised fits. Labels and rows kept apart warn where they have no use.

    Raises DataError where they are none.
    """
    amortized = {n: f for n, f in given.items() if isinstance(f, Fit) and is_amortized(f)}
    if held_out is not None and not isinstance(held_out, Mapping):
        raise DataError(
            f"held_out is {held_out!r:.80}: give a dict of the model's keyword arguments for rows that were "
            "not trained on."
        )
    rows = {name: len(observed(fit)) for name, fit in amortized.items()}
    shape = None if labels is None else np.shape(labels)
    if shape is not None and (len(shape) != 1 or any(shape[0] != n for n in rows.values())):
        of = "".join(f"; the data of '{name}' have {n:,} rows" for name, n in rows.items())
        raise DataError(f"labels have shape {shape}: give one a row of the data, (n,){of}.")
    useless = [n for n, v in (("labels", labels), ("held_out", held_out)) if v is not None]
    if useless and not amortized:
        warnings.warn(
            f"No use is made of {' and '.join(useless)}: they are for fits of a guide that gives every row a "
            "posterior of its own, and there is none. Leave them out.",
            stacklevel=4,  # compare's caller
        )
    return amortized


def kept_apart(name: str, fit: Fit, held_out: Any) -> Any:
    """What the guide reads of the rows kept apart; None where there are none."""
    if held_out is None:
        return None
    if reads(fit) not in held_out:
        raise DataError(
            f"The guide of '{name}' reads {reads(fit)!r}, which held_out does not hold: give a dict of "
            "the model's keyword arguments for rows that were not trained on."
        )
    check({reads(fit): held_out[reads(fit)]})
    return held_out[reads(fit)]


def as_tree(name: str, one: Any, seed: int, effort: Effort = "full") -> xr.DataTree:
    """Draws in ArviZ's groups: as many as are cheap, and where they leave k-hat undecided four times as
    many, drawn afresh; 4,000 where the effort is quick. Raises DataError where some are not finite.
    """
    if isinstance(one, Fit):
        tree = one.posterior(LEAST_DRAWS, seed) if effort == "quick" else _drawn(one, seed)
    else:
        tree = one
    for variable, values in tree["posterior"].data_vars.items():
        if values.dtype.kind in "fc" and not bool(np.isfinite(values.values).all()):
            raise DataError(
                f"'{name}': draws of '{variable}' are not all finite (NaN or infinite). Remove those "
                "draws, or fit again."
            )
    return tree


def _drawn(fit: Fit, seed: int) -> xr.DataTree:
    """Draws of a fit; of a density, more of them where k-hat is within its error of its limit and enough
    of the draws are effective: else they would not be used whatever k-hat is.
    """
    draws = _affordable(fit)
    tree = fit.posterior(draws, seed)
    if fit.approximation.kind != "density" or not {"lp", "log_q"} <= _statistics(tree):
        return tree
    stats = tree["sample_stats"]
    found = psis((stats["lp"] - stats["log_q"]).values.reshape(-1))
    if found is None or not found.undecided or found.ess < REWEIGHT_SHARE * draws:
        return tree
    return fit.posterior(AFRESH * draws, (seed + 1) % 2**32)


def _affordable(fit: Fit) -> int:
    """50,000 draws, fewer where the data or the dimension are large."""
    potential = fit.potential
    most = min(MOST_DRAWS, WORK // potential.cost, 5_000_000 // max(1, potential.dimension))
    return int(max(LEAST_DRAWS, most))


def alike(trees: Mapping[str, xr.DataTree], given: Mapping[str, Any]) -> None:
    """Refuses approximations of different parameters, and of posteriors given different data."""
    same_parameters(trees)
    check_supports(trees, {n: one for n, one in given.items() if isinstance(one, Fit)})
    same_data(trees, given)


def same_parameters(trees: Mapping[str, xr.DataTree]) -> None:
    """Refuses approximations of different parameters, naming them."""
    if len(trees) < 2:
        return
    shapes = {
        name: {v: tuple(x.transpose("chain", "draw", ...).shape[2:])
               for v, x in tree["posterior"].data_vars.items()}
        for name, tree in trees.items()
    }  # fmt: skip
    common = set.intersection(*(set(s) for s in shapes.values()))
    if not common:
        raise DataError(
            "The approximations share no parameter: "
            + "; ".join(f"'{n}' has {sorted(map(str, s))}" for n, s in shapes.items())
            + ". Compare approximations of one model, with the same names."
        )
    first = next(iter(shapes))
    for name, own in shapes.items():
        for variable in common:
            if own[variable] != shapes[first][variable]:
                raise DataError(
                    f"Parameter '{variable}' has shape {own[variable]} in '{name}' and "
                    f"{shapes[first][variable]} in '{first}': they are not of one model."
                )
            _same_order(str(variable), first, trees[first], name, trees[name])
    odd = {n: sorted(map(str, set(s) - common)) for n, s in shapes.items() if set(s) - common}
    if odd and any(len(set(s)) != len(common) for s in shapes.values()):
        import warnings

        listed = "; ".join(f"'{n}': {v}" for n, v in odd.items())
        warnings.warn(
            printable(
                f"Parameters missing from some approximations are left out of the figures ({listed})."
            ),
            stacklevel=3,
        )


def _same_order(variable: str, first: str, one: xr.DataTree, name: str, other: xr.DataTree) -> None:
    """Refuses elements that are labelled alike and stand in another order: they are compared by place."""
    before, after = one["posterior"][variable], other["posterior"][variable]
    for dim, own in zip(before.dims[2:], after.dims[2:], strict=True):
        if dim not in before.coords or own not in after.coords:
            continue
        labels, others = before.indexes[dim], after.indexes[own]
        if not labels.equals(others) and sorted(map(str, labels)) == sorted(map(str, others)):
            raise DataError(
                f"Parameter '{variable}' has the labels of '{own}' in another order in '{name}' than in "
                f"'{first}'. Put them in one order: tree.isel({own}=order)."
            )


def same_data(trees: Mapping[str, xr.DataTree], given: Mapping[str, Any]) -> None:
    """Refuses approximations of posteriors given different data, naming the site or the argument.

    What a site observes is compared, by value: the type that held it, the name of the argument and the
    rest of the model may differ. Of fits of one model, arguments with as many rows are compared too; others
    (a scale of a prior) may differ on purpose. Fits and files that hold no data are not compared.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for name, tree in trees.items():
        observed = tree["observed_data"].data_vars if "observed_data" in tree.children else {}
        for site, values in observed.items():
            _same_values(seen, str(site), f"observed values of '{site}'", name, values.values)
    rows: dict[str, tuple[str, Any]] = {}
    for name, one in given.items():
        if isinstance(one, Fit) and one.data is not None:
            of = "" if is_amortized(one) else density_of(one)
            for argument, values in _by_row(one):
                _same_values(rows, f"{of} {argument}", f"rows of '{argument}'", name, values)


def _by_row(fit: Fit) -> Iterator[tuple[str, Any]]:
    """Arguments whose rows a fit has been given; of an amortised one that which its guide reads."""
    assert fit.data is not None
    count = number_of_rows(fit.data)
    read = {reads(fit)} if is_amortized(fit) else set(fit.data)
    for name, value in fit.data.items():
        if name in read and has_rows(value, count):
            yield name, value


def _same_values(
    seen: dict[str, tuple[str, Any]], key: str, what: str, name: str, values: Any
) -> None:
    first, before = seen.setdefault(key, (name, values))
    if before is values:  # the usual case, and rows may be many
        return
    before, values = _as_array(before), _as_array(values)
    one, other = before.reshape(-1), values.reshape(-1)
    if one.size == other.size:
        differ = np.flatnonzero(~_close(one, other))
        if not len(differ):
            return
        place = int(differ[0])
        apart = f"differ, first {one[place]} and {other[place]} at place {place}"
    else:
        apart = f"have the shapes {before.shape} and {values.shape}"
    raise DataError(
        f"'{first}' and '{name}' are fits of different data: the {what} {apart}. Verdicts compare "
        "approximations of one posterior: fit both to the same data, its rows in the same order."
    )


def _as_array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def _close(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two arrays agree as far as float32 may have held or computed them."""
    if one.dtype.kind not in "fiub" or other.dtype.kind not in "fiub":
        return one == other
    single = any(a.dtype.kind == "f" and a.dtype.itemsize < 8 for a in (one, other))
    one, other = one.astype(np.float64), other.astype(np.float64)
    largest = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return np.isclose(one, other, HELD, COMPUTED * largest if single else 0.0, equal_nan=True)


def density_of(fit: Fit) -> Hashable:
    """What fits share whose model is the same: each fit owns a copy. A function is itself; objects and
    modules are the same that are of the same classes and hold the same values; statements of parameters are
    their fit's own.
    """
    model = fit.model
    if isinstance(model, Owned) and not any(True for _ in model.parameters()):
        model = model.function[0]
    if isinstance(model, Owned) or inspect.isroutine(model):
        return id(model)
    parts = model.modules() if isinstance(model, nn.Module) else (model,)
    return (*map(type, parts), fingerprint(model))


def standard(name: str, given: Any, tree: xr.DataTree, verdict: Verdict) -> Reference:
    """The draws called `name` as what the others are compared with; sound where they are trusted."""
    sound = verdict is Verdict.TRUST
    if not isinstance(given, Fit) and "log_q" not in _statistics(tree):
        # draws brought as the reference without chains to check are taken at their word
        sound = sound or tree["posterior"].sizes["chain"] == 1
    return Reference(name, marginals_of(tree), effective_draws(tree), sound)


def _statistics(tree: xr.DataTree) -> set[str]:
    return (
        set(map(str, tree["sample_stats"].data_vars)) if "sample_stats" in tree.children else set()
    )
