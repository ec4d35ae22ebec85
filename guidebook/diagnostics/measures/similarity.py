"""Structural similarity of pictures, and the pictures whose squared error misleads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, shift

from guidebook.errors import DataError

WINDOW, K1, K2 = 1.5, 0.01, 0.03
"""Standard deviation of the Gaussian window in pixels, and the two constants: Wang et al. 2004."""


SHIFT = 0.5
"""Pixels, as in Doersch's figure."""


def ssim(a: np.ndarray, b: np.ndarray, span: float | None = None) -> np.ndarray:
    r"""Structural similarity of images (..., height, width): 1 for equal ones, at least -1.

    The mean over pixels of, with Gaussian windows (sd 1.5 pixels),

    .. math:: \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
        {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}, \quad
        c_1 = (0.01 L)^2,\ c_2 = (0.03 L)^2

    Arguments: `span` L, the range of the data (None: that of both images). Edges are mirrored, so
    that small images have values everywhere. Raises DataError for images of different shapes.

    Source: Wang, Bovik, Sheikh & Simoncelli (2004), equation 13.
    """
    result: np.ndarray = ssim_map(a, b, span).mean((-2, -1))
    return result


def ssim_map(a: np.ndarray, b: np.ndarray, span: float | None = None) -> np.ndarray:
    """`ssim` at every pixel: the shape of a and b."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim < 2:
        raise DataError(f"SSIM compares images of one shape, not {a.shape} and {b.shape}.")
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    L = float(span) if span is not None else float(high - low) or 1.0

    def blurred(image: np.ndarray) -> np.ndarray:
        width = (0.0,) * (image.ndim - 2) + (WINDOW, WINDOW)
        return np.asarray(gaussian_filter(image, width, truncate=3.5))

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    both = blurred(a * b) - mean_a * mean_b
    c1, c2 = (K1 * L) ** 2, (K2 * L) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    result: np.ndarray = top / bottom
    return result


class Warned(NamedTuple):
    """Images (n, height, width) and what was done to them; squared error and SSIM of each, (n,)."""

    images: np.ndarray
    changed: dict[str, np.ndarray]
    squared: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]

    @property
    def disagree(self) -> np.ndarray:
        """Where (n,) the one with the larger squared error is the more alike by SSIM."""
        farther = self.squared["altered"] - self.squared["shifted"]
        nearer = self.similarity["altered"] - self.similarity["shifted"]
        result: np.ndarray = farther * nearer > 0
        return result


def warning_images(images: np.ndarray) -> Warned:
    """Images (n, height, width), shifted by half a pixel, with a piece missing, and made brighter.

    `altered`: the brightest patch, a quarter of the side, at the level of the background (the
    image's median). `brighter`: a constant added, so large that the squared error is the shift's.
    """
    images = np.asarray(images, dtype=float)
    low, high = float(images.min()), float(images.max())
    span = max(high - low, 1e-12)
    moved = np.stack([shift(one, (0, SHIFT), order=1, cval=one.min()) for one in images])
    error = np.square(moved - images).mean((1, 2), keepdims=True)
    changed = {
        "shifted": moved,
        "altered": np.stack([_without_patch(one) for one in images]),
        "brighter": images + np.sqrt(error),
    }
    return Warned(
        images,
        changed,
        {name: np.square(one - images).sum((1, 2)) for name, one in changed.items()},
        {name: ssim(images, one, span) for name, one in changed.items()},
    )


def _without_patch(image: np.ndarray) -> np.ndarray:
    side = max(1, round(min(image.shape) / 4))
    windows = np.lib.stride_tricks.sliding_window_view(image, (side, side)).sum((-2, -1))
    row, column = np.unravel_index(int(windows.argmax()), windows.shape)
    result = image.copy()
    result[row : row + side, column : column + side] = np.median(image)
    return result
