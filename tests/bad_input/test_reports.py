"""Bad input to reports: places where no page can be written."""

from collections.abc import Callable

import guidebook as gb
from guidebook.errors import FileError
from tests.bad_input.conftest import Bad
from tests.bad_input.given import PATHS, tree

ERRORS: dict[str, Bad] = {
    "a page below a file": (
        lambda here: gb.compare({"a": tree(x=2)}).to_html(here / "foreign" / "page.html"),
        FileError, "foreign",
    ),
    **{
        f"a page at a path that is {name}": (
            lambda path=path: gb.compare({"a": tree(x=2)}).to_html(path), FileError, "no path of a file",
            "pathlib.Path",
        )
        for name, path in PATHS.items()
    },
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)
