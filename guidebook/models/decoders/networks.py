"""Networks that several pairs share: multilayer perceptrons, and convolutions of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from guidebook.errors import DataError, SettingError


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """A multilayer perceptron on the last dimension: (..., widths[0]) to (..., widths[-1]).

    The activation stands between layers, not after the last one: `mlp((P, K))` is one affine map,
    and what the outputs mean (a mean, logits, a scale) is the caller's business.

    The default is tanh: it is smooth, so gradients of the log joint with respect to the latents are
    too. Weights start as in `torch.nn.Linear`, from torch's global generator.

    Raises SettingError for fewer than two widths or one below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise SettingError(
            f"A network needs an input and an output width, each at least 1, not {tuple(widths)}."
        )
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


class ConvEncoder(nn.Module):
    r"""Convolutions of images, then one affine map: images (C, H, W) to `width` numbers.

    Each layer is a 3 x 3 convolution of stride 2 and padding 1, which halves height and width
    (rounded up), followed by the activation; `channels` names the channels after each.

    It takes images with any leading dimensions, flat (..., C H W) or shaped (..., C, H, W), and gives
    (..., width). There is no normalisation over a batch, so a row's output depends on that row alone.

    Arguments: `image_shape` (C, H, W); `width`; `channels`; `activation`. Raises SettingError for
    one below 1; when called, DataError for images of another shape.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        channels: Sequence[int] = (16, 32),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        _check_image(image_shape, channels, width)
        self.image_shape = image_shape
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((image_shape[0], *channels)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), activation()]
        self.convolutions = nn.Sequential(*layers)
        smallest = _halved(image_shape, len(channels))[-1]
        self.head = nn.Linear(channels[-1] * smallest[0] * smallest[1], width)

    def forward(self, x: Tensor) -> Tensor:
        """Images (..., C H W) or (..., C, H, W) to (..., width)."""
        leading = _leading(x, self.image_shape)
        maps = self.convolutions(x.reshape(-1, *self.image_shape))
        output: Tensor = self.head(maps.flatten(1))
        return output.reshape(*leading, output.shape[-1])


class ConvDecoder(nn.Module):
    r"""The mirror of `ConvEncoder`: latents (..., d) to flat images (..., blocks C H W).

    One affine map to the smallest feature maps, then transposed 3 x 3 convolutions of stride 2, each
    of which doubles height and width (less one where the encoder's counterpart had rounded up).

    `blocks` is how many numbers the likelihood needs for a pixel, `likelihood.width(P) / P`: 1 for
    a mean or logits, 2 with scales, 2 + r for `LowRankGaussian(r)`. Blocks follow each other, each of
    P = C H W numbers in the order of a flattened image.

    Arguments: `latent_dim` d; `image_shape` (C, H, W); `channels`, from the data to the latents, as
    for the encoder; `activation`; `blocks`. Raises SettingError for one below 1.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        channels: Sequence[int] = (16, 32),
        activation: Callable[[], nn.Module] = nn.ReLU,
        *,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        _check_image(image_shape, channels, min(latent_dim, blocks))
        sizes = _halved(image_shape, len(channels))
        self.smallest = (channels[-1], *sizes[-1])
        self.head = nn.Linear(latent_dim, math.prod(self.smallest))
        widths = (*reversed(channels), blocks * image_shape[0])
        layers: list[nn.Module] = []
        steps = zip(pairwise(widths), pairwise(reversed(sizes)), strict=True)
        for (fan_in, fan_out), (small, large) in steps:
            extra = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)  # 0 or 1
            layers += [
                activation(),
                nn.ConvTranspose2d(fan_in, fan_out, 3, 2, padding=1, output_padding=extra),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (..., d) to (..., blocks C H W)."""
        maps = self.head(z).reshape(-1, *self.smallest)
        output: Tensor = self.convolutions(maps).flatten(1)
        return output.reshape(*z.shape[:-1], output.shape[-1])


def _leading(x: Tensor, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The dimensions in front of an image, shaped or flat."""
    if x.dim() >= 3 and x.shape[-3:] == image_shape:
        return tuple(x.shape[:-3])
    if x.shape[-1:] == (math.prod(image_shape),):
        return tuple(x.shape[:-1])
    raise DataError(
        f"x has the shape {tuple(x.shape)}, and this network reads images (..., C, H, W) = (..., "
        f"{', '.join(map(str, image_shape))}) or flat rows of {math.prod(image_shape)}: check the "
        "channels, which come before height and width."
    )


def _halved(image_shape: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """Height and width, halved (rounded up) 0, 1, ..., `times` times."""
    sizes = [image_shape[1:]]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _check_image(image_shape: tuple[int, int, int], channels: Sequence[int], width: int) -> None:
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise SettingError(
            f"image_shape={tuple(image_shape)} must be (channels, height, width), each at least 1."
        )
    if not channels or min(*channels, width) < 1:
        raise SettingError(
            f"channels={tuple(channels)} must name at least one layer, each of at least 1, and every "
            "width must be at least 1."
        )
