"""The comparison as text: aligned, within the width, coloured only where colour is wanted."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest

import guidebook as gb
from guidebook.errors import DataError
from guidebook.reports.elements.numbers import with_error
from guidebook.reports.terminal import table
from tests.reports.drawn import renamed, with_table


def block(text: str) -> list[str]:
    """The lines of the table itself."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("approximation"))
    end = next(i for i in range(start, len(lines)) if lines[i] == "")
    return lines[start:end]


def test_every_number_and_sentence_is_there(comparison: gb.Comparison) -> None:
    text = table(comparison, 180)
    head, rule, *rows = block(text)
    assert re.split(r"\s{2,}", head) == [
        "approximation", "verdict", "checks", "k-hat", "ELBO", "log evidence", "ESS", "mean error",
        "sd ratios", "Stein", "Wasserstein", "time",
    ]  # fmt: skip
    assert set(rule) == {"-"}
    own = comparison.table.loc["shifted"]
    written = re.split(r"\s{2,}", rows[0])
    assert written[:2] == ["shifted", "reweight"]
    assert written[4] == with_error(own["elbo"], own["elbo_se"])
    assert re.split(r"\s{2,}", rows[-1])[:2] == ["truth", "reference"]
    assert len({len(row) for row in rows}) == 1  # the last column is aligned to the right
    joined = " ".join(text.split())
    for name, row in comparison.table.drop("truth").iterrows():
        assert row["reason"] in joined
        assert row["next"] in joined
        assert all(said in joined for said in comparison.witnesses[name])


def test_a_new_diagnostic_needs_no_edit(comparison: gb.Comparison) -> None:
    """What it adds to the table and to the sentences is printed as it is."""
    more = comparison.table.assign(ksd=0.123, ksd_se=0.01)
    said = {name: [*words, "KSD: 0.123."] for name, words in comparison.witnesses.items()}
    text = table(replace(comparison, table=more, witnesses=said), 140)
    assert "ksd" in block(text)[0] and "0.12 ± 0.01" in block(text)[2]
    assert text.count("  - KSD: 0.123.") == 3  # a sound reference is not explained


@pytest.mark.parametrize("width", [40, 60, 80, 100, 180])
def test_within_the_width(comparison: gb.Comparison, width: int) -> None:
    text = table(comparison, width)
    assert max(map(len, text.splitlines())) <= width
    assert "verdict" in block(text)[0]
    hidden = "Columns left out" in " ".join(text.split())
    assert hidden == (width < 130)


def test_long_names_are_cut(comparison: gb.Comparison) -> None:
    long = renamed(comparison, {"laplace": "a" * 200})
    assert max(map(len, table(long, 80).splitlines()[:9])) <= 80


def test_missing_numbers_are_dashes(comparison: gb.Comparison) -> None:
    lost = dict.fromkeys(("khat", "khat_se", "elbo", "elbo_se"), np.nan)
    text = table(with_table(comparison, "laplace", **lost), 180)
    row = next(line for line in block(text) if line.startswith("laplace"))
    assert re.split(r"\s{2,}", row)[3:5] == ["-", "-"]
    assert "nan" not in text


def test_an_unsound_reference_is_explained_and_a_sound_one_is_not(
    comparison: gb.Comparison,
) -> None:
    told = with_table(comparison, "truth", reason="Trajectories diverged.")
    assert "Trajectories" not in table(told, 120)
    verdicts = comparison.verdicts | {"truth": comparison.verdicts["narrow"]}
    text = table(replace(told, verdicts=verdicts), 120)
    assert "truth: reference, failed its own checks (reject)" in text
    assert "Trajectories" in text


def test_an_exact_posterior_has_no_error_of_khat(comparison: gb.Comparison) -> None:
    row = next(line for line in block(table(comparison, 180)) if line.startswith("laplace"))
    assert re.split(r"\s{2,}", row)[3] == "-inf"


def test_colour_only_on_a_terminal_that_wants_it(
    comparison: gb.Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = table(comparison, 140)
    assert "\033" not in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    coloured = table(comparison, 140)
    assert "\033[31m" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert table(comparison, 140) == plain


def test_every_terminal_can_print_it(comparison: gb.Comparison) -> None:
    table(comparison, 100).encode("cp1252")


def test_a_name_commands_no_terminal(comparison: gb.Comparison) -> None:
    """Escapes, marks of direction and ends of lines are written out; the table stays a table."""
    name = "\x1b[31mred\x07\n\u202e\x9b2J"
    text = table(renamed(comparison, {"shifted": name}), 180)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    rows = block(text)
    assert rows[2].startswith(r"\x1b[31mred\x07 \u202e\x9b2J") and len({len(r) for r in rows}) == 1
    assert "\\x1b[31mred" in str(DataError(f"'{name}' holds NaN"))


def test_letters_of_any_script_are_written_as_they_are(comparison: gb.Comparison) -> None:
    name = "größe μ 事後 \u00a0"
    assert name in table(renamed(comparison, {"shifted": name}), 180)
