"""The Boltzmann machine as a Pyro model: visible units of every row, and hidden ones behind them."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Categorical, constraints

from guidebook.errors import DataError, ModelError, SettingError
from guidebook.models.energy.energy import (
    Boltzmann,
    Spin,
    check_couplings,
    energy,
    log_two_cosh,
    plus_minus_one,
)
from guidebook.models.energy.enumeration import (
    MOST_UNITS,
    configurations,
    enumerate_log_normaliser,
    log_weights,
)
from guidebook.programs.plate import rows

ROWS = 16_384
"""States of a layer that are looked at together where it is enumerated."""


class BoltzmannMachine(PyroModule):
    r"""Rows of visible units v_i (V), each with hidden units h_i (H), all of them -1 or +1.

    .. math:: p(v, h) = \exp(-\beta E(v, h)) / Z, \qquad E = -\tfrac12 x^\top W x - b^\top x,
        \quad x = (v, h)

    Told in the order in which it is sampled: h_i ~ p(h), the visible units summed out, and v_i | h_i
    in the local field of h_i. Without hidden units v is the only site, and without visible ones
    (hidden = D: an Ising model whose state is the latent variable) h is.

    Parameters: `couplings`, the weights of the pairs that may be coupled (each pair once, so that W
    stays symmetric without diagonal whatever an optimiser does), and `bias` (D,). Sites, in plate
    `row`: `h` (n, H) and `v` (n, V).

    Arguments: `weights` W (D, D), the visible units first; `bias` b (D,); `hidden`, H, how many of
    the D units are hidden; `beta`; `restricted`, a restricted machine (RBM): visible units are
    coupled to hidden ones only, and each layer is summed out in closed form given the other, so
    only the smaller of the layers is enumerated; `log_normaliser`, log Z of a machine with more
    units than can be enumerated, for these weights.

    Raises ModelError and SettingError as `check_couplings` does; ModelError for a restricted
    machine with couplings within a layer, SettingError for `hidden` out of 0..D.

    Source: Hinton & Sejnowski (1986), Learning and relearning in Boltzmann machines; restricted:
    Smolensky (1986), Information processing in dynamical systems: foundations of harmony theory.
    """

    pairs: Tensor

    def __init__(
        self,
        weights: Tensor,
        bias: Tensor,
        hidden: int = 0,
        *,
        beta: float = 1.0,
        restricted: bool = False,
        log_normaliser: float | None = None,
    ) -> None:
        super().__init__()
        check_couplings(weights, bias, beta)
        D = len(bias)
        if not 0 <= hidden <= D:
            raise SettingError(f"hidden={hidden} of {D} units: give a number from 0 to {D}.")
        self.visible, self.hidden = D - hidden, hidden
        self.beta, self.restricted, self.given = float(beta), restricted, log_normaliser
        pairs = torch.tril_indices(D, D, -1, device=bias.device)
        if restricted:
            across = (pairs[0] >= self.visible) & (pairs[1] < self.visible)
            if bool((weights[pairs[0], pairs[1]][~across] != 0).any()):
                raise ModelError(
                    "A restricted machine couples visible to hidden units only, and these weights "
                    "couple units of one layer: use restricted=False, or bipartite(W)."
                )
            pairs = pairs[:, across]
        self.register_buffer("pairs", pairs)
        self.couplings = nn.Parameter(weights[pairs[0], pairs[1]].detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    @property
    def weights(self) -> Tensor:
        """W (D, D), symmetric, with a diagonal of 0."""
        couplings, D = self.couplings, self.visible + self.hidden
        low = couplings.new_zeros(D, D).index_put((self.pairs[0], self.pairs[1]), couplings)
        return low + low.mT

    def joint(self) -> Boltzmann:
        """The distribution of x = (v, h), visible units first."""
        free, known = self._unnormalised(), self.given
        few = min(self.visible, self.hidden) <= MOST_UNITS
        if known is None and self.restricted and few:
            return Boltzmann(
                free.weights, free.bias, self.beta, restricted_log_normaliser(free, self.visible)
            )
        return Boltzmann(free.weights, free.bias, self.beta, known)

    def _unnormalised(self) -> Boltzmann:
        """The same with 0 for log Z."""
        return Boltzmann(self.weights, self.bias, self.beta, 0.0, validate_args=False)

    def log_normaliser(self) -> Tensor:
        """log Z: as given, or enumerated; ModelError where there are too many units."""
        return self.joint().log_normaliser

    def free_energy(self, v: Tensor) -> Tensor:
        r"""F(v) of v (n, V), shape (n,): log p(v) = -beta F(v) - log Z.

        .. math:: F(v) = -\tfrac1\beta \log \sum_h \exp(-\beta E(v, h)), \quad\text{restricted:}\quad
            -b_v^\top v - \tfrac1\beta \sum_j \log 2\cosh(\beta (b_j + \sum_i W_{ij} v_i))

        Raises SettingError for beta = 0, ModelError for more than 20 hidden units coupled among
        themselves.
        """
        if self.beta == 0:
            raise SettingError(
                "At beta = 0 there is no free energy per beta: give a positive beta."
            )
        return -self.log_weight(v) / self.beta

    def log_weight(self, v: Tensor) -> Tensor:
        """log of the sum over h of exp(-beta E(v, h)), shape (n,): log p(v) + log Z."""
        seen, unseen = slice(0, self.visible), slice(self.visible, None)
        return summed_out(v, seen, unseen, self._unnormalised(), self.restricted)

    def log_evidence(self, v: Tensor) -> Tensor:
        """log p(v_i) of each row of v (n, V), shape (n,)."""
        return self.log_weight(v) - self.log_normaliser()

    def forward(self, v: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample h and v.

        Arguments: `v` (n, V), or None to simulate; `size`, the number of rows of the whole data set
        when v is a mini-batch, or the number of rows to simulate (1 where it is not given). Returns
        v (n, V), and h (n, H) where no unit is visible. Raises DataError for v of a wrong width.
        """
        if v is not None and (v.dim() != 2 or v.shape[-1] != self.visible):
            raise DataError(
                f"v has the shape {tuple(v.shape)}: the machine has {self.visible} visible units, "
                "so give rows (n, V)."
            )
        if v is None and size is not None and size < 1:
            raise ModelError(f"size={size}: simulate at least one row.")
        joint = self.joint()
        present, size = (size or 1, None) if v is None else (len(v), size)
        with rows(present, size, joint.bias.device):
            if not self.hidden:
                return pyro.sample("v", joint, obs=v)
            if not self.visible:
                return pyro.sample("h", joint)
            h = pyro.sample("h", HiddenUnits(joint, self.visible, self.restricted))
            return pyro.sample("v", self._given_hidden(joint, h), obs=v)

    def _given_hidden(self, joint: Boltzmann, h: Tensor) -> TorchDistribution:
        V = self.visible
        field = joint.bias[:V] + h @ joint.weights[V:, :V]
        if self.restricted:
            return Spin(2 * self.beta * field).to_event(1)
        return Boltzmann(joint.weights[:V, :V], field, self.beta)


