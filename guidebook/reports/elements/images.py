"""Pictures as data addresses, all at the finest resolution that keeps the page small."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from guidebook.reports.elements.section import Picture
from guidebook.reports.elements.style import png

#: Dots an inch of the images; fewer, down to the second, where they would exceed the bytes.
FINE, COARSE = 150, 60
MOST_BYTES = 600_000
#: Pixels of the page an inch of a figure is shown at.
SHOWN = 106


@dataclass(frozen=True)
class Image:
    """A picture's bytes as a data address, and its width in pixels."""

    source: str
    width: int


def encoded(pictures: Iterable[Picture]) -> dict[Picture, Image]:
    """The image of every picture, together at most 600 kB, or as coarse as can still be read."""
    some = list(pictures)
    images = {picture: _image(picture, FINE) for picture in some}
    size = sum(len(image.source) for image in images.values())
    if size <= MOST_BYTES:
        return images
    # Compressed drawings grow about as their edges do, linearly in the resolution.
    dpi = max(COARSE, int(FINE * MOST_BYTES / size))
    return {picture: _image(picture, dpi) for picture in some}


def _image(picture: Picture, dpi: int) -> Image:
    source = base64.b64encode(png(picture.figure, dpi)).decode("ascii")
    picture.figure.set_layout_engine("none")  # drawn again it is placed as it was: half of the time
    inches = float(picture.figure.get_size_inches()[0])
    return Image(f"data:image/png;base64,{source}", round(inches * SHOWN))
