"""A fit as an ArviZ DataTree: draws, densities, gradients, data and history."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from guidebook.errors import DataError, GuideError
from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.running import MOST, check_whole
from guidebook.inference.fits.status import Record
from guidebook.programs.data import number_of_rows, takes
from guidebook.programs.graphs.recorded import eager, recording
from guidebook.programs.labels import log_labellings
from guidebook.programs.nodes import log_likelihoods
from guidebook.programs.sites import Substitute, coordinate_names
from guidebook.programs.values.labelled import Labelled
from guidebook.scope import alone, local_parameters, precision, random_state

if TYPE_CHECKING:
    import xarray as xr

Arrays = dict[str, np.ndarray]
COORDINATE = "unconstrained_dim"
"""Of the group unconstrained; a name that no plate of a user's model will have."""

LARGEST_UNCONSTRAINED = 2000
"""Dimension up to which the group unconstrained is made: it doubles what a tree holds."""

LARGEST_CONSTANT = 10_000_000
"""Numbers of an argument up to which constant_data repeats it."""

OF_DRAWS = ("chain", "draw", "sample")
"""Dimensions of the draws in every group; a plate of such a name has another one there."""

DATA_GROUPS = ("observed_data", "constant_data")


@alone()  # ArviZ, too, changes the warning filters of the process
def to_datatree(
    approximation: Approximation, record: Record, draws: int, seed: int,
    log_likelihood: bool = False, posterior_predictive: bool = False,
) -> xr.DataTree:  # fmt: skip
    """The groups that `Fit.posterior` documents."""
    check_whole(draws=(draws, 1, MOST), seed=(seed, 0))
    draws, seed = int(draws), int(seed)
    if approximation.has_joint:
        groups, u = _with_joint(approximation, draws, seed)
    else:
        groups, u = _without_joint(approximation, draws, seed), torch.zeros(0)
    chains = next(iter(groups["posterior"].values())).shape[:2]
    if "diverging" in record.notes:
        groups["sample_stats"]["diverging"] = np.asarray(record.notes["diverging"])
    if log_likelihood:
        groups["log_likelihood"] = _grouped(_log_likelihood(approximation, u), chains)
    if posterior_predictive:
        groups["posterior_predictive"] = _grouped(replicated(approximation, u, seed), chains)
    coords = _row_labels(approximation)
    if "unconstrained" in groups:
        coords[COORDINATE] = coordinate_names(approximation.sites)
    tree = _assembled(groups, _dimensions(approximation, groups), coords)
    _add_record(tree, approximation, record)
    return tree


def _with_joint(
    approximation: Approximation, draws: int, seed: int
) -> tuple[dict[str, Arrays], Tensor]:
    """The groups of draws and data, and the positions (S, D) of all draws."""
    potential = approximation.potential
    u, log_q = approximation.draw(draws, seed)
    chains, flat = tuple(u.shape[:2]), u.reshape(-1, u.shape[-1])
    grad: Tensor | None = None
    if u.shape[-1] <= LARGEST_UNCONSTRAINED and not approximation.discrete:
        log_joint, log_det, grad, values = potential.everything(flat)
    else:
        (log_joint, log_det), values = potential(flat), potential.constrain(flat)
    groups = {"posterior": _grouped(values, chains)}
    stats = {"lp": log_joint + log_labellings(approximation.model)}
    if log_q is not None:
        stats["log_q"] = log_q.reshape(-1) - log_det
    groups["sample_stats"] = _grouped(stats, chains)
    if grad is not None:
        groups["unconstrained"] = _grouped({"position": flat, "gradient": grad}, chains)
    return groups | _data_groups(approximation), flat


def _without_joint(approximation: Approximation, draws: int, seed: int) -> dict[str, Arrays]:
    values, log_q = approximation.draw_values(draws, seed)
    stats = {} if log_q is None else {"log_q": log_q}
    chains = (1, draws)
    return {"posterior": _grouped(values, chains), "sample_stats": _grouped(stats, chains)}


