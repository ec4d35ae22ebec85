"""The table of symbols names what the code has."""

import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def names_of_the_code() -> set[str]:
    """Every identifier, and every word in quotes: columns and groups of files are strings."""
    found: set[str] = set()
    for source in (ROOT / "guidebook").rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                found.add(token.string)
            elif token.type == tokenize.STRING:
                found.add(token.string.strip("\"'"))
    return found


def test_every_name_in_the_table_is_a_name_of_the_code() -> None:
    text = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.split("\n") if line.startswith("| ")]
    cited = {name for row in rows for name in re.findall(r"`(\w+)`", row[3])}
    assert len(cited) > 50
    missing = cited - names_of_the_code()
    assert not missing, f"docs/notation.md names what the code does not have: {sorted(missing)}"
