r"""The complete conditionals of a model, by which `gibbs` samples.

With the latents in blocks z_1, ..., z_B, a sweep draws each from p(z_b | z_{-b}, x), given the newest
values of the others. Its stationary distribution is p(z | x).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Values of all blocks, by name, each (chains, *shape)."""


@runtime_checkable
class CompleteConditionals(Protocol):
    """What `gibbs` asks of a guide.

    `sites` names the latent sites of the model whose draws are kept; a state may hold more, such as
    assignments that are summed out of the model. Every tensor of a state has the chains in front.
    """

    sites: tuple[str, ...]

    def initial(self, data: Mapping[str, Any], chains: int, generator: torch.Generator) -> State:
        """States to start from, scattered over more than the posterior."""
        ...

    def sweep(self, state: State, data: Mapping[str, Any], generator: torch.Generator) -> State:
        """Every block drawn once from its complete conditional."""
        ...


REMEDY = (
    "For a Gaussian mixture there is gb.guides.MixtureMeanField; sample other models with nuts."
)