def _assembled(
    groups: dict[str, Arrays], dims: dict[str, dict[str, list[str]]], coords: dict[str, Any]
) -> xr.DataTree:
    import xarray as xr
    from arviz_base import dict_to_dataset

    made = {}
    for name, values in sorted(groups.items(), key=lambda group: group[0] in DATA_GROUPS):
        if values:
            of_draws: Any = [] if name in DATA_GROUPS else ["chain", "draw"]
            own: Any = dims[name]
            made[name] = dict_to_dataset(values, dims=own, coords=coords, sample_dims=of_draws)
    return xr.DataTree.from_dict(made)


def _add_record(tree: xr.DataTree, approximation: Approximation, record: Record) -> None:
    """The group vi_fit: what a file says of the fit to those who have the file alone."""
    import xarray as xr
    from arviz_base import dict_to_dataset

    history = {"objective": record.history}
    data = dict_to_dataset(history, dims={"objective": ["step"]}, sample_dims=[])
    tree["vi_fit"] = xr.DataTree(data)
    plain = {k: v for k, v in record.notes.items() if isinstance(v, (str, int, float, list, bool))}
    guide = approximation.guide
    tree["vi_fit"].attrs.update(
        {
            "kind": approximation.kind,
            "status": record.status.name,
            "seed": record.seed,
            "seconds": record.seconds,
            "engine": record.engine,
            "family": getattr(guide, "family", "") or type(guide).__name__,
            "notes": json.dumps(plain),
            "discrete": int(approximation.discrete),
        }
    )
    tree.attrs.update({"created_by": "guidebook", "engine": record.engine})


# groups -----------------------------------------------------------------------------------------


def _grouped(values: dict[str, Tensor], chains: tuple[int, ...]) -> Arrays:
    return {n: _numpy(v).reshape(*chains, *v.shape[1:]) for n, v in values.items()}


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def _data_groups(approximation: Approximation) -> dict[str, Arrays]:
    potential = approximation.potential
    with (
        local_parameters(), precision(potential.dtype), random_state(0), torch.no_grad(), Substitute(),
    ):  # fmt: skip
        trace = poutine.trace(potential.model).get_trace(**potential.data)
    observed = {n: _seen(trace.nodes[n]).detach().cpu().numpy() for n in potential.observed}
    seen = {id(trace.nodes[n]["value"]) for n in potential.observed}
    rest = {
        name: value.detach().cpu().numpy()
        for name, value in potential.data.items()
        if isinstance(value, Tensor)
        and id(value) not in seen
        and name not in observed
        and name not in potential.plates
        and value.numel() <= LARGEST_CONSTANT
    }
    return {"observed_data": observed, "constant_data": rest}


def _seen(node: Any) -> Tensor:
    """What a site observes, NaN where the model masks it."""
    value, mask = node["value"], node["mask"]
    if mask is None or not value.is_floating_point():
        return value
    mask = torch.as_tensor(mask, device=value.device)
    mask = mask.reshape((*mask.shape, *[1] * node["fn"].event_dim))
    return value.where(mask, math.nan)


def _row_labels(approximation: Approximation) -> dict[str, Any]:
    """The labels that came with the data, by plate: the one of their name, else the one of their length."""
    if not isinstance(approximation.data, Labelled) or not approximation.has_joint:
        return {}
    sizes = approximation.potential.plate_sizes
    found: dict[str, Any] = {}
    for name, labels in approximation.data.labels:
        same = [plate for plate, size in sizes.items() if size == len(labels)]
        if name is not None and name in same:
            found[_dimension(name)] = labels
        elif len(same) == 1:
            found.setdefault(_dimension(same[0]), labels)
    return found


def _dimensions(
    approximation: Approximation, groups: dict[str, Arrays]
) -> dict[str, dict[str, list[str]]]:
    """ArviZ dimension names by group: those of the plates, then {site}_dim_{i}."""
    sites = approximation.sites
    events = {site.name: site.event_dim for site in sites}
    plates = {s.name: tuple((name, dim) for name, dim, _ in s.plates) for s in sites}
    sizes: dict[str, int] = {}
    if approximation.has_joint:  # of observed and deterministic sites too
        plates, sizes = approximation.potential.plates, approximation.potential.plate_sizes
    dims: dict[str, dict[str, list[str]]] = {}
    for group, values in groups.items():
        own = dims[group] = {}
        for name, value in values.items():
            shape = value.shape if group in DATA_GROUPS else value.shape[2:]
            if plates.get(name):
                frames = [(_dimension(plate), dim, sizes.get(plate)) for plate, dim in plates[name]]
                own[name] = _labels(name, shape, frames, events.get(name))
    if "unconstrained" in groups:
        dims["unconstrained"] = {"position": [COORDINATE], "gradient": [COORDINATE]}
    return dims


