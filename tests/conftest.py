"""One thread for every test, and two laws after each: no global parameter, torch's default dtype."""

from collections.abc import Iterator

import pyro
import pytest
import torch

torch.set_num_threads(1)  # small problems: threads only slow them down

WITH_PYROS_OWN_STORE = ("/guides/", "/models/")
"""Tests of models and guides by themselves, used as Pyro's users do: they do fill the store."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file stay in one process of xdist, where they share its fits; conformance, of a pair."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does, the engines leave no parameter in Pyro's store, nor their dtype."""
    if any(folder in str(request.path.as_posix()) for folder in WITH_PYROS_OWN_STORE):
        yield
        return
    pyro.clear_param_store()
    yield
    left = list(pyro.get_param_store().keys())
    dtype = torch.get_default_dtype()
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)
    assert left == [], f"parameters left in Pyro's global store: {left}"
    assert dtype is torch.float32, f"torch's default dtype was left at {dtype}"
