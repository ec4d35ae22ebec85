r"""Conditionally conjugate models with the local latents summed out under q.

Each block has an exponential family with statistics t, natural parameters eta and prior eta0, and

.. math:: \mathrm{ELBO}(\eta) = \sum_i L_i(E_q[t]) - \sum_b \mathrm{KL}(q_b \| p_b), \qquad
    L_i = \log \sum_z \exp E_q[\log p(x_i, z \mid \beta)].

The gradient of sum_i L_i by E_q[t_b], added to eta0_b, is the natural parameter that maximises the
ELBO over block b: `cavi` and `natural_svi` need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from guidebook.errors import DataError
from guidebook.guides.conjugate.exponential_family import ExponentialFamily, kl_divergence
from guidebook.inference.fits.running import Steps

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


@runtime_checkable
class UpdatesItself(Protocol):
    """What `cavi` takes of a guide instead: a sweep of its own."""

    def coordinate_updates(self, data: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the ELBO of the guide as it is, then update every block once, and so on."""
        ...


REMEDY = "For a Gaussian mixture there is gb.guides.MixtureMeanField; fit other models with svi."


@torch.no_grad()
def whole_pass(
    guide: Any, natural: Natural, pieces: Iterable[Mapping[str, Any]], steps: Steps
) -> tuple[float, Natural] | None:
    """The ELBO at these natural parameters and the messages of all rows; None if interrupted."""
    expected, prior = guide.expected(natural), guide.prior
    total: Natural = {}
    elbo = -float(divergence(guide, natural, prior))
    for piece in pieces:
        if steps.stopped:
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


def observed(data: Mapping[str, Any]) -> Tensor:
    """The rows' array, `x` by the convention of the shelf, or the only tensor."""
    tensors = {n: v for n, v in data.items() if isinstance(v, Tensor)}
    if "x" in tensors:
        return tensors["x"]
    if len(tensors) != 1:
        raise DataError(f"data holds {sorted(tensors)}: the rows must be called 'x'.")
    return next(iter(tensors.values()))
