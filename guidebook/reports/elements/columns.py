"""The columns of the table of verdicts, as page and terminal write them.

One list for both. A column of `Comparison.table` that is not named here (one that a new diagnostic
brings) is shown after the others by its own name, with its standard error where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from guidebook.reports.elements.numbers import (
    MISSING,
    count,
    fixed,
    number,
    seconds,
    span,
    with_error,
)

Row = Mapping[str, Any]

WORDS = ("verdict", "reason", "next", "engine", "model", "codes")
"""What stands beside the numbers: on the cards, under the time, in the paragraphs."""


@dataclass(frozen=True)
class Column:
    """A column as it is read.

    - `of`: the columns of the comparison's table that it writes.
    - `unit`: "{sd}" stands for whose standard deviations they are.
    - `least`: where a terminal is too narrow, the column with the highest leaves first.
    """

    heading: str
    unit: str
    of: tuple[str, ...]
    write: Callable[[Row], str]
    least: int


def khat(row: Row) -> str:
    """k-hat, never without its error; 'exact' weights have k-hat -inf and none."""
    value, error = fixed(row["khat"]), fixed(row["khat_se"])
    return value if error == MISSING or math.isinf(row["khat"]) else f"{value} ± {error}"


def _with_se(name: str) -> Callable[[Row], str]:
    return lambda row: with_error(row[name], row[f"{name}_se"])


COLUMNS = (
    Column("checks", "agree, of asked", ("checks",), lambda row: row["checks"] or MISSING, 4),
    Column("k-hat", "± se", ("khat", "khat_se"), khat, 0),
    Column("ELBO", "nats ± se", ("elbo", "elbo_se"), _with_se("elbo"), 2),
    Column(
        "log evidence", "nats ± se", ("log_evidence", "log_evidence_se"), _with_se("log_evidence"), 3
    ),
    Column("ESS", "draws", ("ess",), lambda row: count(row["ess"]), 5),
    Column("mean error", "{sd}", ("mean_error",), lambda row: fixed(row["mean_error"]), 0),
    Column(
        "sd ratios", "least to most", ("sd_ratio_min", "sd_ratio_max"),
        lambda row: span(row["sd_ratio_min"], row["sd_ratio_max"]), 1,
    ),
    Column("Stein", "error, sd", ("stein",), lambda row: fixed(row["stein"]), 7),
    Column("Wasserstein", "{sd}", ("wasserstein",), lambda row: fixed(row["wasserstein"]), 8),
    Column("time", "", ("seconds",), lambda row: seconds(row["seconds"]), 6),
)  # fmt: skip


def columns_of(table: Iterable[str]) -> list[Column]:
    """The columns of a table with these columns: those above, then whatever else it has."""
    names = [str(name) for name in table]
    known = {name for column in COLUMNS for name in column.of} | set(WORDS)
    more = [name for name in names if name not in known]
    further = [
        Column(name.replace("_", " "), "", (name,), _any(name, names), 4)
        for name in more
        if name.removesuffix("_se") not in more or not name.endswith("_se")
    ]
    return [column for column in COLUMNS if set(column.of) <= set(names)] + further


def _any(name: str, names: list[str]) -> Callable[[Row], str]:
    """Numbers with their error where the table has it, anything else as it is."""

    def write(row: Row) -> str:
        value = row[name]
        if isinstance(value, str) or value is None:
            return value or MISSING
        error = row[f"{name}_se"] if f"{name}_se" in names else math.nan
        return with_error(value, error) if math.isfinite(error) else number(value)

    return write


def sentence(value: Any) -> str:
    """A sentence of the table; nothing where there is none (NaN)."""
    return value.strip() if isinstance(value, str) else ""
