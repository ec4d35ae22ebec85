"""What witnesses are heard on: draws of one posterior or of many, and what is known about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.inference.fits.status import Status
from guidebook.programs.labels import canonical_positions
from guidebook.programs.potential import Potential

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Marginals:
    """All scalar marginals of a posterior group: names and values (S, M)."""

    names: list[str]
    values: np.ndarray
    discrete: bool = False

    def in_order_of(self, names: Sequence[str]) -> np.ndarray | None:
        """The values in the order of other names, NaN for those missing; None where all are."""
        place = {name: i for i, name in enumerate(self.names)}
        if not any(name in place for name in names):
            return None
        columns = np.column_stack([self.values, np.full(len(self.values), np.nan)])
        return columns[:, [place.get(name, -1) for name in names]]


def marginals_of(tree: xr.DataTree, only: set[str] | None = None) -> Marginals:
    """Chains and draws joined; a variable of shape (3,) gives 'beta[0]' to 'beta[2]'."""
    names, columns = [], []
    for name, variable in tree["posterior"].data_vars.items():
        if only is not None and name not in only:
            continue
        ordered = variable.transpose("chain", "draw", ...)
        values = ordered.values.reshape(ordered.shape[0] * ordered.shape[1], -1)
        names += scalar_names(str(name), ordered.shape[2:])
        columns += list(values.T)
    return Marginals(
        names, np.column_stack(columns).astype(float), bool(attribute(tree, "discrete"))
    )


def scalar_names(name: str, shape: Sequence[int]) -> list[str]:
    """The name of each scalar of a variable: 'beta[0]' to 'beta[2]' of the shape (3,), 'mu' of ()."""
    if not len(shape):
        return [name]
    return [f"{name}[{', '.join(map(str, index))}]" for index in np.ndindex(*shape)]


def attribute(tree: xr.DataTree, name: str) -> Any:
    """What a file says of the fit that its draws come from; "" where it does not."""
    group = tree.children.get("vi_fit")
    return group.attrs.get(name, "") if group is not None else ""


Effort = Literal["quick", "full"]
"""How much time the checks may take."""


class Density(Protocol):
    """log p(x, u) of n posteriors at fresh positions u (C, n, D) on the unconstrained scale.

    `cost` is the count of numbers computed for one position of one posterior.
    """

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def cost(self) -> int: ...

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p, (C, n), and its gradient, (C, n, D)."""
        ...

    def values(self, u: Tensor) -> np.ndarray:
        """The scalar marginals (C, n, M) that u stands for."""
        ...

    def ordered(self, u: Tensor) -> Tensor:
        """u with exchangeable components in the order that the draws have."""
        ...


@dataclass(frozen=True)
class Whole:
    """The density of a global approximation's one posterior: its potential, with n = 1."""

    potential: Potential

    @property
    def dtype(self) -> torch.dtype:
        return self.potential.dtype

    @property
    def device(self) -> torch.device:
        return self.potential.device

    @property
    def cost(self) -> int:
        return self.potential.cost

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.potential.value_and_grad(u[:, 0])
        return value[:, None], gradient[:, None]

    def values(self, u: Tensor) -> np.ndarray:
        found = self.potential.constrain(u[:, 0])
        columns = [v.reshape(len(u), -1).double().cpu().numpy() for v in found.values()]
        return np.concatenate(columns, axis=1)[:, None]

    def ordered(self, u: Tensor) -> Tensor:
        return canonical_positions(self.potential, u[:, 0])[:, None]


class Annealed(NamedTuple):
    """Values (C, n, M) and log weights (C, n) of draws that know nothing of q, and of which posteriors (n,)
    they are so many, and their weights so even, that means and standard deviations have small errors. These
    are independent draws of distributions with means `center` and standard deviations `spread` (n, M).
    """

    values: np.ndarray
    log_w: np.ndarray
    known: np.ndarray
    center: np.ndarray
    spread: np.ndarray


class Own(NamedTuple):
    """Means and standard deviations of q (n, M); of how many draws they are, infinite in closed form; and
    more draws of it (K, n, M).
    """

    mean: np.ndarray
    sd: np.ndarray
    size: float
    draws: np.ndarray


@dataclass(frozen=True)
class Reference:
    """Moments of the reference draws, its Monte Carlo error, and whether it can be relied on."""

    name: str
    marginals: Marginals
    ess: float
    sound: bool


@dataclass(frozen=True)
class Subject:
    """S draws of n posteriors with M scalar marginals and D unconstrained coordinates each.

    Attributes:
        kind: "density", "point", "chains" or "particles" (`guidebook.inference.fits.approximation`).
        names: of the marginals (M); coordinates: of the unconstrained scale (D).
        values: (S, n, M). discrete: (M,), which marginals take separate values.
        log_ratio: log p(x, z) - log q(z), (S, n). position, gradient of log p there: (S, n, D).
        log_density: log p(x, z), (S, n). Each None where it is not known; `lacks` says why.
        density: at fresh positions. potential: of a global approximation.
        status: how the fit ended. amortized: the posteriors are those of rows, of a model that was
            trained together with the guide.
        tails: (n, M), by how much a heavy tail widens the error of a standard deviation.
        reference: what there is to compare with besides; modes: the basins of the density;
            evidence: log p(x_i) (n,), exact. annealed: weighted draws by chains that were annealed from the
            prior. own: q itself, better known than by these draws.
        calibration: ranks of truths among draws of the same engine or guide, where one was given.
        moved: the draws were moved after the fit: they are used with their weights or not at all.
    """

    kind: str
    names: Sequence[str]
    values: np.ndarray
    discrete: np.ndarray
    coordinates: Sequence[str] = ()
    log_ratio: np.ndarray | None = None
    log_density: np.ndarray | None = None
    position: np.ndarray | None = None
    gradient: np.ndarray | None = None
    density: Density | None = None
    potential: Potential | None = None
    status: Status | None = None
    amortized: bool = False
    tree: Any = field(default=None, repr=False)
    reference: Reference | None = None
    modes: Basins | None = None
    evidence: np.ndarray | None = None
    annealed: Annealed | None = None
    own: Own | None = None
    calibration: Calibration | None = None
    moved: bool = False
    tails: np.ndarray = field(default_factory=lambda: np.ones((1, 1)))
    seed: int = 0
    effort: Effort = "full"
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def draws(self) -> int:
        return len(self.values)

    @property
    def posteriors(self) -> int:
        return self.values.shape[1]

    @property
    def is_discrete(self) -> bool:
        """Some marginal takes separate values, so the density has no gradient there."""
        return bool(self.discrete.any())

    @property
    def least_sd(self) -> np.ndarray:
        """Standard deviations (M,) below which they count as this one. Of discrete values it is
        that of a value seen a hundred times in all the draws, whose own error is 5 %; rarer ones are
        judged by their means alone.
        """
        return np.where(self.discrete, 20 / math.sqrt(self.draws), 1e-300)
