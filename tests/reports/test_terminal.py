"""The comparison as text: aligned, within the width, coloured only where colour is wanted."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from guidebook.reports.terminal import table
from tests.reports.conftest import make_comparison


def block(text: str) -> list[str]:
    """The lines of the table itself."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("approximation"))
    end = next(i for i in range(start, len(lines)) if lines[i] == "")
    return lines[start:end]


def test_every_number_is_there(comparison: SimpleNamespace) -> None:
    text = table(comparison, 140)
    head, rule, *rows = block(text)
    assert re.split(r"\s{2,}", head) == [
        "approximation", "verdict", "k-hat", "ELBO", "log evidence", "ESS", "mean error",
        "sd ratios", "time",
    ]  # fmt: skip
    assert set(rule) == {"-"}
    assert re.split(r"\s{2,}", rows[0]) == [
        "mean-field", "reweight", "0.52 ± 0.05", "-31.62 ± 0.03", "-31.31 ± 0.02", "612", "0.04",
        "0.71 to 0.99", "1.31 s",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", rows[-1])[:2] == ["NUTS", "reference"]
    assert len({len(row) for row in rows}) == 1  # the last column is aligned to the right
    joined = " ".join(text.split())
    for _, row in comparison.table.iterrows():
        assert row["reason"] in joined
        assert row["next"] in joined


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 200])
def test_within_the_width(comparison: SimpleNamespace, width: int) -> None:
    text = table(comparison, width)
    assert max(map(len, text.splitlines())) <= width
    assert "verdict" in block(text)[0]
    hidden = "Left out for width" in " ".join(text.split())
    assert hidden == (width < 115)


def test_long_names_are_cut() -> None:
    comparison = make_comparison({"flow": "a" * 200})
    assert max(map(len, table(comparison, 80).splitlines()[:9])) <= 80


def test_missing_numbers_are_dashes() -> None:
    comparison = make_comparison()
    comparison.table.loc["flow", ["khat", "khat_se", "elbo", "elbo_se"]] = np.nan
    row = next(line for line in block(table(comparison, 140)) if line.startswith("flow"))
    assert re.split(r"\s{2,}", row)[2:4] == ["-", "-"]
    assert "nan" not in table(comparison, 140)


def test_an_unsound_reference_is_explained_and_a_sound_one_is_not() -> None:
    comparison = make_comparison()
    comparison.table.loc["NUTS", "reason"] = "Trajectories diverged."
    comparison.verdicts["NUTS"] = comparison.verdicts["flow"]
    assert "Trajectories" not in table(comparison, 120)
    comparison.verdicts["NUTS"] = comparison.verdicts["centered mean-field"]
    assert "NUTS: reference, itself reject" in table(comparison, 120)
    assert "Trajectories" in table(comparison, 120)


def test_an_exact_posterior_has_no_error_of_khat() -> None:
    comparison = make_comparison()
    comparison.table.loc["flow", ["khat", "khat_se"]] = -np.inf, 0.0
    row = next(line for line in block(table(comparison, 140)) if line.startswith("flow"))
    assert re.split(r"\s{2,}", row)[2] == "-inf"


def test_colour_only_on_a_terminal_that_wants_it(
    comparison: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
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


def test_every_terminal_can_print_it(comparison: SimpleNamespace) -> None:
    table(comparison, 100).encode("cp1252")
