"""The plate of a guide over the rows that are present: the counterpart of the model's own plate."""

from __future__ import annotations

import pyro
import torch
from pyro.poutine.subsample_messenger import SubsampleMessenger

from guidebook.errors import GuideError


def rows(plate: str, present: int, size: int | None, device: torch.device) -> SubsampleMessenger:
    r"""The plate `plate` for `present` rows that stand for `size` rows (None: for themselves).

    log q(z | x) is scaled by size / present, as a mini-batch capable model scales log p(x, z), so
    that the mini-batch ELBO is an unbiased estimate of the whole one. Nothing random is drawn: the
    plate is told which positions of the batch are present.

    Raises GuideError if `size` is smaller than `present`.
    """
    if size is None or size == present:
        return pyro.plate(plate, present, device=device)
    if size < present:
        raise GuideError(
            f"size={size} is the number of rows of the whole data set, but {present} rows were "
            "given: pass size=None, or at least the number of rows given."
        )
    return pyro.plate(plate, size, subsample=torch.arange(present, device=device), device=device)
