r"""Rules without Adam's first moment: gradient descent with momentum, RMSprop, AdagradRMSProp.

.. math:: \text{SGD:} \quad b_t = \mu b + (1 - \tau) g, \qquad \Delta = \mathrm{rate}_t\, b_t, \qquad b_1 = g

.. math:: \text{RMSprop:} \quad s_t = \alpha s + (1 - \alpha) g^2, \qquad
    b_t = \mu b + \frac{g}{\sqrt{s_t} + \epsilon}, \qquad \Delta = \mathrm{rate}_t\, b_t

.. math:: \text{AdagradRMSProp:} \quad s_t = (1 - \tau) s + \tau g^2, \qquad s_1 = g^2, \qquad
    \Delta = \eta\, t^{-1/2 + \delta} \frac{g}{1 + \sqrt{s_t}}

With mu = 0 the buffer b is g itself, or the fraction. Nesterov's SGD moves by g + mu b; the centred
RMSprop takes the square of the mean gradient off s.

Sources: Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum
in deep learning"; Tieleman and Hinton 2012, "Lecture 6.5: RMSProp"; Graves 2013, "Generating sequences
with recurrent neural networks" (centred); Kucukelbir, Tran, Ranganath, Gelman and Blei 2017, "Automatic
differentiation variational inference", equations 10 and 11.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from guidebook.inference.optimisers.optimiser import Numbers, Rule, asked, blend, blend_square


def _decayed(flat: Tensor, grad: Tensor, o: Numbers) -> Tensor:
    return grad + o["weight_decay"] * flat if asked(o["weight_decay"]) else grad


def _sgd_tables(o: Numbers, t: Tensor) -> dict[str, Tensor]:
    made = {"rates": o["lr"] * torch.ones_like(t)}
    if asked(o["momentum"]):  # dampening spares the first step, and does nothing without momentum
        whole = (t == 1) | (o["momentum"] * torch.ones_like(t) == 0)
        made["enters"] = torch.where(whole, 1.0, (1 - o["dampening"]) * torch.ones_like(t))
    return made


def _sgd_update(flat: Tensor, grad: Tensor, kept: Mapping[str, Tensor], o: Numbers) -> Tensor:
    grad = _decayed(flat, grad, o)
    if asked(o["momentum"]):
        buffer = kept["buffer"].mul_(o["momentum"]).add_(o["enters"] * grad)
        grad = grad + o["momentum"] * buffer if o["nesterov"] else buffer
    return torch.as_tensor(o["rates"] * grad)


SGD = Rule(
    ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
    lambda o: ("buffer",) if asked(o["momentum"]) else (),
    _sgd_tables, _sgd_update,
)  # fmt: skip


def _rms_keeps(o: Numbers) -> tuple[str, ...]:
    mean = ("mean",) if o["centered"] else ()
    return ("square", *mean, *(("buffer",) if asked(o["momentum"]) else ()))


def _rms_update(flat: Tensor, grad: Tensor, kept: Mapping[str, Tensor], o: Numbers) -> Tensor:
    grad = _decayed(flat, grad, o)
    square = blend_square(kept["square"], o["alpha"], grad)
    if o["centered"]:
        square = square - blend(kept["mean"], o["alpha"], grad) ** 2
    move = grad / (square.sqrt() + o["eps"])
    if asked(o["momentum"]):
        move = kept["buffer"].mul_(o["momentum"]).add_(move)
    return torch.as_tensor(o["rates"] * move)


RMSPROP = Rule(
    ("lr", "alpha", "eps", "weight_decay", "momentum", "centered"),
    _rms_keeps, lambda o, t: {"rates": o["lr"] * torch.ones_like(t)}, _rms_update,
)  # fmt: skip


def _adagrad_tables(o: Numbers, t: Tensor) -> dict[str, Tensor]:
    return {
        "rates": o["lr"] * t ** (o["delta"] - 0.5),
        "enters": torch.where(t == 1, 1.0, o["t"] * torch.ones_like(t)),
    }


def _adagrad_update(flat: Tensor, grad: Tensor, kept: Mapping[str, Tensor], o: Numbers) -> Tensor:
    square = blend_square(kept["square"], 1 - o["enters"], grad)
    return torch.as_tensor(o["rates"] * grad / (1 + square.sqrt()))


ADAGRAD_RMSPROP = Rule(
    ("lr", "delta", "t"), lambda o: ("square",), _adagrad_tables, _adagrad_update
)
