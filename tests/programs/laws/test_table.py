"""docs/pyro.md is what the list says."""

from pathlib import Path

from tests.programs.laws.__main__ import page
from tests.programs.laws.lines import KINDS, PROGRAMS

DOCS = Path(__file__).parents[3] / "docs" / "pyro.md"


def test_the_table_of_the_docs_is_made_from_the_list() -> None:
    assert DOCS.read_text(encoding="utf-8") == page()


def test_no_two_programs_have_one_name() -> None:
    assert len(PROGRAMS) == sum(map(len, KINDS.values())) >= 40
