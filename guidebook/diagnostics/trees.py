"""Draws from any tool: a DataTree in ArviZ's groups, checked, and brought to the one form that is judged.

Variables are put in the order (chain, draw, ...) as real numbers; groups are put in the order of the
posterior's draws by the labels of `chain` and `draw`. What has no clear meaning is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.distributions import constraints

from guidebook.diagnostics.evidence.record import record, scalar
from guidebook.diagnostics.numerics.real import check_each, real
from guidebook.errors import DataError
from guidebook.inference.fits.fit import Fit
from guidebook.programs.sites import Site

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SAMPLE = ("chain", "draw")
READ = {"sample_stats": ("lp", "log_q", "diverging"), "unconstrained": ("position", "gradient")}
"""Variables that verdicts rest on, by group, besides those of the posterior."""
SINGLE = 1e-6
"""By how much of its value a draw may pass a bound: rounding to float32."""
LARGEST = 1e150
"""Of a draw: the square of a larger one overflows."""

Labels = Mapping[str, "pd.Index[Any]"]


def readable(name: str, given: Any) -> xr.DataTree:
    """The draws called `name` in the form that is judged. Raises DataError for all that is not clear.

    Groups of draws of their own (predictions of fewer draws, a prior) are left out; groups without draws
    (data) are as they were.
    """
    import xarray as xr

    tree = _in_memory(name, _as_tree(name, given))
    posterior, labels = _posterior(name, tree)
    groups = {"posterior": posterior}
    for group, node in tree.children.items():
        if group in ("posterior", "vi_fit"):
            continue
        data = node.to_dataset()
        if not set(SAMPLE) & set(data.dims) and group not in READ:
            groups[group] = data
            continue
        found = _of_the_draws(name, group, data, posterior, labels)
        if found is not None:
            groups[group] = found
    if "unconstrained" in tree.children:
        _check_gradients(name, groups)
    if "vi_fit" in tree.children:
        groups["vi_fit"] = record(name, tree["vi_fit"].to_dataset())
    made = xr.DataTree.from_dict({f"/{group}": data for group, data in groups.items()})
    made.attrs.update(tree.attrs)
    return made


def _as_tree(name: str, given: Any) -> xr.DataTree:
    """A DataTree with a posterior; ArviZ's earlier InferenceData is converted."""
    if hasattr(given, "to_datatree"):
        given = given.to_datatree()
    groups = getattr(given, "children", None)
    if groups is not None and "posterior" in groups:
        return given
    remedy = "Convert it with arviz_base (from_dict, from_cmdstanpy, ...)."
    if groups is not None:
        remedy = (
            f"It has the groups {sorted(map(str, groups))}: call that of the draws 'posterior'."
        )
    elif isinstance(given, (str, os.PathLike)):
        remedy = "Read the file with xarray.open_datatree(path, engine='h5netcdf')."
    raise DataError(
        f"'{name}' is neither a Fit nor a DataTree with a posterior group, but a "
        f"{type(given).__name__}. {remedy}"
    )


def _in_memory(name: str, tree: xr.DataTree) -> xr.DataTree:
    """Values of a file that was opened lazily are read once, here."""
    try:
        return tree.compute()
    except Exception as error:  # whatever the library that reads the file raises
        raise DataError(
            f"'{name}' cannot be read from its file ({error}). Call load() while the file is open."
        ) from error


# the draws ---------------------------------------------------------------------------------------


