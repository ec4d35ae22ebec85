r"""The two steps of expectation maximisation, and the exact posterior that belongs to them.

.. math:: S(\theta) = E_{p(z \mid x, \theta)}[s(x, z)], \qquad
    \theta \leftarrow \arg\max_{\theta'} E_{p(z \mid x, \theta)}[\log p(x, z \mid \theta')]
    + \log p(\theta'),

where log p(x, z | theta) depends on the data and latents through the statistics s alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Tensors = dict[str, Tensor]


@runtime_checkable
class ExpectationMaximization(Protocol):
    """What `em` asks of a guide: the exact posterior of the local latents, and the two steps.

    Parameters and statistics are dicts of float64 tensors. `rows` and `data` are the model's keyword
    arguments as tensors, with all or some of the rows. A guide whose parameters are free real numbers
    may also be a `PartialMaximization`.
    """

    def start(self, data: Mapping[str, Any], seed: int) -> Tensors:
        """Parameters to start from, by the seed alone; `data` holds at most 100,000 rows."""
        ...

    def e_step(self, rows: Mapping[str, Any], parameters: Tensors) -> tuple[Tensors, Tensor]:
        """Expected sufficient statistics and log p(rows | parameters), both summed over the rows."""
        ...

    def m_step(self, statistics: Tensors, parameters: Tensors) -> Tensors:
        """The maximising parameters; `parameters` are those of the E-step."""
        ...

    def log_prior(self, parameters: Tensors) -> Tensor:
        """log p(parameters), a scalar; 0 for maximum likelihood."""
        ...

    def finished(self, model: Any, parameters: Tensors) -> tuple[Any, Any]:
        """Copies of the model and of the guide with these parameters in them."""
        ...


REMEDY = (
    "For linear Gaussian decoders there is gb.guides.FactorPosterior; fit other pairs with svi, which "
    "trains the model's parameters too."
)


@runtime_checkable
class PartialMaximization(Protocol):
    """What `em` asks for besides, where an M-step is to be a few gradient steps."""

    def expected_log_joint(self, statistics: Tensors, parameters: Tensors) -> Tensor:
        """E[log p(x, z | parameters)] summed over the rows, a differentiable scalar."""
        ...
