"""A comparison as plain text: the table of verdicts, and a paragraph an approximation."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from guidebook.errors import printable
from guidebook.reports.elements.columns import Column, columns_of, sentence
from guidebook.reports.elements.numbers import MISSING, listing
from guidebook.reports.elements.summaries import names_of, unsound, verdict_word

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

_COLOURS = {
    "trust": "\033[32m",
    "reweight": "\033[33m",
    "reject": "\033[31m",
    "reference": "\033[1m",
}
_PLAIN = "\033[0m"


def table(comparison: "Compared", width: int | None = None) -> str:
    """The comparison as text of at most `width` columns (the terminal's where None, at least 40).

    The table of numbers, then for each approximation the reason of its verdict, what to do next, and
    what each diagnostic found. The columns that matter least are left out where the width does not
    hold them. The verdicts are coloured only where standard output is a terminal and NO_COLOR is
    not set.
    """
    room = max(40, shutil.get_terminal_size((120, 24)).columns if width is None else width)
    names = names_of(comparison)
    shown = [printable(name).replace("\n", " ") for name in names]
    words = [verdict_word(comparison, name) for name in names]
    longest = max(12, room - 20)
    first = ["approximation", *(_cut(name, longest) for name in shown)]
    columns, dropped = _fitting([first, ["verdict", *words]], _measured(comparison), room)
    lines = [line.rstrip() for line in _aligned(columns)]
    rule = "-" * max(len(line) for line in lines)
    painted = [_paint(line, word) for line, word in zip(lines[1:], words, strict=True)]
    text = [_heading(comparison, room), "", lines[0], rule, *painted]
    text += ["", *_notes(comparison, dropped, room)]
    for name in names:
        text += _paragraph(comparison, name, min(room, 100))  # longer lines are hard to read
    return "\n".join(text)


def _measured(comparison: "Compared") -> list[tuple[Column, list[str]]]:
    """Every column that has a number, with its cells under its heading."""
    rows: list[Mapping[str, Any]] = [comparison.table.loc[name] for name in comparison.table.index]
    written = [
        (column, [column.write(row) for row in rows])
        for column in columns_of(comparison.table.columns)
    ]
    return [
        (column, [column.heading, *cells])
        for column, cells in written
        if any(cell != MISSING for cell in cells)
    ]


def _fitting(
    first: list[list[str]], measured: list[tuple[Column, list[str]]], room: int
) -> tuple[list[list[str]], list[str]]:
    """The columns that the width holds, and the headings of those that it does not."""
    kept, dropped = list(measured), []
    while kept and _total([*first, *(cells for _, cells in kept)]) > room:
        least = max(kept, key=lambda pair: pair[0].least)
        kept.remove(least)
        dropped.append(least[0].heading)
    return [*first, *(cells for _, cells in kept)], dropped


def _heading(comparison: "Compared", room: int) -> str:
    """What is compared with what."""
    names = [name for name in names_of(comparison) if name != comparison.reference]
    what = f"{len(names)} approximation{'s' if len(names) != 1 else ''}"
    against = (
        f"compared with {comparison.reference}"
        if comparison.reference is not None
        else "no reference"
    )
    return textwrap.fill(printable(f"{what}, {against}"), room)


def _notes(comparison: "Compared", dropped: list[str], room: int) -> list[str]:
    """Units, and what the width left out."""
    against = (
        comparison.reference if comparison.reference is not None else "the estimated posterior"
    )
    notes = [
        "ELBO and log evidence in nats; mean error and Wasserstein distance in standard deviations of "
        f"{against}; ± standard error."
    ]
    if dropped:
        notes.append(
            f"Columns left out because the terminal is too narrow: {listing(list(reversed(dropped)))}."
        )
    return [line for note in notes for line in textwrap.wrap(printable(note), room)]


def _paragraph(comparison: "Compared", name: str, room: int) -> list[str]:
    """The reason, what to do next and what each diagnostic found, wrapped under the name."""
    word = verdict_word(comparison, name)
    title = printable(f"{name}: {word}")
    if word == "reference":
        if not unsound(comparison, name):
            return []
        word = str(comparison.verdicts[name].value)
        title += f", failed its own checks ({word})"
    lines = ["", _paint(title, word)]
    for words in filter(None, _said(comparison, name)):
        lines += textwrap.wrap(printable(words), room, initial_indent="  ", subsequent_indent="  ")
    for said in comparison.witnesses.get(name, []):
        lines += textwrap.wrap(
            printable(str(said)), room, initial_indent="  - ", subsequent_indent="    "
        )
    return lines


def _said(comparison: "Compared", name: str) -> list[str]:
    """The reason and what to do next; of an amortised fit by use."""
    row, numbers = comparison.table.loc[name], comparison.amortized.get(name)
    if numbers is None or not numbers.uses:
        return [sentence(row["reason"]), sentence(row["next"])]
    return [
        f"{use[:1].upper()}{use[1:]}: {one.verdict.value}. {one.reason} {one.next}"
        for use, one in numbers.uses.items()
    ]


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