def _dimension(plate: str) -> str:
    """The dimension of a plate: its name, without '/'; or chain_plate, draw_plate, sample_plate."""
    return f"{plate}_plate" if plate in OF_DRAWS else plate.replace("/", ".")


def _labels(
    name: str, shape: tuple[int, ...], plates: list[tuple[str, int, int | None]], event: int | None
) -> list[str]:
    """The dimensions of one site; without its event dimensions, all left of its plates' are. Those of plates,
    each (dimension, dim, size), that were summed over are not the plates' any more.
    """
    if event is None:
        event = max(0, len(shape) + min(dim for _, dim, _ in plates))
    labels = [f"{name}_dim_{i}" for i in range(len(shape))]
    for plate, dim, size in plates:
        place = len(shape) - event + dim
        if 0 <= place < len(shape) and size in (None, shape[place]):
            labels[place] = plate
    return labels


def _log_likelihood(approximation: Approximation, u: Tensor) -> dict[str, Tensor]:
    potential = approximation.potential

    def collect(trace: Any) -> dict[str, Tensor]:
        return log_likelihoods(trace, potential.observed, potential.plate_nesting)

    return potential.replay("log_likelihood", collect, u)


def replicated(approximation: Approximation, u: Tensor, seed: int) -> dict[str, Tensor]:
    """Replicated data: the model at the draws with its observed arguments left out."""
    potential = approximation.potential
    with (
        local_parameters(), precision(potential.dtype), random_state(0), torch.no_grad(), Substitute(),
    ):  # fmt: skip
        trace = poutine.trace(potential.model).get_trace(**potential.data)
    values = {id(trace.nodes[n]["value"]): n for n in potential.observed}
    given = {k for k, v in potential.data.items() if id(v) in values or k in potential.observed}
    if not given:
        raise DataError(
            "No argument of the model is the observed value of a site, so it cannot be left out "
            "to simulate. Write the model with y=None and obs=y."
        )
    data = {k: None if k in given else v for k, v in potential.data.items()}
    if takes(potential.model, "size") and not any(isinstance(v, Tensor) for v in data.values()):
        data["size"] = number_of_rows(potential.data)  # nothing else tells how many rows to draw

    def simulate(position: Tensor) -> dict[str, Tensor]:
        with _Latents(position, {s.name for s in approximation.sites}):
            trace = poutine.trace(potential.model).get_trace(**data)
        return {n: trace.nodes[n]["value"] for n in potential.observed}

    pieces = []
    with (
        local_parameters(), precision(potential.dtype), random_state(seed), torch.no_grad(),
    ):  # fmt: skip
        for piece in u.split(potential.chunk):
            try:
                pieces.append(_each(simulate, piece))
            except Exception as error:  # whatever the user's model does without its data
                raise GuideError(
                    f"The model cannot simulate with {sorted(given)} left out: {error}. Write it so "
                    "that its observed arguments may be None."
                ) from error
    return {n: torch.cat([p[n] for p in pieces]) for n in pieces[0]}


def _each(simulate: Callable[[Tensor], dict[str, Tensor]], u: Tensor) -> dict[str, Tensor]:
    """The simulations at u (S, D), stacked in front; draw by draw where they cannot be vectorised."""
    try:
        with recording():
            return torch.func.vmap(simulate, randomness="different")(u)
    except Exception:
        with eager():
            singles = [simulate(position) for position in u]
        return {n: torch.stack([one[n] for one in singles]) for n in singles[0]}


class _Latents(Substitute):
    """Substitutes latent sites only; observed sites without a value are drawn."""

    def __init__(self, position: Tensor, names: set[str]) -> None:
        super().__init__(position)
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            super()._pyro_sample(msg)