def _posterior(name: str, tree: xr.DataTree) -> tuple[xr.Dataset, Labels]:
    """All variables of the posterior, and the labels that its draws had."""
    given = tree["posterior"].to_dataset()
    given = given.drop_vars([v for v, x in given.data_vars.items() if _event(x)])
    if not given.data_vars:
        raise DataError(f"'{name}': the posterior group holds no variable. Export the draws again.")
    for variable, values in given.data_vars.items():
        missing = [d for d in SAMPLE if d not in values.dims]
        if missing:
            raise DataError(
                f"'{name}': '{variable}' in posterior has the dimensions {list(values.dims)} and needs "
                f"'chain' and 'draw'. {_add_dimension(missing, given)}"
            )
    chains, draws = (given.sizes[d] for d in SAMPLE)
    if not chains * draws:
        raise DataError(
            f"'{name}': the posterior has draws {chains} x {draws} (chains x draws). Give at least one."
        )
    labels = {d: given.indexes[d] for d in SAMPLE if d in given.indexes}
    made = _in_order(given)
    for variable, values in made.data_vars.items():
        what = f"'{name}': draws of '{variable}' are"
        numbers = real(f"'{name}': '{variable}' in posterior", values.values)
        check_each(
            f"{what} not all finite (NaN or infinite)", "Remove those draws, or fit again.",
            numbers, np.isfinite,
        )  # fmt: skip
        check_each(
            f"{what} larger than {LARGEST:g}, so that their variance overflows",
            "Rescale the parameter.", numbers, lambda x: np.abs(x) <= LARGEST,
        )  # fmt: skip
        made[variable] = values.copy(data=numbers)
    library = scalar(made.attrs.pop("inference_library", ""))
    if isinstance(library, str) and library:
        made.attrs["inference_library"] = library
    return made, labels


def _event(values: xr.DataArray) -> bool:
    """Whether a variable is empty for its own shape, as `beta` of no covariates is."""
    return any(size == 0 for dim, size in values.sizes.items() if dim not in SAMPLE)


def _add_dimension(missing: list[str], given: xr.Dataset) -> str:
    if any(len(index.names) > 1 for index in given.indexes.values()):
        return "Take the stacked dimension apart with unstack()."
    if missing == ["chain"]:
        return "Use expand_dims('chain')."
    return "Rename the dimension that counts the draws to 'draw', or leave the variable out."


def _in_order(data: xr.Dataset) -> xr.Dataset:
    """Dimensions (chain, draw, ...), numbered; labels of other dimensions stay."""
    own = {d: np.arange(data.sizes[d]) for d in SAMPLE}
    aside = [c for c in data.coords if c not in data.dims]
    return (
        data.drop_vars([*aside, *SAMPLE], errors="ignore")
        .assign_coords(own)
        .transpose(*SAMPLE, ...)
    )


# groups of the same draws ------------------------------------------------------------------------


def _of_the_draws(
    name: str, group: str, data: xr.Dataset, posterior: xr.Dataset, labels: Labels
) -> xr.Dataset | None:
    """A group draw by draw as the posterior; None where nothing is read of it and its draws are others."""
    read = [v for v in READ.get(group, ()) if v in data.data_vars]
    missing = [v for v in READ[group] if v not in read] if group == "unconstrained" else []
    if missing:
        raise DataError(
            f"'{name}': the group unconstrained has no '{missing[0]}'. Give position and gradient, both of "
            "shape (chain, draw, D), or leave the group out with drop_nodes('unconstrained')."
        )
    for variable in read:
        _check_dimensions(name, group, variable, data[variable].dims)
    drawn = data[
        [v for v, x in data.data_vars.items() if set(SAMPLE) <= set(x.dims) and not _event(x)]
    ]
    wrong = _apart(drawn, posterior, labels) if drawn.data_vars else "no draws"
    if wrong:
        if read:
            raise DataError(
                f"'{name}': {group} has {wrong}. Every draw needs its own values: select the same draws in "
                f"both, or leave the group out with drop_nodes('{group}')."
            )
        return None
    for dim, index in labels.items():
        own = drawn.indexes.get(dim)
        if own is not None and not own.equals(index):
            drawn = drawn.isel({dim: own.get_indexer(index)})
    made = _in_order(drawn)
    for variable in read:
        made[variable] = made[variable].copy(data=_read(name, group, variable, made[variable]))
    return made


