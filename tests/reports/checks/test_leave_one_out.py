"""The section of rows left out: its words follow from the k-hats and the LOO-PIT."""

from dataclasses import replace

import numpy as np

from guidebook.reports.checks.leave_one_out import leave_one_out, rows_left_out, sentences
from tests.reports.drawn import is_drawn


def test_usable_fits_have_a_row_each(comparison, machine_comparison):
    section = leave_one_out(comparison)
    (table,) = section.tables
    assert [row[0] for row in table.rows] == ["laplace"] and len(table.columns) == 6
    assert "plate 'school'" in section.words and "Each of the 4 rows" in section.words
    assert f"{comparison.leave_one_out['laplace'].elpd:.1f}".replace("-", "−") in table.rows[0][1]
    (picture,) = section.pictures
    is_drawn(picture.figure)
    assert leave_one_out(machine_comparison) is None


def test_a_row_beyond_the_limit_is_named(comparison):
    found = comparison.leave_one_out["laplace"]
    good = replace(found, khat=np.array([0.1, 0.2, 0.3, 0.1]))
    assert sentences("q", good) == [
        f"q: k-hat of every row is below {found.limit:.2f}, so elpd is reliable."
    ]
    bad = replace(found, khat=np.array([0.1, found.limit + 0.01, np.nan, found.limit - 0.01]))
    (words,) = sentences("q", bad)
    assert "k-hat of 2 of 4 rows exceeds" in words and "row 2" in words


def test_only_pit_far_from_uniform_are_mentioned(comparison):
    """Forty values: the p-value of the largest gap 0.25 is 0.011, that of 0.26 is 0.007."""
    found = comparison.leave_one_out["laplace"]
    even = (np.arange(40) + 0.5) / 40
    for shift, said in ((0.0, False), (0.23, False), (0.26, True)):
        moved = replace(found, pit=np.minimum(even + shift, 1.0), khat=np.zeros(4))
        words = " ".join(sentences("q", moved))
        assert ("not uniform" in words) is said
    assert "not uniform" not in " ".join(sentences("q", replace(found, pit=None)))
    is_drawn(rows_left_out(comparison, {"laplace": replace(found, pit=None)}))
