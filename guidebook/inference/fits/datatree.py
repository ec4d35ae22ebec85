"""A fit as an ArviZ DataTree: draws, densities, gradients, data and history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.inference.fits.approximation import _draw_without_model, draw, is_discrete
from guidebook.programs.data import number_of_rows, takes
from guidebook.programs.graph import recording
from guidebook.programs.labels import (
    log_labellings,
)
from guidebook.programs.owned import Owned
from guidebook.programs.scope import local_parameters, precision, random_state
from guidebook.programs.sites import Substitute, coordinate_names

if TYPE_CHECKING:
    import xarray as xr

    from guidebook.inference.fits.fit import Fit


COORDINATE = "unconstrained_dim"
"""Of the group unconstrained; a name that no plate of a user's model will have."""


LARGEST_UNCONSTRAINED = 2000


LARGEST_CONSTANT = 10_000_000


def to_datatree(
    fit: Fit, draws: int, seed: int, *, log_likelihood: bool, posterior_predictive: bool
) -> xr.DataTree:
    """The groups that `Fit.posterior` documents."""
    import xarray as xr
    from arviz_base import dict_to_dataset, from_dict

    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < 1:
        raise SettingError(f"draws={draws!r} is out of range: give a whole number of at least 1.")
    groups: dict[str, dict[str, Any]] = {}
    known = fit.model is not None and fit.data is not None
    if known:
        u, log_q = draw(fit, draws, seed)
        chains: tuple[int, ...] = tuple(u.shape[:2])
        flat = u.reshape(-1, u.shape[-1])
        log_joint, log_det = fit.potential(flat)
        groups["posterior"] = _grouped(fit.potential.constrain(flat), chains)
        stats = {"lp": log_joint + log_labellings(fit.model)}
        if log_q is not None:
            stats["log_q"] = log_q.reshape(-1) - log_det
        groups["sample_stats"] = _grouped(stats, chains)
        if u.shape[-1] <= LARGEST_UNCONSTRAINED and not is_discrete(fit):
            _, grad = fit.potential.value_and_grad(flat)
            groups["unconstrained"] = _grouped({"position": flat, "gradient": grad}, chains)
        groups |= _data_groups(fit)
    else:
        values, log_q = _draw_without_model(fit, draws, seed)
        groups["posterior"] = _grouped(values, (1, draws))
        groups["sample_stats"] = {"log_q": _numpy(log_q)[None]}
        flat, chains = torch.zeros(0), (1, draws)
    diverging = fit.notes.get("diverging")
    if diverging is not None:
        groups["sample_stats"]["diverging"] = np.asarray(diverging)
    if log_likelihood:
        groups["log_likelihood"] = _grouped(_log_likelihood(fit, flat), chains)
    if posterior_predictive:
        groups["posterior_predictive"] = _grouped(_predictive(fit, flat, seed), chains)
    dims, coords = _dimensions(fit, groups)
    plain = {k: v for k, v in groups.items() if k not in ("observed_data", "constant_data")}
    tree = from_dict(plain, dims=dims, coords=coords)
    for name in ("observed_data", "constant_data"):
        if groups.get(name):
            kept = {k: dims.get(k, None) for k in groups[name]}
            data = dict_to_dataset(
                groups[name], dims={k: d for k, d in kept.items() if d}, sample_dims=[]
            )
            tree[name] = xr.DataTree(data)
    history = dict_to_dataset(
        {"objective": fit.history}, dims={"objective": ["step"]}, sample_dims=[]
    )
    tree["vi_fit"] = xr.DataTree(history)
    tree["vi_fit"].attrs.update(_attributes(fit))
    tree.attrs.update({"created_by": "guidebook", "engine": fit.engine})
    return tree


# groups -----------------------------------------------------------------------------------------


def _grouped(values: dict[str, Tensor], chains: Any) -> dict[str, np.ndarray]:
    return {n: _numpy(v).reshape(*chains, *v.shape[1:]) for n, v in values.items()}


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def _data_groups(fit: Fit) -> dict[str, dict[str, np.ndarray]]:
    potential = fit.potential
    with local_parameters(), precision(potential.dtype), torch.no_grad(), Substitute():
        trace = poutine.trace(fit.model).get_trace(**potential.data)
    observed = {n: trace.nodes[n]["value"].detach().cpu().numpy() for n in potential.observed}
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


