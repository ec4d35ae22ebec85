"""One thread for every test, and two laws after each: no global parameter, torch's default dtype."""

from collections.abc import Iterator

import pyro
import pytest
import torch

torch.set_num_threads(1)  # small problems: threads only slow them down


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Whatever a test does, the library leaves no parameter in Pyro's store, nor its dtype."""
    yield
    left = list(pyro.get_param_store().keys())
    dtype = torch.get_default_dtype()
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)
    assert left == [], f"parameters left in Pyro's global store: {left}"
    assert dtype is torch.float32, f"torch's default dtype was left at {dtype}"