class HiddenUnits(TorchDistribution):
    r"""The hidden units of a machine whose visible units are summed out.

    .. math:: p(h) = \tfrac1Z \sum_v \exp(-\beta E(v, h))

    Arguments: `joint`, the distribution of (v, h); `visible`, V; `restricted`, whether the sum over
    v has its closed form. Event shape (H,). Raises ModelError, when it is used, where more than 20
    units would have to be enumerated.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(plus_minus_one, 1)

    def __init__(self, joint: Boltzmann, visible: int, restricted: bool) -> None:
        self.joint, self.visible, self.restricted = joint, visible, restricted
        hidden = joint.event_shape[0] - visible
        super().__init__(joint.batch_shape, torch.Size((hidden,)), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HiddenUnits:
        new = HiddenUnits(self.joint, self.visible, self.restricted)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def unnormalised_log_prob(self, h: Tensor) -> Tensor:
        """log p(h) + log Z of h (..., H)."""
        seen, unseen = slice(0, self.visible), slice(self.visible, None)
        return summed_out(h, unseen, seen, self.joint, self.restricted)

    def log_prob(self, h: Tensor) -> Tensor:
        result = self.unnormalised_log_prob(h) - self.joint.log_normaliser
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own form)
        joint, V, H = self.joint, self.visible, self.event_shape[0]
        W, b, shape = joint.weights, joint.bias, (*sample_shape, *self.batch_shape)
        with torch.no_grad():
            if not self.restricted and V + H > MOST_UNITS:  # a state of the hidden units at a time
                return _draw(layer_table(H, slice(V, None), slice(0, V), joint, False), b, shape)
            if not self.restricted:
                return _draw(log_weights(W, b, joint.beta, first=V).logsumexp(-2), b, shape)
            if V < H:  # the smaller layer from its table, the larger one given it
                v = _draw(layer_table(V, slice(0, V), slice(V, None), joint), b, shape)
                return Spin(2 * joint.beta * (b[V:] + v @ W[:V, V:])).sample()
            return _draw(layer_table(H, slice(V, None), slice(0, V), joint), b, shape)


def bipartite(across: Tensor) -> Tensor:
    """Weights (V + H, V + H) of a restricted machine from those between its layers (V, H)."""
    V, H = across.shape
    weights = across.new_zeros(V + H, V + H)
    weights[:V, V:], weights[V:, :V] = across, across.mT
    return weights


def restricted_log_normaliser(joint: Boltzmann, visible: int) -> Tensor:
    """log Z of a restricted machine: the smaller layer enumerated, the other in closed form.

    Raises ModelError where both layers have more than 20 units.
    """
    layers = (slice(0, visible), slice(visible, None))
    sizes = visible, joint.event_shape[0] - visible
    small = 0 if sizes[0] < sizes[1] else 1
    return layer_table(sizes[small], layers[small], layers[1 - small], joint).logsumexp(-1)


def layer_table(
    units: int, layer: slice, other: slice, joint: Boltzmann, restricted: bool = True
) -> Tensor:
    """log p + log Z of all states of the units of one layer, in pieces."""
    states = configurations(units, joint.bias).split(ROWS)
    return torch.cat([summed_out(x, layer, other, joint, restricted) for x in states])


def _draw(table: Tensor, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    drawn = Categorical(logits=table).sample(torch.Size(shape))
    return configurations(len(table).bit_length() - 1, like)[drawn]


def summed_out(x: Tensor, layer: slice, other: slice, joint: Boltzmann, restricted: bool) -> Tensor:
    """log of the sum over the units `other` of exp(-beta E), x (..., K) the state of `layer`."""
    W, b, beta = joint.weights, joint.bias, joint.beta
    own = -beta * energy(x, W[layer, layer], b[layer])
    field = b[other] + x @ W[layer, other]
    if restricted:
        return own + log_two_cosh(beta * field).sum(-1)
    if field.shape[-1] == 0:
        return own
    return own + enumerate_log_normaliser(W[other, other], field, beta)
