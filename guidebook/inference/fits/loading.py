"""A saved fit read back, with copies of what the file does not hold: model, data, a user's guide."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from guidebook.errors import FileError, GuideError, ModelError
from guidebook.guides.autoguides.whitened import Whitened
from guidebook.guides.families import FAMILIES
from guidebook.inference.fits.files import path_of, read
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.saving import FORMAT
from guidebook.inference.fits.status import Status
from guidebook.inference.fits.supports import decode_site, decode_support
from guidebook.programs.data import arguments, as_tensors
from guidebook.programs.owned import Owned, copied
from guidebook.programs.sites import Site
from guidebook.scope import local_parameters, precision, random_state

PARTS = (
    "engine", "status", "seed", "seconds", "history", "notes", "sites", "draws", "guide", "model",
)  # fmt: skip


def load(
    path: str | Path,
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Fit:
    """Reads a saved fit, running no code from the file.

    Arguments:
        model: the model function, or a module of the same architecture: it gets the saved
            parameters, in a copy.
        guide: for guides other than gb.guides: the same guide, untrained (an AmortizedNormal with
            the same encoder, a Pyro autoguide, a guide function). A guide that reads the model is
            made of the model given here, and then reads the copy with the saved parameters.
        data: the model's keyword arguments, needed for lp, gradients and predictions; draws of
            gb.guides need neither model nor data.

    Raises:
        FileError: missing, truncated, foreign or of a newer format.
        GuideError, ModelError: a guide or model that does not fit the file.
    """
    content = read(path_of(path, "gb.load('{}')"), FORMAT)
    missing = [part for part in PARTS if part not in content]
    if missing:
        raise FileError(f"'{path}' is damaged: it lacks {missing}. Save the fit again.")
    try:
        sites = tuple(decode_site(site) for site in content["sites"])
        status = Status[content["status"]]
        notes = json.loads(content["notes"])
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"'{path}' is damaged: {error}. Save the fit again.") from error
    if data is not None and model is not None:
        data = arguments(model, data)
    pair: tuple[Any, Any] = (model, guide)
    twin, given = copied(*pair)  # together, for guides that hold their model
    twin = _with_state(twin, content["model"])
    kept = content["guide"]
    if kept is None:
        restored = None
    elif "options" in kept:
        restored = _rebuilt(kept, sites, twin, path)
    else:
        restored = _given(kept, given, data)
    return Fit(
        twin, restored, data, content["history"].numpy(), status, content["seed"],
        content["seconds"], content["engine"], sites, content["draws"], notes,
        content.get("draws_are", "chains"),
    )  # fmt: skip


def _rebuilt(
    kept: dict[str, Any], sites: tuple[Site, ...], model: Any, path: str | Path
) -> Whitened:
    """A guide of gb.guides, made anew from its family, options and state."""
    if kept["family"] not in FAMILIES:
        raise FileError(
            f"'{path}' holds a guide of the family '{kept['family']}', which this Guidebook does not "
            "have: install the Guidebook that wrote it, or a newer one."
        )
    guide = FAMILIES[kept["family"]](model or _no_model, **kept["options"])
    with local_parameters():
        guide.restore(sites, like=kept["state"]["center"])
        guide.load_state_dict(kept["state"])
    _, guide = copied(guide.model, guide)
    return guide


def _no_model(**data: Any) -> None:
    raise ModelError("This fit was loaded without its model: gb.load(path, model=model).")


def _given(kept: dict[str, Any], guide: Any, data: Mapping[str, Any] | None) -> Any:
    """The guide, which is a copy of the caller's, with the saved parameters."""
    if guide is None:
        raise GuideError(
            f"The file holds the parameters of a guide of your own, {kept['family']}: give the same "
            "guide untrained, gb.load(path, guide=...)."
        )
    if "constraints" in kept:
        owned = guide if isinstance(guide, Owned) else Owned(guide)
        for name, value in kept["state"].items():
            owned.adopt(name, value, decode_support(kept["constraints"][name]))
        return owned
    return _with_state(guide, kept["state"], what="guide", data=data)


def _with_state(
    part: Any, state: dict[str, Tensor] | None, what: str = "model", data: Any = None
) -> Any:
    if part is None or not state:
        return part
    if not isinstance(part, nn.Module):
        owned = Owned(part)
        for name, value in state.items():
            owned.adopt(name, value, constraints.real)
        return owned
    if data is not None and not list(part.parameters()):
        dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float64)
        tensors = as_tensors(data, dtype, torch.device("cpu"))
        with local_parameters(), precision(dtype), random_state(0), torch.no_grad():
            part(**tensors)  # a lazy Pyro autoguide makes its parameters at the first call
    try:
        part.load_state_dict(state)
        part.eval()  # as svi hands it back
    except RuntimeError as error:
        kind = GuideError if what == "guide" else ModelError
        raise kind(
            f"The {what} given does not have the saved parameters ({str(error).splitlines()[-1].strip()}). "
            f"Give the {what} of the same architecture; a lazy Pyro autoguide needs data= too."
        ) from error
    return part
