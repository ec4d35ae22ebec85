"""The importance-weighted bound of every row, and its doubly reparameterised gradient."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.inference.objectives.fixed import with_fixed_parameters
from guidebook.inference.objectives.objective import Objective
from guidebook.inference.objectives.rows import PLATE, row_scale, values_of


class ImportanceWeightedELBO(Objective):
    r"""The importance-weighted bound of every row, summed over rows.

    .. math:: L_k = \sum_i E \log \frac{1}{k} \sum_{j=1}^k w_{ji}, \qquad
        w_{ji} = p(x_i, z_{ji}) / q(z_{ji} \mid x_i)

    It rises to the log evidence with k, and the guide is asked to be a good proposal for k draws
    instead of a good posterior. `gradient="reparameterised"` is autodiff of the bound; the part of the
    guide then has a signal-to-noise ratio that falls as 1 / sqrt(k). `"doubly"` is the doubly
    reparameterised gradient, in which it rises:

    .. math:: \nabla_\phi = \sum_j \tilde w_j^2\,
        \frac{\partial \log w_j}{\partial z_j} \frac{\partial z_j}{\partial \phi}

    and the model's gradient is the usual one. It costs a second forward pass.

    Arguments: `particles` k; `plate`, the plate of rows. Raises SettingError for another gradient;
    in use GuideError for draws without gradient, ModelError for a site that rows share.

    Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders; Tucker, Lawson,
    Gu & Maddison (2019), Doubly reparameterized gradient estimators for Monte Carlo objectives;
    Rainforth, Kosiorek, Le et al. (2018), Tighter variational bounds are not necessarily better.
    """

    def __init__(
        self,
        particles: int,
        gradient: Literal["reparameterised", "doubly"] = "reparameterised",
        plate: str = PLATE,
        max_plate_nesting: int = 1,
    ) -> None:
        if gradient not in ("reparameterised", "doubly"):
            raise SettingError(
                f"There is no gradient {gradient!r}: give 'reparameterised' or 'doubly'."
            )
        super().__init__(particles, max_plate_nesting)
        self.gradient = gradient
        self.plate = plate

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        drawn = self._drawn(guide, data)
        z = values_of(drawn)
        if self.gradient == "reparameterised":
            scored = self._scored(model, data, z)
            log_w = self._row_density(scored, self.plate) - self._row_density(drawn, self.plate)
            return -row_scale(scored, self.plate) * log_mean_exp(log_w).sum()
        with torch.no_grad():
            scored = self._scored(model, data, {name: value.detach() for name, value in z.items()})
            weights = self._row_density(scored, self.plate) - self._row_density(drawn, self.plate)
        bound, share = log_mean_exp(weights).sum().detach(), weights.softmax(0).detach()
        z = {n: _slowed(v, share, drawn.nodes[n], self.plate) for n, v in z.items()}
        scored = self._scored(model, data, z)
        fixed = self._scored(with_fixed_parameters(guide), data, z)
        log_w = self._row_density(scored, self.plate) - self._row_density(fixed, self.plate)
        surrogate = (share * log_w).sum()
        return -row_scale(scored, self.plate) * (bound + surrogate - surrogate.detach())


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log of the mean of exp over the first dimension."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def _slowed(value: Tensor, share: Tensor, site: Any, plate: str) -> Tensor:
    """The value, its gradient multiplied by the share (particles, n) of its particle and row."""
    dim = next(frame.dim for frame in site["cond_indep_stack"] if frame.name == plate)
    event = len(site["fn"].event_shape)
    width = value.dim() - event
    shape = [1] * width
    shape[dim] = share.shape[1]
    if share.shape[0] > 1:
        shape[0] = share.shape[0]
    factor = share.reshape(shape + [1] * event)
    return value.detach() + factor * (value - value.detach())
