r"""Energy-based distributions over units x_i in {-1, +1}.

.. math:: p(x) = \exp(-\beta E(x)) / Z, \qquad E(x) = -\tfrac12 x^\top W x - b^\top x

with W symmetric and without diagonal, beta the inverse temperature; `enumeration` has the sums over
all states. Source: Hinton & Sejnowski (1986), Learning and relearning in Boltzmann
machines; MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapters 31 and 43.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import Categorical, constraints

from guidebook.errors import ModelError, SettingError
from guidebook.models.energy.enumeration import (
    MOST_UNITS,
    configurations,
    enumerate_log_normaliser,
    enumerate_moments,
    log_weights,
)


class _PlusMinusOne(constraints.Constraint):
    """-1 or +1."""

    is_discrete = True
    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        return value.abs() == 1


plus_minus_one = _PlusMinusOne()


def check_couplings(weights: Tensor, bias: Tensor, beta: Tensor | float = 1.0) -> None:
    """Refuses weights that define no energy, and temperatures at which there is no distribution.

    Raises:
        ModelError: shapes that do not match, values that are not finite, a weight matrix that is
            not symmetric (up to rounding), a self-connection.
        SettingError: beta negative, infinite (a temperature of zero) or NaN.
    """
    D = bias.shape[-1]
    if weights.shape[-2:] != (D, D):
        raise ModelError(
            f"weights {tuple(weights.shape)} and bias {tuple(bias.shape)} do not match: D units "
            "need weights (D, D) and bias (D,)."
        )
    if not bool(weights.isfinite().all() and bias.isfinite().all()):
        raise ModelError("weights or bias hold a value that is not finite: remove it.")
    gap = (weights - weights.mT).abs()
    if bool((gap > 1e-5 * weights.abs().amax()).any()):
        i, j = (int(k) for k in (gap == gap.max()).nonzero()[0, -2:])
        raise ModelError(
            f"The weights are not symmetric: W[{i}, {j}] and W[{j}, {i}] differ by "
            f"{float(gap.max()):.3g}. An energy exists for symmetric weights only: use "
            "(W + W.mT) / 2 if that is what is meant."
        )
    diagonal = weights.diagonal(dim1=-2, dim2=-1)
    if bool((diagonal != 0).any()):
        unit = int((diagonal != 0).nonzero()[0, -1])
        raise ModelError(
            f"Unit {unit} is connected to itself (W[{unit}, {unit}] is not 0). As x_i^2 = 1 that "
            "only shifts the energy: set the diagonal to 0."
        )
    check_temperature(beta)


def check_temperature(beta: Tensor | float) -> None:
    """SettingError unless 0 <= beta < infinity."""
    value = torch.as_tensor(beta)
    if bool(value.isposinf().any()):
        raise SettingError(
            "A temperature of zero (infinite beta) puts all probability on the states of least "
            "energy: use guidebook.models.energy.hopfield.recall, which descends to them, or a finite beta."
        )
    if not bool(((value >= 0) & value.isfinite()).all()):
        raise SettingError(
            f"beta={beta} is the inverse temperature: give a finite number, at least 0."
        )


def energy(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """E(x) = -1/2 x'Wx - b'x of states x (..., D), shape (...)."""
    field = x @ weights if weights.dim() == 2 else (x.unsqueeze(-2) @ weights).squeeze(-2)
    return -(0.5 * field + bias).mul(x).sum(-1)


def ising_grid(rows: int, columns: int, coupling: float = 1.0, *, periodic: bool = False) -> Tensor:
    """Weights (D, D) of an Ising model on a grid, D = rows columns, units numbered row by row.

    Neighbours in a row or a column are coupled with the strength J = `coupling` (ferromagnetic
    where it is positive). `periodic` joins the ends; where there are but two rows or columns their
    units are neighbours already, once. In torch's default dtype.

    Raises SettingError unless rows and columns are at least 1.
    """
    if rows < 1 or columns < 1:
        raise SettingError(f"A grid of {rows} x {columns} has no units: give at least 1 x 1.")
    unit = torch.arange(rows * columns).reshape(rows, columns)
    pairs = [(unit[:, :-1], unit[:, 1:]), (unit[:-1], unit[1:])]
    if periodic and columns > 2:
        pairs.append((unit[:, -1], unit[:, 0]))
    if periodic and rows > 2:
        pairs.append((unit[-1], unit[0]))
    weights = torch.zeros(rows * columns, rows * columns)
    for one, other in pairs:
        weights[one.flatten(), other.flatten()] = coupling
        weights[other.flatten(), one.flatten()] = coupling
    return weights


def log_two_cosh(x: Tensor) -> Tensor:
    """log(exp(x) + exp(-x)): the log normaliser of a single unit in the field x = beta a."""
    return x.abs() + F.softplus(-2 * x.abs())


class Boltzmann(TorchDistribution):
    r"""The Boltzmann distribution over D units +-1.

    .. math:: p(x) = \exp\left(\beta (\tfrac12 x^\top W x + b^\top x)\right) / Z

    Arguments: `weights` W (..., D, D), symmetric with a diagonal of 0; `bias` b (..., D); `beta`
    (...), the inverse temperature, finite and at least 0; `log_normaliser` (...), log Z where it is
    known otherwise (by annealed importance sampling), None to enumerate up to 20 units.

    Event shape (D,). `sample` is exact, from the table of all states, up to 20 units. Raises
    ModelError and SettingError as `check_couplings` does; ModelError from `log_prob` and `sample`
    where there are too many units to enumerate.

    Source: Hinton & Sejnowski (1986), Learning and relearning in Boltzmann machines.
    """

    arg_constraints = {  # noqa: RUF012 (torch's own form)
        "weights": constraints.independent(constraints.real, 2),
        "bias": constraints.real_vector,
        "beta": constraints.nonnegative,
    }
    support = constraints.independent(plus_minus_one, 1)
    has_enumerate_support = True

    def __init__(
        self,
        weights: Tensor,
        bias: Tensor,
        beta: Tensor | float = 1.0,
        log_normaliser: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if self._validate_args if validate_args is None else validate_args:
            check_couplings(weights, bias, beta)
        self.weights, self.bias = weights, bias
        self.beta = torch.as_tensor(beta, dtype=bias.dtype, device=bias.device)
        self._given = log_normaliser
        batch = torch.broadcast_shapes(weights.shape[:-2], bias.shape[:-1], self.beta.shape)
        super().__init__(batch, bias.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Boltzmann:
        """The same distribution for every element of a larger batch; nothing is copied."""
        new = self._get_checked_instance(Boltzmann, _instance)
        new.weights, new.bias, new.beta = self.weights, self.bias, self.beta
        new._given = self.log_normaliser if self._known else None
        super(Boltzmann, new).__init__(torch.Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    @property
    def _known(self) -> bool:
        return self._given is not None or self.event_shape[0] <= MOST_UNITS

    @cached_property
    def log_normaliser(self) -> Tensor:
        """log Z: given, or enumerated."""
        if self._given is not None:
            return torch.as_tensor(self._given, dtype=self.bias.dtype, device=self.bias.device)
        return enumerate_log_normaliser(self.weights, self.bias, self.beta)

    def unnormalised_log_prob(self, x: Tensor) -> Tensor:
        """-beta E(x) of x (..., D), for any number of units."""
        return -self.beta * energy(x, self.weights, self.bias)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        result = self.unnormalised_log_prob(x) - self.log_normaliser
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own form)
        with torch.no_grad():
            table = log_weights(self.weights, self.bias, self.beta).flatten(-2)
            drawn = Categorical(logits=table).expand(self.batch_shape).sample(sample_shape)
            return configurations(self.event_shape[0], self.bias)[drawn]

    def enumerate_support(self, expand: bool = True) -> Tensor:
        states = configurations(self.event_shape[0], self.bias)
        states = states.reshape(-1, *(1,) * len(self.batch_shape), states.shape[-1])
        return states.expand(-1, *self.batch_shape, -1) if expand else states

    @property
    def mean(self) -> Tensor:
        mean = enumerate_moments(self.weights, self.bias, self.beta)[0]
        return mean.expand(*self.batch_shape, -1)

    @property
    def variance(self) -> Tensor:
        return 1 - self.mean.square()

    def entropy(self) -> Tensor:
        """log Z + beta E[E], in nats, by enumeration."""
        table = log_weights(self.weights, self.bias, self.beta).flatten(-2)
        log_p = table.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1).expand(self.batch_shape)


class Spin(TorchDistribution):
    """One unit -1 or +1 with p(+1) = sigmoid(logits): in a local field a, logits = 2 beta a.

    Use `.to_event(1)` for a vector of independent units.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (torch's own form)
    support = plus_minus_one
    has_enumerate_support = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Spin:
        return Spin(self.logits.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, x: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(x)
        return F.logsigmoid(x * self.logits)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own form)
        with torch.no_grad():
            p = self.logits.sigmoid().expand(*sample_shape, *self.batch_shape)
            return torch.bernoulli(p) * 2 - 1

    def enumerate_support(self, expand: bool = True) -> Tensor:
        both = self.logits.new_tensor([-1.0, 1.0]).reshape(2, *(1,) * len(self.batch_shape))
        return both.expand(2, *self.batch_shape) if expand else both

    @property
    def mean(self) -> Tensor:
        return (0.5 * self.logits).tanh()

    @property
    def variance(self) -> Tensor:
        return 1 - self.mean.square()

    def entropy(self) -> Tensor:
        half = 0.5 * self.logits
        return log_two_cosh(half) - half * half.tanh()
