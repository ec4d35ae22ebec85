"""Parameters of the tests live in their modules, as inside an engine."""

from collections.abc import Iterator

import pytest

from guidebook.scope import local_parameters


@pytest.fixture
def local() -> Iterator[None]:
    with local_parameters():
        yield
