"""The plate over the rows of a data set, of which a mini-batch may be all that is present."""

from __future__ import annotations

import pyro
import torch
from pyro.poutine.subsample_messenger import SubsampleMessenger

from guidebook.errors import SettingError


def rows(
    present: int, size: int | None, device: torch.device, plate: str = "row"
) -> SubsampleMessenger:
    r"""The plate `plate` for `present` rows that stand for `size` rows (None: for themselves).

    Log densities inside are multiplied by size / present. With B the mini-batch, an average over
    uniformly drawn B of

    .. math:: \frac{N}{|B|} \sum_{i \in B} \log p(x_i \mid z)

    is the sum over all N rows: the mini-batch objective is unbiased (Hoffman, Blei, Wang & Paisley,
    2013, Stochastic variational inference). A guide scales log q(z | x) in the same way. The plate
    gets the rows' positions in the batch, so it draws nothing: which rows are present is the
    engine's choice.

    Raises SettingError if `size` is smaller than `present`.
    """
    if size is None or size == present:
        return pyro.plate(plate, present, device=device)
    if size < present:
        raise SettingError(
            f"size={size} is the number of rows of the whole data set, but {present} rows were "
            "given: pass size=None, or at least the number of rows given."
        )
    return pyro.plate(plate, size, subsample=torch.arange(present, device=device), device=device)
