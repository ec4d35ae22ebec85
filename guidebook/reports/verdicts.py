"""The verdicts and the table of numbers, as the page shows them: one card and one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidebook.diagnostics.amortized.uses import CODES, MODEL
from guidebook.diagnostics.evidence.testimony import MEAN_LIMIT, SD_HIGH, SD_LOW
from guidebook.reports.elements.columns import Column, columns_of, sentence
from guidebook.reports.elements.numbers import MISSING, listing, minus, span
from guidebook.reports.elements.style import colours
from guidebook.reports.elements.summaries import khat_limit_of, names_of, unsound, verdict_word

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

FACTS = ("checks", "k-hat", "mean error", "sd ratios", "time")
"""The columns that stand on the card; the first of them only there, for the table is wide enough."""


@dataclass(frozen=True)
class Cell:
    """One number of the table; `off` where beyond what the verdict allows; `note` below it."""

    text: str
    off: bool = False
    note: str = ""


@dataclass(frozen=True)
class Use:
    """What an amortised fit is used for, and the verdict on that."""

    name: str
    word: str
    reason: str
    next: str


@dataclass(frozen=True)
class Row:
    """One approximation, as its card, its row of the table and its witnesses show it."""

    name: str
    colour: str
    word: str
    warning: str
    reason: str
    next: str
    facts: list[tuple[str, str]]
    cells: list[Cell]
    witnesses: list[str]
    uses: list[Use]


def _shown(comparison: Compared) -> list[Column]:
    """The columns of the table of numbers."""
    return [column for column in _columns(comparison) if column.heading != FACTS[0]]


def _columns(comparison: Compared) -> list[Column]:
    """The columns in which some approximation has something."""
    rows = [comparison.table.loc[name] for name in comparison.table.index]
    return [
        column
        for column in columns_of(comparison.table.columns)
        if any(column.write(row) != MISSING for row in rows)
    ]


def rows_of(comparison: Compared) -> list[Row]:
    """Every approximation, the reference among them."""
    columns = _columns(comparison)
    return [_row(comparison, name, columns) for name in names_of(comparison)]


def _row(comparison: Compared, name: str, columns: list[Column]) -> Row:
    row: Mapping[str, Any] = comparison.table.loc[name]
    word = verdict_word(comparison, name)
    off = _beyond(row, khat_limit_of(comparison, name)) if word != "reference" else set()
    cells = [
        Cell(
            _html(column.write(row)),
            column.heading in off,
            sentence(row["engine"]) if column.heading == "time" else "",
        )
        for column in columns
        if column.heading != FACTS[0]
    ]
    facts = [
        (f"{column.heading} that agree" if column.heading == FACTS[0] else column.heading, text)
        for column in columns
        if column.heading in FACTS and (text := _html(column.write(row))) != _html(MISSING)
    ]
    return Row(
        name=name,
        colour=colours(comparison)[name],
        word=word,
        warning=str(comparison.verdicts[name].value) if unsound(comparison, name) else "",
        reason=sentence(row["reason"]),
        next=sentence(row["next"]),
        facts=facts,
        cells=cells,
        witnesses=[str(said) for said in comparison.witnesses.get(name, [])],
        uses=_uses(comparison, name),
    )


def _uses(comparison: Compared, name: str) -> list[Use]:
    """The uses of an amortised fit; empty for others."""
    numbers = comparison.amortized.get(name)
    return [
        Use(use, one.verdict.value, one.reason, one.next)
        for use, one in (numbers.uses.items() if numbers else ())
    ]


def _html(text: str) -> str:
    """True minus signs; a dash where there is no number."""
    return "–" if text == MISSING else minus(text)


def _beyond(row: Mapping[str, Any], limit: float) -> set[str]:
    """The headings of the numbers that a trusted approximation may not have; none where missing."""
    outside = {
        "k-hat": float(row["khat"]) > limit,
        "mean error": float(row["mean_error"]) > MEAN_LIMIT,
        "sd ratios": float(row["sd_ratio_min"]) < SD_LOW or float(row["sd_ratio_max"]) > SD_HIGH,
    }
    return {heading for heading, is_outside in outside.items() if is_outside}


def headings(comparison: Compared) -> list[tuple[str, str]]:
    """Heading and unit of each column of the table."""
    sd = "reference sd" if comparison.reference is not None else "posterior sd"
    columns = _shown(comparison)
    return [(c.heading[:1].upper() + c.heading[1:], c.unit.format(sd=sd)) for c in columns]


def limits(comparison: Compared) -> str:
    """What a trusted approximation keeps to, for the key of the table."""
    each = [khat_limit_of(comparison, name) for name in names_of(comparison)]
    return (
        f"k-hat {span(min(each), max(each))}, mean error {MEAN_LIMIT} sd, "
        f"sd ratio {SD_LOW:.2f} to {SD_HIGH}"
    )


def headline(rows: list[Row]) -> str:
    """The verdict in one sentence or two, for who reads nothing else."""
    whole = [row for row in rows if not row.uses]
    groups = {
        word: [row.name for row in whole if row.word == word]
        for word in ("trust", "reweight", "reject")
    }
    sentences = []
    if groups["trust"]:
        sentences.append(f"Trust {listing(groups['trust'])}.")
    if groups["reweight"]:
        sentences.append(f"Use {listing(groups['reweight'])} with importance weights only.")
    if groups["reject"]:
        every = len(groups["reject"]) == sum(row.word != "reference" for row in rows)
        none = ", so no approximation compared here can be used" if every else ""
        sentences.append(f"Reject {listing(groups['reject'])}{none}.")
    sentences += [_by_use(row) for row in rows if row.uses]
    sentences += [
        f"Warning: the reference {row.name} failed its own checks." for row in rows if row.warning
    ]
    return " ".join(sentences)


def _by_use(row: Row) -> str:
    """The verdicts of an amortised fit, each with the use that it is of."""
    said = []
    for word in ("trust", "reweight", "reject"):
        of = [f"the {use.name}" if use.name in (MODEL, CODES) else use.name
              for use in row.uses if use.word == word]  # fmt: skip
        if of:
            said.append(f"{word} {listing(of)}")
    return f"{row.name}: {'; '.join(said)}."


def subtitle(comparison: Compared) -> str:
    """What is compared with what."""
    names = [name for name in names_of(comparison) if name != comparison.reference]
    what = f"{len(names)} approximation{'s' if len(names) != 1 else ''} of the posterior"
    if comparison.reference is None:
        return f"{what}, without a reference"
    return f"{what}, compared with {comparison.reference}"
