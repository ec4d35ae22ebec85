r"""Adam and its kin, and the schedule of a fit without an optimiser of its own.

.. math:: m_t = b_1 m + (1 - b_1) g, \qquad v_t = b_2 v + (1 - b_2) g^2, \qquad
    \phi_t = \phi - \mathrm{rate}_t \frac{m_t / (1 - b_1^t)}{\sqrt{v_t / (1 - b_2^t)} + \epsilon}

AMSGrad has the largest v so far in the place of v; a weight decay w adds w phi to g, or, decoupled,
rate w phi to the move. `pyro.optim.ClippedAdam` limits every entry of g first, adds epsilon to the root
of v before its correction, and lets the rate fall by a factor a step.

By default the rate is constant, then falls, and the result is the average of the last iterates, whose
noise is smaller than that of any one of them.

Sources: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; Loshchilov and Hutter 2019,
"Decoupled weight decay regularization"; Reddi, Kale and Kumar 2018, "On the convergence of Adam and
beyond"; Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from guidebook.inference.optimisers.optimiser import (
    Numbers,
    Optimiser,
    Rule,
    asked,
    blend,
    blend_square,
)

AVERAGED = 0.2
"""The share of the steps, the last ones, whose iterates are averaged."""


def schedule(rate: float, steps: int, least: float = 0.01) -> Tensor:
    """Constant for 30 % of the steps, then along a cosine to `least` of it, shape (steps,)."""
    place = torch.linspace(0, 1, steps, dtype=torch.float64)
    fall = ((place - 0.3) / 0.7).clamp(min=0)
    return rate * (least + (1 - least) * 0.5 * (1 + torch.cos(math.pi * fall)))


def falling_adam(rate: float, steps: int) -> Optimiser:
    """Adam along `schedule`, with the average of the last iterates."""
    numbers = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    return Optimiser(ADAM, schedule(rate, steps), {**numbers, "decoupled_weight_decay": False})


def _keeps(o: Numbers) -> tuple[str, ...]:
    return ("m", "v", "largest") if o.get("amsgrad") else ("m", "v")


def _tables(o: Numbers, t: Tensor) -> dict[str, Tensor]:
    """Adam's corrections of its start, by step: exact, and no powers in the graph."""
    made = {"rates": o["lr"] / (1 - o["b1"] ** t), "shrink": (1 - o["b2"] ** t).rsqrt()}
    if o["decoupled_weight_decay"] and asked(o["weight_decay"]):
        made["decay"] = o["lr"] * o["weight_decay"]
    return made


def _update(flat: Tensor, grad: Tensor, kept: Mapping[str, Tensor], o: Numbers) -> Tensor:
    if not o["decoupled_weight_decay"] and asked(o["weight_decay"]):
        grad = grad + o["weight_decay"] * flat
    m, v = blend(kept["m"], o["b1"], grad), blend_square(kept["v"], o["b2"], grad)
    if o["amsgrad"]:
        v = kept["largest"].copy_(torch.maximum(kept["largest"], v))
    move = o["rates"] * m / (v.sqrt() * o["shrink"] + o["eps"])
    return move + o["decay"] * flat if "decay" in o else move


ADAM = Rule(
    ("lr", "b1", "b2", "eps", "weight_decay", "amsgrad", "decoupled_weight_decay"),
    _keeps, _tables, _update,
)  # fmt: skip


def _clipped_tables(o: Numbers, t: Tensor) -> dict[str, Tensor]:
    return {"rates": o["lr"] * (1 - o["b2"] ** t).sqrt() / (1 - o["b1"] ** t)}


def _clipped_update(flat: Tensor, grad: Tensor, kept: Mapping[str, Tensor], o: Numbers) -> Tensor:
    grad = grad.clamp(-o["clip_norm"], o["clip_norm"])
    if asked(o["weight_decay"]):
        grad = grad + o["weight_decay"] * flat
    m = blend(kept["m"], o["b1"], grad)
    v = blend_square(kept["v"], o["b2"], grad - m if o["centered_variance"] else grad)
    return torch.as_tensor(o["rates"] * m / (v.sqrt() + o["eps"]))


CLIPPED_ADAM = Rule(
    ("lr", "b1", "b2", "eps", "weight_decay", "clip_norm", "centered_variance"),
    _keeps, _clipped_tables, _clipped_update,
)  # fmt: skip
