r"""A neural spline flow on the unconstrained scale, started at the normal of the mode.

.. math:: u = m + L w, \qquad w = T^{-1}(\epsilon), \quad \epsilon \sim N(0, I_D), \qquad
    \log q(u) = \log q_w(w) - \log |L|

T is autoregressive, so that drawing and the density of what was drawn are one pass. Sources: Durkan
et al. 2019, "Neural spline flows"; Kingma et al. 2016, "Improved variational inference with inverse
autoregressive flow".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor

from guidebook.guides.autoguides.whitened import Model, Whitened, scaled_by
from guidebook.scope import random_state


class Flow(Whitened):
    """u = m + L w with w from a neural spline flow turned round, so that sampling is one pass."""

    family = "flow"
    # weights of networks: their size says nothing of how far q is from its optimum
    defaults = replace(Whitened.defaults, steps=4000, rate=0.005, standardised=False)

    def __init__(self, model: Model, transforms: int = 2, hidden: int = 32, bins: int = 8) -> None:
        super().__init__(model)
        self.options = {"transforms": transforms, "hidden": hidden, "bins": bins}

    def _make_parameters(self) -> None:
        import zuko

        o = self.options
        with random_state(0):  # the same start whatever the caller drew before
            flow = zuko.flows.NSF(
                self.latent_dim, transforms=o["transforms"], hidden_features=[o["hidden"]] * 2,
                bins=o["bins"],
            )  # fmt: skip
        with torch.no_grad():  # near the identity: the start is N(m, L L')
            for transform in flow.transform.transforms:
                last = transform.hyper[-1] if hasattr(transform, "hyper") else transform  # D = 1
                for parameter in last.parameters():
                    parameter.mul_(0.1)
        self.flow = zuko.lazy.Flow(flow.transform.inv, flow.base).to(self.center)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        return _AffineOfFlow(self.flow(None), self.center, self.factor)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        draws = self.get_posterior()((4000,))
        return draws.mean(0), draws.std(0)


AT_ONCE = 10_000
"""Coordinates that are bent at a time where no gradient is asked for: of twenty times as many the splines of
a flow of 11 coordinates take gigabytes, and no less time.
"""


class _AffineOfFlow(ZukoToPyro):
    """center + factor w, w from a zuko flow; the density of a fresh draw is kept for scoring."""

    def __init__(self, flow: Any, center: Tensor, factor: Tensor) -> None:
        super().__init__(flow)
        self.center, self.factor = center, factor
        diagonal = factor if factor.dim() == 1 else factor.diagonal()
        self.log_det = diagonal.log().sum()

    def __call__(self, shape: Any = ()) -> Tensor:
        w, log_prob = self._drawn(torch.Size(shape))
        u = self.center + scaled_by(self.factor, w)
        self.cache = {u: log_prob - self.log_det}
        return u

    def _drawn(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Draws w of the flow and log of their density; of the same noise in parts as all at once."""
        if torch.is_grad_enabled() or len(shape) != 1:
            found: tuple[Tensor, Tensor] = self.dist.rsample_and_log_prob(shape)
            return found
        noise = self.dist.base.rsample(shape)
        parts = noise.split(max(1, AT_ONCE // max(1, noise.shape[-1])))
        bent = [self.dist.transform.inv.call_and_ladj(part) for part in parts]
        w, log_det = (torch.cat(column) for column in zip(*bent, strict=True))
        return w, self.dist.base.log_prob(noise) - log_det

    def log_prob(self, u: Tensor) -> Tensor:
        if u in self.cache:
            return self.cache[u]
        shifted = u - self.center
        if self.factor.dim() == 1:
            w = shifted / self.factor
        else:
            w = torch.linalg.solve_triangular(self.factor, shifted[..., None], upper=False)[..., 0]
        if torch.is_grad_enabled() or w.dim() != 2:
            return self.dist.log_prob(w) - self.log_det
        # so many at a time as their splines may take memory for
        parts = w.split(max(1, AT_ONCE // max(1, w.shape[-1])))
        return torch.cat([self.dist.log_prob(part) for part in parts]) - self.log_det
