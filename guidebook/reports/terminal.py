"""A comparison as plain text: the table of verdicts, and a paragraph an approximation."""

import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidebook.reports.elements.numbers import count, fixed, listing, seconds, span, with_error
from guidebook.reports.elements.summaries import names_of, unsound, verdict_word

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared

_COLOURS = {
    "trust": "\033[32m",
    "reweight": "\033[33m",
    "reject": "\033[31m",
    "reference": "\033[1m",
}
_PLAIN = "\033[0m"


@dataclass(frozen=True)
class _Column:
    """A column: its heading, how a row is written in it; the highest `drop` leaves first."""

    heading: str
    write: Callable[[Mapping[str, Any]], str]
    drop: int


_COLUMNS = (
    _Column("k-hat", lambda row: _khat(row), 0),
    _Column("ELBO", lambda row: with_error(row["elbo"], row["elbo_se"]), 2),
    _Column("log evidence", lambda row: with_error(row["log_evidence"], row["log_evidence_se"]), 3),
    _Column("ESS", lambda row: count(row["ess"]), 4),
    _Column("mean error", lambda row: fixed(row["mean_error"]), 0),
    _Column("sd ratios", lambda row: span(row["sd_ratio_min"], row["sd_ratio_max"]), 1),
    _Column("time", lambda row: seconds(row["seconds"]), 5),
)


def table(comparison: "Compared", width: int | None = None) -> str:
    """The comparison as text of at most `width` columns (the terminal's where None, at least 40).

    The columns that matter least are left out where the width does not hold them. The verdicts are
    coloured only where standard output is a terminal and NO_COLOR is not set.
    """
    room = max(40, shutil.get_terminal_size((120, 24)).columns if width is None else width)
    names = names_of(comparison)
    rows: list[Mapping[str, Any]] = [comparison.table.loc[name] for name in comparison.table.index]
    words = [verdict_word(comparison, name) for name in names]
    longest = max(12, room - 20)
    first = ["approximation", *(_cut(name, longest) for name in names)]
    columns = [first, ["verdict", *words]]
    measured = [
        (column, [column.heading, *(column.write(row) for row in rows)])
        for column in _COLUMNS
        if any(column.write(row) != "-" for row in rows)
    ]
    dropped = []
    while measured and _total([*columns, *(cells for _, cells in measured)]) > room:
        least = max(measured, key=lambda pair: pair[0].drop)
        measured.remove(least)
        dropped.append(least[0].heading)
    lines = _aligned([*columns, *(cells for _, cells in measured)])
    lines = [line.rstrip() for line in lines]
    lines.insert(1, "-" * max(len(line) for line in lines))
    text = [
        _heading(comparison, room),
        "",
        *(_paint(line, words[i - 2] if i > 1 else "") for i, line in enumerate(lines)),
    ]
    text += ["", *_notes(comparison, dropped, room)]
    for name, row in zip(names, rows, strict=True):
        text += _paragraph(comparison, name, row, min(room, 100))  # longer lines are hard to read
    return "\n".join(text)


def _heading(comparison: "Compared", room: int) -> str:
    """What is compared with what."""
    names = [name for name in names_of(comparison) if name != comparison.reference]
    what = f"{len(names)} approximation{'s' if len(names) != 1 else ''}"
    against = (
        f"compared with {comparison.reference}"
        if comparison.reference is not None
        else "no reference"
    )
    return textwrap.fill(f"{what}, {against}", room)


def _khat(row: Mapping[str, Any]) -> str:
    """k-hat is never written without its error."""
    value, error = fixed(row["khat"]), fixed(row["khat_se"])
    return value if error == "-" or math.isinf(row["khat"]) else f"{value} ± {error}"


def _notes(comparison: "Compared", dropped: list[str], room: int) -> list[str]:
    """Units, and what the width left out."""
    against = (
        f"{comparison.reference}'s"
        if comparison.reference is not None
        else "the estimated posterior's"
    )
    notes = [
        "ELBO and log evidence in nats; "
        f"mean error in {against} standard deviations; ± standard error."
    ]
    if dropped:
        notes.append(f"Left out for width: {listing(dropped[::-1])}.")
    return [line for note in notes for line in textwrap.wrap(note, room)]


def _paragraph(comparison: "Compared", name: str, row: Mapping[str, Any], room: int) -> list[str]:
    """The reason and what to do next, wrapped under the name."""
    word = verdict_word(comparison, name)
    sentences = [_text(row["reason"]), _text(row["next"])]
    title = f"{name}: {word}"
    if word == "reference":
        if not unsound(comparison, name):
            return []
        word = str(comparison.verdicts[name].value)
        title += f", itself {word}"
    lines = ["", _paint(title, word)]
    for sentence in filter(None, sentences):
        lines += textwrap.wrap(sentence, room, initial_indent="  ", subsequent_indent="  ")
    return lines


def _text(value: Any) -> str:
    """A sentence of the table; nothing where there is none (NaN)."""
    return value.strip() if isinstance(value, str) else ""


def _cut(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 3] + "..."


def _total(columns: list[list[str]]) -> int:
    return sum(max(map(len, cells)) for cells in columns) + 2 * (len(columns) - 1)


def _aligned(columns: list[list[str]]) -> list[str]:
    """Words to the left, numbers to the right."""
    widths = [max(map(len, cells)) for cells in columns]
    return [
        "  ".join(
            cell.ljust(size) if i < 2 else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in zip(*columns, strict=True)
    ]


def _paint(line: str, word: str) -> str:
    """`line` in the colour of its verdict, where the output is a terminal that wants colour."""
    colour = _COLOURS.get(word, "")
    if not colour or "NO_COLOR" in os.environ or not sys.stdout.isatty():
        return line
    return f"{colour}{line}{_PLAIN}"
