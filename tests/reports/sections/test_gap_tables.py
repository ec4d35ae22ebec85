"""The tables of an amortised fit: a sum that adds up as printed, rows named with their errors."""

import re
from dataclasses import replace

import numpy as np
import pytest

from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.reports.sections.gap_tables import tables


def test_the_ledger_adds_up_as_printed(numbers: AmortizedNumbers) -> None:
    table = next(t for t in tables(numbers) if t.title == "From log evidence to ELBO")
    value = {}
    for words, row, total in table.rows:
        read = [float(t.replace("−", "-").replace(",", "").split(" ±")[0]) for t in (row, total)]
        value[words.split(":")[0].split(",")[0]] = read[0]
        assert read[1] == pytest.approx(len(numbers.ledger.rows) * read[0], rel=0.02, abs=3.0)
    left = value["log evidence"]
    for gap, end in (
        ("− approximation gap", "= ELBO of the best q of each row"),
        ("− amortisation gap", "= ELBO of the encoder"),
    ):
        left -= value[gap]
        assert left == pytest.approx(value[end], abs=0.05)


def test_the_worst_rows_are_named_with_their_errors(numbers: AmortizedNumbers) -> None:
    unlabelled = replace(numbers, labels=None)
    table = next(t for t in tables(unlabelled) if t.title == "The worst rows")
    assert len(table.rows) == len(numbers.worst)
    first = table.rows[0]
    i = int(numbers.worst[0])
    assert first[0] == f"#{numbers.index[i]}"
    assert re.fullmatch(r"−?\d+\.\d\d ± \d+\.\d\d", first[1])
    gap = numbers.bound[i] - numbers.elbo[i]
    assert float(first[4].replace("−", "-")) == pytest.approx(gap, abs=0.006)
    labelled = replace(numbers, labels=np.full(len(numbers.data), 7))
    assert tables(labelled)[-1].rows[0][0].endswith("(7)")


def test_what_is_not_known_has_no_table(numbers: AmortizedNumbers) -> None:
    bare = replace(numbers, ledger=None, gradients={})
    assert [t.title for t in tables(bare)] == ["The worst rows"]
    assert tables(replace(bare, index=None)) == []


def test_a_code_has_errors_and_no_khat(numbers: AmortizedNumbers) -> None:
    table = tables(replace(numbers, ledger=None, gradients={}, point=True))[0]
    assert list(table.columns) == ["Row", "squared error"]