def _dimensions(
    fit: Fit, groups: dict[str, Any]
) -> tuple[dict[str, list[str]], dict[str, list[Any]]]:
    """ArviZ dimension names: those of the plates, then {site}_dim_{i}."""
    dims: dict[str, list[str]] = {}
    coords: dict[str, list[Any]] = {}
    if fit.model is not None and fit.data is not None:
        plates = fit.potential.plates
        events = {site.name: site.event_dim for site in fit.sites}
    else:
        plates = {s.name: tuple((n, d) for n, d, _ in s.plates) for s in fit.sites}
        events = {s.name: s.event_dim for s in fit.sites}
    shapes = {
        n: (v.shape[2:] if g not in ("observed_data", "constant_data") else v.shape)
        for g, group in groups.items()
        for n, v in group.items()
    }
    for name, stack in plates.items():
        if name not in shapes or not stack:
            continue
        shape = shapes[name]
        event = events.get(name, max(0, len(shape) + min(d for _, d in stack)))
        labels = [f"{name}_dim_{i}" for i in range(len(shape))]
        for plate, dim in stack:
            place = len(shape) - event + dim
            if 0 <= place < len(shape):
                labels[place] = plate
        dims[name] = labels
    if "unconstrained" in groups:
        dims |= {"position": [COORDINATE], "gradient": [COORDINATE]}
        coords[COORDINATE] = coordinate_names(fit.sites)
    return dims, coords


def _attributes(fit: Fit) -> dict[str, str | int | float]:
    simple = {k: v for k, v in fit.notes.items() if isinstance(v, (str, int, float, list, bool))}
    return {
        "status": fit.status.name,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "engine": fit.engine,
        "family": getattr(fit.guide, "family", "") or type(fit.guide).__name__,
        "notes": json.dumps(simple),
        "discrete": int(is_discrete(fit)),
    }


def _log_likelihood(fit: Fit, u: Tensor) -> dict[str, Tensor]:
    potential = fit.potential

    def collect(trace: Any) -> dict[str, Tensor]:
        return {
            n: trace.nodes[n]["fn"].log_prob(trace.nodes[n]["value"]) for n in potential.observed
        }

    return potential.replay("log_likelihood", collect, u)


def _signed(model: Any) -> Any:
    """What has the model's own signature: a function below its owner of parameters."""
    return model.function[0] if isinstance(model, Owned) else model


def _predictive(fit: Fit, u: Tensor, seed: int) -> dict[str, Tensor]:
    """Replicated data: the model at the draws with its observed arguments left out."""
    potential = fit.potential
    with local_parameters(), precision(potential.dtype), torch.no_grad(), Substitute():
        trace = poutine.trace(fit.model).get_trace(**potential.data)
    values = {id(trace.nodes[n]["value"]): n for n in potential.observed}
    given = {k for k, v in potential.data.items() if id(v) in values or k in potential.observed}
    if not given:
        raise DataError(
            "No argument of the model is the observed value of a site, so it cannot be left out "
            "to simulate. Write the model with y=None and obs=y."
        )
    data = {k: None if k in given else v for k, v in potential.data.items()}
    if takes(_signed(fit.model), "size") and not any(isinstance(v, Tensor) for v in data.values()):
        data["size"] = number_of_rows(potential.data)  # nothing else tells how many rows to draw

    def simulate(position: Tensor) -> dict[str, Tensor]:
        with _Latents(position, {s.name for s in fit.sites}):
            trace = poutine.trace(fit.model).get_trace(**data)
        return {n: trace.nodes[n]["value"] for n in potential.observed}

    pieces = []
    with (
        local_parameters(), precision(potential.dtype), random_state(seed), torch.no_grad(),
        recording(),
    ):  # fmt: skip
        for piece in u.split(potential.chunk):
            try:
                pieces.append(torch.func.vmap(simulate, randomness="different")(piece))
            except Exception as error:  # whatever the user's model does without its data
                raise GuideError(
                    f"The model cannot simulate with {sorted(given)} left out: {error}. Write it so "
                    "that its observed arguments may be None."
                ) from error
    return {n: torch.cat([p[n] for p in pieces]) for n in pieces[0]}


class _Latents(Substitute):
    """Substitutes latent sites only; observed sites without a value are drawn."""

    def __init__(self, position: Tensor, names: set[str]) -> None:
        super().__init__(position)
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            super()._pyro_sample(msg)
