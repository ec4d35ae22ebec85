"""One thread for every test, and two laws after each: no global parameter, torch's default dtype."""

import gc
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch

torch.set_num_threads(1)  # small problems: threads only slow them down
gc.set_threshold(100_000, 50, 100)  # a process of thousands of tests holds millions of objects

WITH_PYROS_OWN_STORE = ("/guides/", "/models/")
"""Tests of models and guides by themselves, used as Pyro's users do: they do fill the store."""


LONGEST = ("tests/test_readme.py", "tests/reports/", "tests/test_cli.py", "tests/conformance/")
"""Begun first, so that no process waits for them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        found = (i for i, start in enumerate(LONGEST) if item.nodeid.startswith(start))
        return next(found, len(LONGEST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of a file all tests go to one process, where they share its fits; of conformance all of a pair;
    and all of the reports, which share a few comparisons.

    A group of `--dist loadgroup` would say it too, but xdist 3.8 does not see groups under pytest 9.2.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # it would put files of few tests last

    class ByFileOrPair(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            if "tests/reports/" in file:
                return "reports"
            return name.partition("[")[2].partition(":")[0] if "/conformance/" in file else file

    return ByFileOrPair(config, log)


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
