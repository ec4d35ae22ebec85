r"""Sprites drawn by formulas: pictures whose factors of variation are known.

All combinations of shape, scale, orientation and place, each once: what a disentangled code should
hold apart. After Matthey, Higgins, Hassabis & Lerchner (2017), dSprites: disentanglement testing
sprites dataset; drawn here from scratch, smaller.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import SettingError

SHAPES = ("square", "ellipse", "heart")
FACTORS = ("shape", "scale", "orientation", "x", "y")
LEVELS = (3, 4, 4, 8, 8)
"""Values of each factor in `sprites()`: 3,072 pictures."""
FINE = 4
"""Points a pixel and axis at which a shape is asked for: edges have 17 levels of grey."""
AT_ONCE = 256


def sprites(side: int = 16, levels: tuple[int, int, int, int, int] = LEVELS) -> dict[str, Tensor]:
    """Every combination of the factors as a picture: `{"x": (n, side * side)}`, values in [0, 1].

    `levels` gives the number of shapes (of square, ellipse, heart), scales (radius 0.16 to 0.28 of the
    side), orientations (within a quarter turn, beyond which a square repeats itself) and places of
    the centre (0.3 to 0.7 of the side) in x and in y. n is their product; rows are in the order of
    `sprite_factors`, and no two are alike. The same pictures at every call; a float is torch's
    default dtype.

    Raises SettingError for a side below 8, more than three shapes, or a factor without a value.
    """
    _check(side, levels)
    factors = sprite_factors(levels).numpy()
    pictures = [
        _drawn(factors[start : start + AT_ONCE], side, levels)
        for start in range(0, len(factors), AT_ONCE)
    ]
    x = torch.from_numpy(np.concatenate(pictures))
    return {"x": x.to(torch.get_default_dtype())}


def sprite_factors(levels: tuple[int, int, int, int, int] = LEVELS) -> Tensor:
    """The factors of every row of `sprites`: integers (n, 5), in the order of `FACTORS`."""
    _check(8, levels)
    return torch.tensor(list(itertools.product(*map(range, levels))))


def _drawn(factors: np.ndarray, side: int, levels: tuple[int, ...]) -> np.ndarray:
    at = [_between(0, 1, count)[factors[:, i]] for i, count in enumerate(levels)]
    radius = 0.16 + 0.12 * at[1]
    angle = 0.5 * math.pi * factors[:, 2] / levels[2]
    centre = 0.3 + 0.4 * np.stack(at[3:], -1)
    points = (np.arange(side * FINE) + 0.5) / (side * FINE)
    dx = (points[None, None, :] - centre[:, 0, None, None]) / radius[:, None, None]
    dy = (points[None, :, None] - centre[:, 1, None, None]) / radius[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    inside = np.empty(np.broadcast_shapes(u.shape, v.shape), bool)
    for number, form in enumerate((_square, _ellipse, _heart)[: levels[0]]):
        rows = factors[:, 0] == number
        inside[rows] = form(u[rows], v[rows])
    blocks = inside.reshape(len(factors), side, FINE, side, FINE)
    return np.asarray(blocks.mean((2, 4)).reshape(len(factors), -1))


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(np.abs(u), np.abs(v)) <= 0.8)


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(u) + np.square(v / 0.55) <= 1)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # (u^2 + v^2 - 1)^3 <= u^2 v^3, point down as rows of a picture run
    u, v = 1.15 * u, -1.15 * v
    return np.asarray((np.square(u) + np.square(v) - 1) ** 3 <= np.square(u) * v**3)


def _between(low: float, high: float, count: int) -> np.ndarray:
    return np.linspace(low, high, count) if count > 1 else np.array([0.5 * (low + high)])


def _check(side: int, levels: tuple[int, ...]) -> None:
    if side < 8:
        raise SettingError(f"side={side}: a sprite needs at least 8 pixels.")
    if len(levels) != len(FACTORS) or min(levels) < 1 or levels[0] > len(SHAPES):
        raise SettingError(
            f"levels={levels} must give at least one value of each of {FACTORS}, and at most "
            f"{len(SHAPES)} shapes."
        )
