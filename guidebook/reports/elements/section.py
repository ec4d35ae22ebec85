"""NEEDS A DOCSTRING: guidebook.reports.elements.section."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.figure import Figure

from guidebook.reports.elements.style import png

#: Dots an inch of the images; fewer, down to the second, where they would exceed the bytes.
_FINE, _COARSE = 150, 60


_MOST_BYTES = 600_000


#: Pixels of the page an inch of a figure is shown at.
_SHOWN = 106


@dataclass(frozen=True)
class Picture:
    """A figure with its title and how to read it."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Image:
    """A picture ready for the page: its bytes as a data address, its width in pixels."""

    title: str
    caption: str
    source: str
    width: int


def encoded(sections: list[list[Picture]]) -> list[list[Image]]:
    """The pictures as data addresses, all at the finest resolution that keeps the page small."""
    images = [[_image(picture, _FINE) for picture in section] for section in sections]
    size = sum(len(image.source) for section in images for image in section)
    if size <= _MOST_BYTES:
        return images
    # Compressed drawings grow about as their edges do, linearly in the resolution.
    dpi = max(_COARSE, int(_FINE * _MOST_BYTES / size))
    return [[_image(picture, dpi) for picture in section] for section in sections]


def _image(picture: Picture, dpi: int) -> Image:
    source = base64.b64encode(png(picture.figure, dpi)).decode("ascii")
    inches = float(picture.figure.get_size_inches()[0])
    return Image(
        picture.title, picture.caption, f"data:image/png;base64,{source}", round(inches * _SHOWN)
    )


def _drawn(title: str, caption: str, figure: Figure | None) -> list[Picture]:
    """One picture; none where there was nothing to draw."""
    return [] if figure is None else [Picture(title, caption, figure)]


class Table(NamedTuple):
    """A table of the page: its title, headings, rows of text, and how to read it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str
