"""The columns of the table: those that are known, and whatever else a diagnostic brings."""

import numpy as np

import guidebook as gb
from guidebook.reports.elements.columns import COLUMNS, columns_of, khat

ROW = {
    "khat": 0.524,
    "khat_se": 0.051,
    "ksd": 0.1234,
    "ksd_se": 0.01,
    "said": "sharp",
    "lost": np.nan,
}


def test_every_column_of_the_table_is_written_once(comparison: gb.Comparison) -> None:
    names = list(comparison.table.columns)
    written = [name for column in columns_of(names) for name in column.of]
    assert sorted(written) == sorted(set(names) - {"verdict", "reason", "next", "engine"})
    assert columns_of(names) == list(COLUMNS)


def test_a_further_column_is_shown_with_its_error_by_its_name() -> None:
    names = ["verdict", "khat", "khat_se", "ksd", "ksd_se", "said", "lost", "lonely_se"]
    columns = columns_of(names)
    assert [column.heading for column in columns] == ["k-hat", "ksd", "said", "lost", "lonely se"]
    assert [column.write(ROW) for column in columns[:4]] == [
        "0.52 ± 0.05",
        "0.12 ± 0.01",
        "sharp",
        "-",
    ]


def test_equal_weights_have_a_khat_without_an_error() -> None:
    assert khat({"khat": -np.inf, "khat_se": 0.0}) == "-inf"
    assert khat({"khat": np.nan, "khat_se": np.nan}) == "-"
