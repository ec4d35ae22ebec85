"""NEEDS A DOCSTRING: guidebook.inference.protocols.conjugate."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from guidebook.errors import DataError, GuideError
from guidebook.guides.conjugate.exponential_family import ExponentialFamily, kl_divergence
from guidebook.programs.rows import chunks

Natural = dict[str, Tensor]


START_ROWS = 20_000


@runtime_checkable
class ConditionallyConjugate(Protocol):
    """What `cavi` and `natural_svi` ask of a guide.

    Natural parameters, and expectations of statistics, are dicts of tensors (..., d) by block.
    """

    families: Mapping[str, ExponentialFamily]

    @property
    def prior(self) -> Natural:
        """Natural parameters of the prior of each block; the blocks are independent under it."""
        ...

    def initial_natural(self, sample: Any, count: int, seed: int) -> Natural:
        """Natural parameters to start from, of some rows that stand for `count`."""
        ...

    def expected(self, natural: Natural) -> Natural:
        """E_q[t] of each block."""
        ...

    def local(self, x: Tensor, expected: Natural) -> tuple[Tensor, Natural]:
        """The local bound of the rows x, summed, and its gradient by `expected`."""
        ...

    def adopt(self, natural: Natural) -> None:
        """Make these natural parameters those of the guide."""
        ...


METHODS = ("families", "prior", "initial_natural", "expected", "local", "adopt")


@torch.no_grad()
def whole_pass(
    guide: Any, natural: Natural, data: Mapping[str, Any], chunk: int, device: torch.device,
    stop: threading.Event,
) -> tuple[float, Natural] | None:  # fmt: skip
    """The ELBO at these natural parameters and the messages of all rows; None if interrupted."""
    expected, prior = guide.expected(natural), guide.prior
    total: Natural = {}
    elbo = -float(divergence(guide, natural, prior))
    for piece in chunks(data, chunk, device):
        if stop.is_set():
            return None
        bound, message = guide.local(observed(piece), expected)
        elbo += float(bound)
        total = {n: total[n].add_(m) for n, m in message.items()} if total else message
    return elbo, total


def divergence(guide: Any, natural: Natural, prior: Natural) -> Tensor:
    """KL(q || prior) over all blocks."""
    return torch.stack(
        [kl_divergence(guide.families[n], natural[n], prior[n]).sum() for n in natural]
    ).sum()


# shared by the conjugate engines -----------------------------------------------------------------


def structured(guide: Any, engine: str) -> None:
    """Raise GuideError if the guide is not `ConditionallyConjugate`."""
    missing = [name for name in METHODS if not hasattr(guide, name)]
    if missing:
        name = getattr(guide, "__name__", type(guide).__name__)
        raise GuideError(
            f"{engine} needs a guide that knows its complete conditionals, and {name} lacks "
            f"{', '.join(missing)}. For a Gaussian mixture there is gb.guides.MixtureMeanField; "
            "fit other models with svi."
        )


def observed(data: Mapping[str, Any]) -> Tensor:
    """The rows' array, `x` by the convention of the shelf, or the only tensor."""
    tensors = {n: v for n, v in data.items() if isinstance(v, Tensor)}
    if "x" in tensors:
        return tensors["x"]
    if len(tensors) != 1:
        raise DataError(f"data holds {sorted(tensors)}: the rows must be called 'x'.")
    return next(iter(tensors.values()))
