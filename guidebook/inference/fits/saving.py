"""A fit as one file: tensors and plain values, no pickled code, no training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from guidebook.guides.families import FAMILIES
from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.files import usable, write_atomically
from guidebook.inference.fits.status import Record
from guidebook.inference.fits.supports import encode_site, encode_support
from guidebook.programs.owned import STATEMENTS, Owned, statements_of

FORMAT = "guidebook fit 3"


def save(approximation: Approximation, record: Record, path: str | Path) -> Path:
    """Writes the fit; `load` reads it.

    Raises:
        FileError: the path cannot be written; nothing is left behind.
    """
    where = usable(path, "fit.save('{}')")
    draws = approximation.draws
    content = {
        "format": FORMAT,
        "engine": record.engine,
        "status": record.status.name,
        "seed": int(record.seed),
        "seconds": float(record.seconds),
        "history": torch.from_numpy(np.ascontiguousarray(record.history)),
        "notes": json.dumps(dict(record.notes)),
        "sites": [encode_site(site) for site in approximation.sites],
        "draws": draws.cpu() if draws is not None else None,
        "draws_are": approximation.draws_are,
        "guide": _encode_guide(approximation.guide),
        "model": _encode(approximation.model),
    }
    write_atomically(content, where)
    return where


def is_rebuilt(guide: Any) -> bool:
    """Whether `load` can make this guide itself: its class is one of the families' own.

    A user's class may have the name of a family, and a user's subclass more than its options say.
    """
    return FAMILIES.get(getattr(guide, "family", "")) is type(guide)


# model and guide --------------------------------------------------------------------------------


def _encode(part: Any) -> dict[str, Any]:
    """The state of a module, and what its pyro.param and pyro.module statements have made: parameters
    with their constraints, and buffers.
    """
    statements = statements_of(part)
    made = part.below if isinstance(part, Owned) else part
    state = made.state_dict() if isinstance(made, nn.Module) else {}
    encoded: dict[str, Any] = {
        "state": {n: v for n, v in state.items() if not n.startswith(f"{STATEMENTS}.")},
        "statements": {},
        "constraints": {},
    }
    if statements is not None:
        encoded["statements"] = statements.values()
        encoded["constraints"] = {n: encode_support(c) for n, c in statements.constraints.items()}
    return encoded


def _encode_guide(guide: Any) -> dict[str, Any] | None:
    """With "options" that of a guide which `load` makes itself, else of one that is given to it."""
    if guide is None:
        return None
    if is_rebuilt(guide):
        state = {k: v.detach().cpu() for k, v in guide.state_dict().items()}
        return {"family": guide.family, "options": dict(guide.options), "state": state}
    return {"family": type(guide).__name__, **_encode(guide)}
