"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
from pathlib import Path

import pyro
import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "guidebook"


def modules() -> list[str]:
    names = []
    for source in sorted(PACKAGE.rglob("*.py")):
        parts = source.relative_to(PACKAGE.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pyro.set_rng_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0
    assert not list(pyro.get_param_store()), "an example left parameters in the global store"


def test_every_module_says_what_it_is() -> None:
    for name in modules():
        assert importlib.import_module(name).__doc__, f"{name} has no docstring"
