"""What a page is made of: sections, each with words, tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its title and a caption that says how to read it."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Table:
    """A table: its title, one heading a column, rows of text, and a caption.

    A heading may carry a unit after a line break. `numeric`: the columns after the first hold
    numbers, which are aligned to the right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading; the words stand first, then tables, then pictures.

    - `colour`: of the approximation that the section is about, a dot beside its title.
    - `parts`: sections under further headings, one level below.
    """

    title: str
    words: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    colour: str = ""
    parts: Sequence[Section] = ()

    @property
    def anchor(self) -> str:
        """The title as the name of a place in the page.

        >>> Section("The model").anchor
        'the-model'
        """
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    def every_picture(self) -> Iterator[Picture]:
        """Its pictures and those of its parts, in the order of the page."""
        yield from self.pictures
        for part in self.parts:
            yield from part.every_picture()


def drawn(title: str, caption: str, figure: Figure | None) -> list[Picture]:
    """One picture; none where there was nothing to draw."""
    return [] if figure is None else [Picture(title, caption, figure)]
