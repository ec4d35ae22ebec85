"""The evidence lower bound with weights on its two parts: beta-VAE, and warm-up of the KL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidebook.inference.objectives.objective import (
    Number,
    Objective,
    check_number,
    observed_and_latent,
)


class BetaELBO(Objective):
    r"""The evidence lower bound with weights on its two parts.

    .. math:: L = r\, E_q[\log p(x \mid z)] - \beta\, E_q[\log q(z) - \log p(z)]

    The KL part is over all latent sites of model and guide, the reconstruction r over the observed
    ones. beta > 1 is the beta-VAE; the same optimum written by a weight on the reconstruction is
    r = 1 / beta. For a Gaussian likelihood r is the inverse of its variance, up to the constant:
    a wish for sharper pictures is a smaller sigma. Only beta = r = 1 bounds the evidence.

    Arguments: `beta` and `reconstruction`, numbers or schedules (warm-up: `linear(0, 1, 0.2)`);
    `particles`, draws averaged; `max_plate_nesting` as in Pyro. Raises SettingError for a weight
    below 0, and GuideError in use for a guide whose draws have no gradient.

    Source: Higgins, Matthey, Pal et al. (2017), beta-VAE: learning basic visual concepts with a
    constrained variational framework; Bowman et al. (2016) for the warm-up.
    """

    def __init__(
        self,
        beta: Number = 1.0,
        reconstruction: Number = 1.0,
        particles: int = 1,
        max_plate_nesting: int = 1,
    ) -> None:
        check_number("beta", beta, 0.0, "1 gives the ELBO")
        check_number("reconstruction", reconstruction, 0.0, "1 gives the ELBO")
        super().__init__(particles, max_plate_nesting, beta=beta, reconstruction=reconstruction)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        scored, drawn = self._get_trace(model, guide, args, data)
        fit, log_p = observed_and_latent(scored)
        _, log_q = observed_and_latent(drawn)
        loss = self.numbers["beta"] * (log_q - log_p) - self.numbers["reconstruction"] * fit
        return torch.as_tensor(loss / self.num_particles)
