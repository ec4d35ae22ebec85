"""Multilayer perceptrons: the networks that several pairs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from guidebook.errors import SettingError


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
