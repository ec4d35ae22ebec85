"""Bad input to reports: places where no page can be written."""

from collections.abc import Callable

import guidebook as gb
from guidebook.errors import FileError
from tests.bad_input.conftest import Bad
from tests.bad_input.given import tree

ERRORS: dict[str, Bad] = {
    "a page below a file": (
        lambda here: gb.compare({"a": tree(x=2)}).to_html(here / "foreign" / "page.html"),
        FileError, "foreign",
    ),
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)
