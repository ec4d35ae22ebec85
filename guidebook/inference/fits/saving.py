"""A fit as one file: tensors and plain values, no pickled code, no training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guidebook.guides.autoguides.whitened import Whitened
from guidebook.inference.fits.files import usable, write_atomically
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.supports import _encode_site, _encode_support
from guidebook.programs.owned import Owned

FORMAT = "guidebook fit 1"


def save(fit: Fit, path: str | Path) -> Path:
    """Writes the fit; `load` reads it.

    Raises:
        FileError: the path cannot be written; nothing is left behind.
    """
    where = usable(path)
    assert where is not None
    content = {
        "format": FORMAT,
        "engine": fit.engine,
        "status": fit.status.name,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "history": torch.from_numpy(np.ascontiguousarray(fit.history)),
        "notes": json.dumps(dict(fit.notes)),
        "sites": [_encode_site(site) for site in fit.sites],
        "draws": fit.draws.cpu() if fit.draws is not None else None,
        "guide": _encode_guide(fit.guide),
        "model": _state(fit.model),
    }
    write_atomically(content, where)
    return where


# guides -----------------------------------------------------------------------------------------


def _state(part: Any) -> dict[str, Tensor] | None:
    if isinstance(part, Owned):
        return None if not part.names else {n: part.value(n).detach() for n in part.names}
    return dict(part.state_dict()) if isinstance(part, nn.Module) else None


def _encode_guide(guide: Any) -> dict[str, Any] | None:
    if guide is None:
        return None
    if isinstance(guide, Whitened):
        state = {k: v.detach().cpu() for k, v in guide.state_dict().items()}
        return {"family": guide.family, "options": dict(guide.options), "state": state}
    encoded: dict[str, Any] = {"family": type(guide).__name__, "state": _state(guide) or {}}
    if isinstance(guide, Owned):
        encoded["constraints"] = {n: _encode_support(c) for n, c in guide.constraints.items()}
    return encoded
