"""The score-function estimator of the ELBO's gradient: for draws that have no gradient of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from guidebook.inference.objectives.objective import Objective
from guidebook.inference.objectives.rows import PLATE, row_scale, traced, values_of


class ScoreFunctionELBO(Objective):
    r"""The evidence lower bound, its gradient by the score of q, row by row.

    .. math:: \nabla_\phi = \sum_i E\big[(\log p(x_i, z_i) - \log q(z_i \mid x_i) - b_i)\,
        \nabla_\phi \log q(z_i \mid x_i)\big]

    b_i is the average of the other particles' log weights of the same row, 0 where there is one
    particle. Draws need no gradient, so any guide will do; the variance is what reparameterisation
    and relaxation are for.

    Arguments: `particles`; `plate`, the plate of rows. Raises in use ModelError for a site that rows
    share.

    Source: Williams (1992), Simple statistical gradient-following algorithms for connectionist
    reinforcement learning; Mnih & Rezende (2016), Variational inference for Monte Carlo objectives,
    for the baseline.
    """

    def __init__(self, particles: int = 1, plate: str = PLATE, max_plate_nesting: int = 1) -> None:
        super().__init__(particles, max_plate_nesting)
        self.plate = plate

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        drawn = traced(guide, data, self.num_particles, self.max_plate_nesting)
        z = {name: value.detach() for name, value in values_of(drawn).items()}
        scored = self._scored(model, data, z)
        log_q = self._row_density(self._scored(guide, data, z), self.plate)
        log_w = self._row_density(scored, self.plate) - log_q
        signal = log_w.detach()
        if self.num_particles > 1:
            others = (signal.sum(0) - signal) / (self.num_particles - 1)
            signal = signal - others
        elbo = (log_w + signal * log_q - (signal * log_q).detach()).sum() / self.num_particles
        return -row_scale(scored, self.plate) * elbo