def _check_dimensions(name: str, group: str, variable: str, dims: tuple[Any, ...]) -> None:
    more = 1 if group == "unconstrained" else 0
    if not set(SAMPLE) <= set(dims) or len(dims) != len(SAMPLE) + more:
        shape = "(chain, draw, D)" if more else "(chain, draw)"
        raise DataError(
            f"'{name}': '{variable}' in {group} has the dimensions {list(dims)} and needs {shape}. "
            f"Reshape it, or leave it out with drop_vars('{variable}')."
        )


def _apart(data: xr.Dataset, posterior: xr.Dataset, labels: Labels) -> str:
    """In what the draws of a group are not those of the posterior, in words; "" where they are."""
    own, others = ([x.sizes[d] for d in SAMPLE] for x in (data, posterior))
    if own != others:
        return (
            f"draws {own[0]} x {own[1]} (chains x draws), the posterior {others[0]} x {others[1]}"
        )
    for dim, index in labels.items():
        found = data.indexes.get(dim)
        if found is None or found.equals(index):
            continue
        if not (found.is_unique and index.is_unique and set(found) == set(index)):
            return f"other labels of '{dim}' than the posterior"
    return ""


def _read(name: str, group: str, variable: str, values: xr.DataArray) -> np.ndarray:
    """Real numbers that a verdict may rest on."""
    what = f"'{name}': '{variable}' in {group}"
    if values.dtype.kind == "b" and variable != "diverging":
        raise DataError(f"{what} is of true and false. Give the numbers it stands for.")
    numbers = real(what, values.values)
    if variable == "lp":  # -inf is a draw of density zero
        remedy = "Give log p(x, z) of every draw, or leave lp out."
        check_each(f"{what} is NaN or +inf", remedy, numbers, lambda x: x < math.inf)
    elif variable == "diverging":
        remedy = "Give whether each draw diverged."
        check_each(f"{what} is neither 0 nor 1", remedy, numbers, lambda x: (x == 0) | (x == 1))
    elif variable != "gradient":
        remedy = "Compute it again, or leave it out."
        check_each(f"{what} is not finite", remedy, numbers, np.isfinite)
    return numbers


def _check_gradients(name: str, groups: Mapping[str, xr.Dataset]) -> None:
    """A gradient that is not finite is that of a density of zero."""
    gradient = groups["unconstrained"]["gradient"].values
    stats = groups.get("sample_stats", {})
    zero = np.isneginf(stats["lp"].values)[..., None] if "lp" in stats else False
    check_each(
        f"'{name}': 'gradient' in unconstrained is not finite", "Compute it again, or leave the group out.",
        gradient, lambda x: np.isfinite(x) | zero,
    )  # fmt: skip


# draws beside a fit ------------------------------------------------------------------------------


def check_supports(trees: Mapping[str, xr.DataTree], fits: Mapping[str, Fit]) -> None:
    """Refuses draws outside the bounds that the model of a fit gives a site: they are not of that model."""
    for name in (n for n in trees if n not in fits):
        drawn = trees[name]["posterior"].data_vars
        for owner, fit in fits.items():
            for site in fit.sites:
                known = site.name in drawn and not site.varying
                if known and drawn[site.name].shape[2:] == tuple(site.shape):
                    _check_bounds(name, owner, site, drawn[site.name].values)


def _check_bounds(name: str, owner: str, site: Site, values: np.ndarray) -> None:
    """Of supports between two bounds, or above or below one."""
    support = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = (
        np.asarray(torch.as_tensor(getattr(support, bound, otherwise)).cpu())
        for bound, otherwise in (("lower_bound", -math.inf), ("upper_bound", math.inf))
    )
    slack = SINGLE * np.abs(values)
    check_each(
        f"'{name}': draws of '{site.name}' are outside the support {support} that '{owner}' has for it",
        "Export draws on the scale of the model's site, or under another name.",
        values, lambda x: (x >= low - slack) & (x <= high + slack),
    )  # fmt: skip
