"""The families that suit any model whose latents are global, from cheap to rich."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from guidebook.guides.families import flow, full_rank, low_rank, mean_field
from guidebook.shelf.pair import Guide, Model

GLOBAL_GUIDES: Mapping[str, Callable[[Model], Guide]] = MappingProxyType(
    {"mean-field": mean_field, "full-rank": full_rank, "low-rank": low_rank, "flow": flow}
)
"""For models whose latents are all global."""
FEW_LATENTS: Mapping[str, Callable[[Model], Guide]] = MappingProxyType(
    {"mean-field": mean_field, "full-rank": full_rank, "flow": flow}
)
"""For a handful of them, where a low-rank covariance is no economy."""
