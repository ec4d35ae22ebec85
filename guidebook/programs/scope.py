"""NEEDS A DOCSTRING: guidebook.programs.scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyro
import torch
import torch._dynamo


@contextlib.contextmanager
def local_parameters() -> Iterator[None]:
    """Parameters live in their modules, and the global store is a fresh one, dropped at the end."""
    with pyro.settings.context(module_local_params=True), pyro.get_param_store().scope():
        yield


@contextlib.contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """torch's default dtype inside the block, so that constants in a model match its data."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seeds torch inside the block and gives the user's random state back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
