"""What the figures of a report have in common: colours, type, and their way onto a page.

The figures are `matplotlib.figure.Figure` objects of their own: no pyplot, no backend, no open
figure that stays behind. arviz_plots draws overlays through its own figure management and takes no
weights (and on Python 3.11 several of its plots fail with current pandas and xarray), so the
report's figures are drawn here and arviz_stats gives the numbers in them.
"""

import functools
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from guidebook.reports.elements.summaries import names_of
from guidebook.scope import alone, quiet

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

P = ParamSpec("P")
R = TypeVar("R")

#: Okabe and Ito (2008), Color Universal Design: distinguishable with every common colour blindness.
#: Black and grey are kept for the reference, yellow is left out (too light on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK = "#1b1f24"
REFERENCE = "#2b2b2b"
GREY = "#8a8f98"
FAINT = "#e6e8eb"
#: Width of a page in inches: the figures are shown at about 106 pixels an inch.
WIDTH = 10.0

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.usetex": False,
    # Names come from the user: a "$" in one is a dollar, not mathematics.
    "text.parse_math": False,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.facecolor": "white",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "lines.linewidth": 1.6,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw` under the report's settings; the user's own matplotlib settings are as before after
    it.
    """

    @functools.wraps(draw)
    def styled_draw(*args: P.args, **kwargs: P.kwargs) -> R:
        with alone(), rc_context(_RC):  # matplotlib has one set of settings for all threads
            return draw(*args, **kwargs)

    return styled_draw


def colours(comparison: "Compared") -> dict[str, str]:
    """The colour of every approximation, the same in every figure and in the table."""
    result: dict[str, str] = {}
    for name in names_of(comparison):
        if name == comparison.reference:
            result[name] = REFERENCE
        else:
            taken = sum(1 for other in result if other != comparison.reference)
            result[name] = PALETTE[taken % len(PALETTE)]
    return result


def line_styles(comparison: "Compared") -> dict[str, str]:
    """The line of every approximation: where the colours start again, the dashes differ."""
    others = [name for name in names_of(comparison) if name != comparison.reference]
    styles = ("-", "--", ":", "-.")
    result = {n: styles[(i // len(PALETTE)) % len(styles)] for i, n in enumerate(others)}
    if comparison.reference is not None:
        result[comparison.reference] = "-"
    return result


def figure(height: float, width: float = WIDTH) -> Figure:
    """A figure of its own at page width."""
    return Figure(figsize=(width, height), layout="constrained")


def shorten(text: str, length: int = 30) -> str:
    """`text`, its middle left out where it is longer than `length`."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return text[:head] + "…" + text[len(text) - (length - 1 - head) :]


def gridlines(axes: Axes, axis: str = "x") -> None:
    """Faint lines behind the data, across the one axis that is read."""
    axes.set_axisbelow(True)
    if axis == "x":
        axes.xaxis.grid(True, color=FAINT, linewidth=0.8)
    else:
        axes.yaxis.grid(True, color=FAINT, linewidth=0.8)


@styled
def rendered(drawn: Figure, dpi: int) -> Image.Image:
    """The figure in pixels."""
    # A name may hold letters that the font lacks; the box drawn for them needs no warning.
    with quiet("Glyph .* missing from"):
        drawn.set_dpi(dpi)
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def reduced(image: Image.Image, share: float) -> Image.Image:
    """The image with fewer pixels, as if it had been drawn coarser: that would take longer."""
    width, height = (max(1, round(share * size)) for size in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def png(image: Image.Image) -> bytes:
    """The image as a PNG with a palette: a third of the bytes, and the same to the eye."""
    small = io.BytesIO()
    # the last tenth of the bytes would take ten times as long
    image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, format="PNG", compress_level=6
    )
    return small.getvalue()
