"""What the file of a fit must hold, looked at before any of it is used.

The checksum of a file says that it is as it was written. What is here says that what was written is a fit:
the parts there are, the type and the shape of each, and that they fit together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from guidebook.errors import FileError
from guidebook.inference.fits.status import Status
from guidebook.inference.fits.supports import decode_site, decode_support
from guidebook.programs.sites import Site

FIT: dict[str, Any] = {
    "format": str, "engine": str, "status": str, "seed": int, "seconds": float, "history": Tensor,
    "notes": str, "sites": list, "draws": (Tensor, NoneType), "draws_are": str,
    "guide": (dict, NoneType), "model": dict,
}  # fmt: skip
SITE: dict[str, Any] = {
    "name": str, "shape": list, "unconstrained_shape": list, "event_dim": int, "plates": list,
    "varying": bool, "support": (list, NoneType),
}  # fmt: skip
PART = {"state": Mapping, "statements": Mapping, "constraints": Mapping}
REBUILT = {"family": str, "options": Mapping, "state": Mapping}
GIVEN = {"family": str, **PART}


def damaged(path: str | Path, why: str) -> FileError:
    """The error of a file that was read and is no fit."""
    return FileError(f"'{path}' is damaged: {why}. Save the fit again.")


def checked(
    content: Mapping[str, Any], path: str | Path
) -> tuple[tuple[Site, ...], Status, dict[str, Any]]:
    """The sites, the status and the notes of a file's content, all of which is looked at.

    Raises:
        FileError: a part is missing, unknown, or of another type or shape; or two do not fit together.
    """
    try:
        _has("the file", content, FIT)
        status, notes = Status.__members__.get(content["status"]), json.loads(content["notes"])
        _need(status is not None, f"it has no status '{content['status']}'")
        _need(isinstance(notes, dict), "its notes are no dict")
        sites = tuple(_site(kept) for kept in content["sites"])
        _need(len({site.name for site in sites}) == len(sites), "two sites have one name")
        size = sum(site.size for site in sites)
        _arrays(content, size)
        _part("the model", content["model"], PART)
        guide = content["guide"]
        if guide is not None and "options" in guide:
            _has("the guide", guide, REBUILT)
            _rebuilt(guide["options"], guide["state"], size)
        elif guide is not None:
            _part("the guide", guide, GIVEN)
        else:
            _need(content["draws"] is not None, "it has neither a guide nor draws")
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise damaged(path, " ".join(str(error).split())[:200]) from error
    assert status is not None
    return sites, status, notes


def _need(fine: bool, why: str) -> None:
    if not fine:
        raise ValueError(why)


def _has(what: str, content: Any, kinds: Mapping[str, Any]) -> None:
    """ValueError where the entries of a mapping are not these, of these types."""
    _need(isinstance(content, Mapping), f"{what} is no dict")
    missing, unknown = sorted(set(kinds) - set(content)), set(content) - set(kinds)
    _need(not missing, f"{what} lacks {missing}")
    _need(not unknown, f"{what} holds {sorted(map(str, unknown))}, which mean nothing")
    for name, kind in kinds.items():
        value = content[name]
        boolean = isinstance(value, bool) and kind is not bool
        _need(isinstance(value, kind) and not boolean, f"'{name}' of {what} is a {_type(value)}")


def _type(value: Any) -> str:
    return type(value).__name__


def _site(kept: Any) -> Site:
    _has("a site", kept, SITE)
    name = kept["name"]
    sizes = [*kept["shape"], *kept["unconstrained_shape"]]
    _need(all(type(n) is int and n >= 0 for n in sizes), f"the shape of '{name}' is {sizes}")
    _need(0 <= kept["event_dim"] <= len(kept["shape"]), f"'{name}' has no such event dimensions")
    for plate in kept["plates"]:
        _need(
            isinstance(plate, list) and [type(one) for one in plate] == [str, int, int],
            f"a plate of '{name}' is {plate!r}",
        )
    return decode_site(kept)


def _arrays(content: Mapping[str, Any], size: int) -> None:
    history, draws = content["history"], content["draws"]
    _need(
        history.dim() == 1 and history.dtype == torch.float64, "its history is no vector of float64"
    )
    _need(content["draws_are"] in ("chains", "particles"), f"draws are {content['draws_are']!r}")
    if draws is not None:
        fine = draws.dim() == 3 and draws.is_floating_point() and draws.shape[-1] == size
        _need(
            fine, f"its draws have the shape {tuple(draws.shape)}, and its sites {size} coordinates"
        )
        _need(not bool(draws.isnan().any()), "its draws hold NaN")


def _tensors(what: str, state: Mapping[Any, Any]) -> None:
    for name, value in state.items():
        _need(isinstance(name, str), f"{what} has a parameter called {name!r}")
        _need(isinstance(value, Tensor), f"'{name}' of {what} is a {_type(value)} and no tensor")


def _part(what: str, kept: Any, kinds: Mapping[str, Any]) -> None:
    """What `saving` writes of a module or a function: tensors by name, constraints of some."""
    _has(what, kept, kinds)
    _tensors(what, kept["state"])
    _tensors(what, kept["statements"])
    for name, constraint in kept["constraints"].items():
        value = kept["statements"].get(name)
        _need(value is not None, f"{what} has a constraint of '{name}' and no such parameter")
        _need(value.is_floating_point(), f"'{name}' of {what} is in {value.dtype}")
        decode_support(constraint)


def _rebuilt(options: Mapping[str, Any], state: Mapping[str, Any], size: int) -> None:
    """What a guide of gb.guides is made of anew: the numbers of its options are no larger than its state,
    which is in one precision, over all coordinates, without NaN.
    """
    _tensors("the guide", state)
    entries = sum(value.numel() for value in state.values())
    for name, value in options.items():
        fine = value is None or (type(value) is int and 1 <= value <= entries)
        _need(isinstance(name, str) and fine, f"the option '{name}' of the guide is {value!r}")
    center = state["center"]
    _need(center.shape == (size,), f"the guide is not over the {size} coordinates of the sites")
    for name, value in state.items():
        fine = value.dtype in (center.dtype, torch.bool, torch.int64)
        _need(fine, f"'{name}' of the guide is in {value.dtype}")
        _need(not bool(value.isnan().any()), f"'{name}' of the guide holds NaN")
