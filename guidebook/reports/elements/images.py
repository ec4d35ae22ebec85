"""Pictures as data addresses, all at the finest resolution that keeps the page small."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from guidebook.reports.elements.section import Picture
from guidebook.reports.elements.style import png, reduced, rendered

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
    drawn = {picture: rendered(picture.figure, FINE) for picture in pictures}
    images = {picture: _image(picture, pixels) for picture, pixels in drawn.items()}
    size = sum(len(image.source) for image in images.values())
    if size <= MOST_BYTES:
        return images
    # Compressed drawings grow about as their edges do, linearly in the resolution.
    share = max(COARSE / FINE, MOST_BYTES / size)
    return {picture: _image(picture, reduced(pixels, share)) for picture, pixels in drawn.items()}


def _image(picture: Picture, pixels: Any) -> Image:
    source = base64.b64encode(png(pixels)).decode("ascii")
    inches = float(picture.figure.get_size_inches()[0])
    return Image(f"data:image/png;base64,{source}", round(inches * SHOWN))
