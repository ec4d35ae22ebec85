r"""The hidden units of a Boltzmann machine given the visible ones, by blocks.

.. math:: q(h \mid v) = \prod_b q_b(h_b \mid v), \qquad
    q_b \propto \exp E_{q_{-b}}[-\beta E(v, h)],

each block exact given the mean of the others, to a fixed point (`guidebook.guides.energy.mean_field`).
Source: Saul & Jordan (1996), Exploiting tractable substructures in intractable networks.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyro
from torch import Tensor, nn

from guidebook.errors import DataError, GuideError
from guidebook.guides.energy.mean_field import MeanField, blocks_of, mean_field_fixed_point
from guidebook.programs.plate import rows


class Machine(Protocol):
    """What the guides read of a Boltzmann machine: `guidebook.models.BoltzmannMachine` has it."""

    visible: int
    hidden: int
    beta: float
    restricted: bool
    bias: Any

    @property
    def weights(self) -> Tensor: ...


class BlockMeanField(nn.Module):
    """q(h | v) of a Boltzmann machine: blocks of hidden units, exact within, independent between.

    It has no parameters: the fixed point is found for the rows that it is called with. For a
    restricted machine, and for one block of all hidden units, it is the exact posterior. Site `h`
    and plate `row` as in the machine.

    Arguments: `machine`; `blocks`, `sweeps`, `restarts` and `seed` of `mean_field_fixed_point`, the
    blocks over the hidden units. Raises GuideError for a machine without hidden units; when called,
    DataError without v.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        blocks: int | Sequence[Sequence[int]] = 1,
        sweeps: int = 500,
        restarts: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_hidden(machine)
        blocks_of(blocks, machine.hidden)
        # In a tuple, so that torch does not register the machine as a part of the guide.
        self._machine = (machine,)
        self.blocks, self.sweeps, self.restarts, self.seed = blocks, sweeps, restarts, seed
        self._found: tuple[list[Any], MeanField] | None = None

    def approximation(self, v: Tensor | None = None) -> MeanField:
        """The fixed point for v (n, V), batch shape (n,); () for a machine without visible units.

        Its bound is one of log sum_h exp(-beta E(v, h)); without visible units, of log Z. It is kept
        until v or the machine changes: every draw asks for it.
        """
        machine: Any = self._machine[0]
        parameters = machine.parameters() if isinstance(machine, nn.Module) else ()
        read = [t for t in (*parameters, v) if t is not None]
        if self._found is not None and _are(read, self._found[0]):
            return self._found[1]
        found = self._fixed_point(v)
        self._found = [(weakref.ref(t), t._version) for t in read], found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None}  # tensors cannot be referred to weakly in a copy

    def _fixed_point(self, v: Tensor | None) -> MeanField:
        machine = self._machine[0]
        W, b, V = machine.weights.detach(), machine.bias.detach(), machine.visible
        v = clamped_rows(machine, v)
        field = b[V:] if v is None else b[V:] + v @ W[:V, V:]
        found = mean_field_fixed_point(
            W[V:, V:],
            field,
            machine.beta,
            blocks=self.blocks,
            sweeps=self.sweeps,
            restarts=1 if machine.restricted and V else self.restarts,
            seed=self.seed,
        )
        if v is None:
            return found
        own = machine.beta * ((0.5 * v @ W[:V, :V] + b[:V]) * v).sum(-1)
        return found._replace(bound=found.bound + own, history=found.history + own)

    def elbo(self, v: Tensor | None = None) -> Tensor:
        """The bound of log p(v) (n,), equal to it where q is the posterior; ModelError without log Z."""
        machine: Any = self._machine[0]
        return self.approximation(v).bound - machine.log_normaliser().detach()

    def coordinate_updates(self, data: Mapping[str, Any]) -> Iterator[float]:
        """The ELBO after every sweep of the fixed point: what `gb.cavi` asks for.

        It is the bound less log Z: where log Z is not known (more units than are enumerated, none
        given), ModelError says so.
        """
        machine: Any = self._machine[0]
        found, v = self.approximation(data.get("v")), data.get("v")
        count = int(data.get("size") or 1) if v is None else len(v)
        constant = count * float(machine.log_normaliser().detach())
        for bound in found.history.reshape(len(found.history), -1).sum(1):
            yield float(bound) * (count if v is None else 1) - constant

    def forward(self, v: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample h (n, H) given v (n, V); `size` as in the machine."""
        q = self.approximation(v).q
        present, size = (size or 1, None) if v is None else (len(v), size)
        with rows(present, size, q.tables[0].device):
            return pyro.sample("h", q)


def _are(tensors: Sequence[Tensor], kept: Sequence[Any]) -> bool:
    """Whether these are the very tensors that were kept, unchanged since."""
    return len(tensors) == len(kept) and all(
        t is ref() and t._version == version
        for t, (ref, version) in zip(tensors, kept, strict=True)
    )


def check_hidden(machine: Machine) -> None:
    """GuideError unless this is a Boltzmann machine with hidden units."""
    missing = [n for n in ("weights", "bias", "beta", "hidden") if not hasattr(machine, n)]
    if missing:
        raise GuideError(
            f"The model has no {' and no '.join(missing)}: this guide reads a Boltzmann machine, such "
            "as guidebook.models.BoltzmannMachine."
        )
    if machine.hidden < 1:
        raise GuideError(
            "The machine has no hidden unit, so there is nothing to infer: give it hidden units "
            "(hidden = D where the whole state is latent)."
        )


def clamped_rows(machine: Machine, v: Tensor | None) -> Tensor | None:
    """v in the machine's dtype; None without visible units. DataError where it is missing."""
    if machine.visible == 0:
        return None
    if v is None:
        raise DataError("The posterior of the hidden units reads the visible ones: give v (n, V).")
    return v.to(machine.bias.dtype)
