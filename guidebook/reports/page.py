"""A comparison as one self-contained HTML file, and as the fragment a notebook shows.

A page is the verdicts, the table of numbers, and sections: functions of the comparison that return
a `Section` or None, in the order of `SECTIONS`. They draw what the comparison holds; nothing is
sampled, optimised or run here.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from guidebook.inference.fits.files import usable, write_whole
from guidebook.programs.owned import Owned
from guidebook.reports.checks.calibration import calibration
from guidebook.reports.checks.leave_one_out import leave_one_out
from guidebook.reports.checks.sensitivity import sensitivity
from guidebook.reports.elements.images import encoded
from guidebook.reports.elements.section import Section
from guidebook.reports.provenance import seeds, versions
from guidebook.reports.sections.amortized import amortized
from guidebook.reports.sections.data import data
from guidebook.reports.sections.energy import energy
from guidebook.reports.sections.forms import forms
from guidebook.reports.sections.general import general, overview
from guidebook.reports.sections.mixture import mixture
from guidebook.reports.sections.model import model
from guidebook.reports.verdicts import headings, headline, limits, rows_of, subtitle

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

Make = Callable[["Compared"], Section | None]

SECTIONS: tuple[Make, ...] = (
    general, calibration, leave_one_out, sensitivity, energy, mixture, forms, amortized,
)  # fmt: skip
"""What a page shows of the approximations; a pair's own sections come after these."""

ORIGIN: tuple[Make, ...] = (model, data)
"""What was approximated, at the end of the page."""


def to_html(
    comparison: Compared,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    command: str | None = None,
    sections: Sequence[Make] = (),
) -> Path:
    """Writes the comparison as one HTML file without links, scripts or other files; returns its
    path.

    The directory is made where it is missing. The file appears when it is complete: an interrupted
    call leaves an earlier page as it was.

    Args:
        comparison: what `guidebook.compare` returned.
        path: the file to write.
        title: heading of the page; the model's name where None.
        command: the command line that makes the page again, shown at its end.
        sections: further sections, functions of the comparison that return a `Section` or None.

    Raises:
        FileError: the directory cannot be made or written, or the disk is full.
    """
    target = usable(path, "to_html('{}')")  # before the figures are drawn
    text = whole_page(comparison, title, command, sections).encode("utf-8", "backslashreplace")
    write_whole(target, lambda file: file.write(text))
    return target


def whole_page(
    comparison: Compared,
    title: str | None = None,
    command: str | None = None,
    sections: Sequence[Make] = (),
) -> str:
    """The text of the page."""
    made = _made(comparison, (*SECTIONS, *sections, *ORIGIN))
    origin = {
        "title": title or _title(comparison),
        "command": command,
        "seeds": seeds(comparison),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    return _render("page.html.jinja", comparison, made, origin)


def fragment(comparison: Compared) -> str:
    """The verdicts, the table and the first figure, for a notebook's `_repr_html_`."""
    return _render("fragment.html.jinja", comparison, _made(comparison, (overview,)), {})


def _made(comparison: Compared, functions: Sequence[Make]) -> list[Section]:
    made = [make(comparison) for make in functions]
    return [section for section in made if section is not None]


def _render(
    template: str, comparison: Compared, sections: list[Section], more: dict[str, Any]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("guidebook.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = rows_of(comparison)
    content: dict[str, Any] = {
        "subtitle": subtitle(comparison),
        "headline": headline(rows),
        "rows": rows,
        "columns": headings(comparison),
        "limits": limits(comparison),
        "sections": sections,
        "images": encoded(p for section in sections for p in section.every_picture()),
    }
    return environment.get_template(template).render(content | more)


def _title(comparison: Compared) -> str:
    told: Any = comparison.model
    if isinstance(told, Owned):
        told = told.function[0]
    name = str(getattr(told, "__name__", type(told).__name__))
    if told is None or not name.isidentifier():  # a lambda
        return "Posterior approximations compared"
    return name.replace("_", " ")
