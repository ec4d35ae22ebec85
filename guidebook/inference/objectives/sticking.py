"""The evidence lower bound by the path derivative: no noise where the guide is the posterior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from guidebook.inference.objectives.fixed import with_fixed_parameters
from guidebook.inference.objectives.objective import Objective, observed_and_latent
from guidebook.inference.objectives.rows import values_of


class StickingTheLanding(Objective):
    r"""The evidence lower bound, its gradient without the score term of the guide.

    .. math:: \nabla_\phi = E \frac{\partial}{\partial z} \big[\log p(x, z) - \log q_\phi(z)\big]
        \frac{\partial z}{\partial \phi}

    The score that is left out has mean zero, so the gradient stays unbiased; its variance goes to
    zero where q is the posterior. It costs a second pass of the guide.

    Source: Roeder, Wu & Duvenaud (2017), Sticking the landing: simple, lower-variance gradient
    estimators for variational inference.
    """

    def __init__(self, particles: int = 1, max_plate_nesting: int = 1) -> None:
        super().__init__(particles, max_plate_nesting)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        z = values_of(self._drawn(guide, data))
        fit, log_p = observed_and_latent(self._scored(model, data, z))
        fixed = self._scored(with_fixed_parameters(guide), data, z)
        return (observed_and_latent(fixed)[1] - log_p - fit) / self.num_particles
