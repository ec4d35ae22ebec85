"""NEEDS A DOCSTRING: guidebook.inference.protocols.conditionals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

State = dict[str, Tensor]


@runtime_checkable
class CompleteConditionals(Protocol):
    """What `gibbs` asks of a guide; every tensor of a state has the chains in front."""

    sites: tuple[str, ...]

    def initial(self, data: Mapping[str, Any], chains: int, generator: torch.Generator) -> State:
        """States to start from, scattered."""
        ...

    def sweep(self, state: State, data: Mapping[str, Any], generator: torch.Generator) -> State:
        """Every block once from its complete conditional."""
        ...
