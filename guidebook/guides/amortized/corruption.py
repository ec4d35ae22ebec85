r"""Corruptions C(x~ | x), and the encoder that sees its input through one while it is trained.

A denoising autoencoder encodes x~ ~ C(x~ | x) and is asked for x itself, so that a reconstruction
has to undo the corruption. The model p(x | z) stays as it is; only the encoder's input changes.

Source: Vincent, Larochelle, Lajoie, Bengio & Manzagol (2010), Stacked denoising autoencoders, 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from guidebook.errors import DataError, SettingError

Corruption = Callable[[Tensor], Tensor]
"""x to a corrupted copy of the same shape, with torch's generator; x itself is left as it is."""


def gaussian(scale: float) -> Corruption:
    """x~ = x + scale * N(0, 1), independently for every number; `scale` in the data's units.

    Values may leave [0, 1]: the encoder reads them, no likelihood does. Raises SettingError for a
    scale that is negative or not finite.
    """
    if not 0 <= scale < math.inf:
        raise SettingError(f"scale={scale} is a standard deviation: give 0 or a positive number.")
    return lambda x: x + scale * torch.randn_like(x)


def masking(probability: float) -> Corruption:
    """x~ = 0 with the probability given and x otherwise, independently for every number.

    Raises SettingError for a probability outside [0, 1].
    """
    _check_probability(probability)
    return lambda x: torch.where(torch.rand_like(x) < probability, torch.zeros_like(x), x)


def salt_and_pepper(probability: float, low: float = 0.0, high: float = 1.0) -> Corruption:
    """x~ = low or high, each with half the probability given, and x otherwise, for every number.

    Raises SettingError for a probability outside [0, 1] or low above high.
    """
    _check_probability(probability)
    if not -math.inf < low <= high < math.inf:
        raise SettingError(f"low={low} and high={high} must be finite, with low <= high.")

    def corrupt(x: Tensor) -> Tensor:
        u = torch.rand_like(x)
        hit = torch.where(u < probability / 2, low, high)
        return torch.where(u < probability, hit.to(x), x)

    return corrupt


class CorruptedEncoder(nn.Module):
    """An encoder that reads `corrupt(x)` in training mode, and x itself in evaluation mode.

    `guidebook.svi` trains in training mode and hands its fits back in evaluation mode, so a fit's
    posterior is q(z | x) of the rows as they are; put its guide back with `.train()` before it is
    trained on.

    Arguments: `encoder`, any `nn.Module`; `corrupt`, one of this file's functions' results or any
    function of the kind that draws from torch's generator.
    """

    def __init__(self, encoder: nn.Module, corrupt: Corruption) -> None:
        super().__init__()
        self.encoder = encoder
        self.corrupt = corrupt

    def forward(self, x: Tensor) -> Tensor:
        """The encoder's outputs for x, corrupted in training mode. DataError for integers."""
        if not x.is_floating_point():
            raise DataError(
                f"x holds integers ({x.dtype}), and corruptions are of real numbers: give x.float(), "
                "or x.float() / 255 for bytes."
            )
        output: Tensor = self.encoder(self.corrupt(x) if self.training else x)
        return output


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise SettingError(f"probability={probability} must lie in [0, 1].")
