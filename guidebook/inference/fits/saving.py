"""A fit as one file: tensors and plain values, no pickled code, no training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.guides.families import FAMILIES
from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.files import usable, write_atomically
from guidebook.inference.fits.status import Record
from guidebook.inference.fits.supports import encode_site, encode_support
from guidebook.programs.owned import Owned

FORMAT = "guidebook fit 1"


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
        "seed": record.seed,
        "seconds": record.seconds,
        "history": torch.from_numpy(np.ascontiguousarray(record.history)),
        "notes": json.dumps(dict(record.notes)),
        "sites": [encode_site(site) for site in approximation.sites],
        "draws": draws.cpu() if draws is not None else None,
        "draws_are": approximation.draws_are,
        "guide": _encode_guide(approximation.guide),
        "model": _state(approximation.model),
    }
    write_atomically(content, where)
    return where


def is_rebuilt(guide: Any) -> bool:
    """Whether `load` can make this guide itself: its class is one of the families' own.

    A user's class may have the name of a family, and a user's subclass more than its options say.
    """
    return FAMILIES.get(getattr(guide, "family", "")) is type(guide)


# guides -----------------------------------------------------------------------------------------


def _state(part: Any) -> dict[str, Tensor] | None:
    if isinstance(part, Owned):
        return None if not part.names else {n: part.value(n).detach() for n in part.names}
    return dict(part.state_dict()) if isinstance(part, nn.Module) else None


def _encode_guide(guide: Any) -> dict[str, Any] | None:
    """With "options" that of a guide which `load` makes itself, else of one that is given to it."""
    if guide is None:
        return None
    if is_rebuilt(guide):
        state = {k: v.detach().cpu() for k, v in guide.state_dict().items()}
        return {"family": guide.family, "options": dict(guide.options), "state": state}
    encoded: dict[str, Any] = {"family": type(guide).__name__, "state": _state(guide) or {}}
    if isinstance(guide, Owned):
        encoded["constraints"] = {n: encode_support(c) for n, c in guide.constraints.items()}
    return encoded
