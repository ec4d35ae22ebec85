"""Small patterns of units -1 and +1, for memories and Boltzmann machines.

All tensors have torch's default dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guidebook.errors import DataError, SettingError

SIDE = 5

LETTERS = {
    "A": ".###. #...# ##### #...# #...#",
    "C": ".#### #.... #.... #.... .####",
    "J": "..### ...#. ...#. #..#. .##..",
    "L": "#.... #.... #.... #.... #####",
    "M": "#...# ##.## #.#.# #...# #...#",
    "T": "##### ..#.. ..#.. ..#.. ..#..",
    "X": "#...# .#.#. ..#.. .#.#. #...#",
    "Z": "##### ...#. ..#.. .#... #####",
}
"""Letters drawn on 5 x 5 squares, row by row: # is +1, a dot is -1."""


def letters(names: str = "JLTX") -> dict[str, Tensor]:
    """Letters of 5 x 5 units, row by row: `{"v": (number of letters, 25)}` of -1 and +1.

    The four of the default are nearly orthogonal (any two agree in 10 to 15 of their 25 units), so
    that Hebb's rule holds all four although that is 0.16 patterns a unit. Any of A C J L M T X Z
    may be asked for. Raises DataError for another letter.

    >>> letters("T")["v"].reshape(5, 5)[0].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]

    Source: drawn for this library, after the usual demonstrations of Hopfield (1982).
    """
    unknown = [name for name in names if name not in LETTERS]
    if unknown or not names:
        raise DataError(f"There is no pattern for {unknown}: the letters are {' '.join(LETTERS)}.")
    drawn = [LETTERS[name].replace(" ", "") for name in names]
    return {"v": torch.tensor([[1.0 if unit == "#" else -1.0 for unit in one] for one in drawn])}


def bars_and_stripes(side: int = 4) -> dict[str, Tensor]:
    """All pictures of side x side units whose rows, or whose columns, are of one value each.

    `{"v": (2^(side + 1) - 2, side^2)}` of -1 and +1, each picture once: 30 pictures for a side of 4.
    Correlations of pairs cannot tell them from other pictures: a machine needs hidden units for
    them. A perfect model has log p = -log 30 for each. Raises SettingError unless 1 < side <= 8.

    Source: MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapter 43.
    """
    if not 1 < side <= 8:
        raise SettingError(f"side={side}: give a whole number from 2 to 8.")
    bits = torch.arange(2**side).unsqueeze(-1) >> torch.arange(side) & 1
    lines = bits.to(torch.get_default_dtype()) * 2 - 1
    stripes = lines.repeat_interleave(side, 1)
    bars = lines.repeat(1, side)[1:-1]  # all on and all off are stripes already
    return {"v": torch.cat([stripes, bars])}
