"""The mode of a mixture's globals, with the E- and M-step that lead there."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import SettingError
from guidebook.guides.conjugate.exponential_family import Normal
from guidebook.guides.conjugate.mixture import MixtureMeanField, Natural


class MixtureMode(nn.Module):
    r"""The globals of a GaussianMixture at one point, for `em`: assignments are summed out.

    E-step: responsibilities r_ik = p(z_i = k | x_i, theta). M-step: with the natural parameters
    eta = eta0 + sum_i r_ik (...) of the complete conditionals, their modes in (weights, loc,
    precision),

    .. math:: \mu_k = m_k, \qquad \Lambda_k = (\nu_k - D) V_k, \qquad
        \pi_k \propto a_k + N_k - 1

    `prior=True` climbs log p(x | theta) + log p(theta) (marginal MAP), `prior=False` the likelihood
    alone, whose maximum for free variances is infinite where a component shrinks to a point.

    Raises SettingError for prior=True with a concentration below 1, whose mode is at the boundary,
    GuideError for a model without conjugate structure.

    Source: Dempster, Laird & Rubin (1977); Fraley & Raftery (2007), Bayesian regularization for
    normal mixture estimation and model-based clustering.
    """

    kind = "point"

    def __init__(self, model: Any, *, prior: bool = True) -> None:
        super().__init__()
        self.structure = MixtureMeanField(model)
        self.prior = prior
        low = model.concentration is not None and model.concentration < 1
        if prior and low:
            raise SettingError(
                f"concentration={model.concentration} is below 1, so log p(weights) is unbounded at "
                "the boundary and has no mode inside: give at least 1, or prior=False."
            )
        for name, value in self._mode(self.structure.prior).items():
            self.register_buffer(name, value)  # so that a saved fit holds them

    @property
    def values(self) -> Natural:
        """The values of weights, precision and loc, as far as the model has them."""
        return {n: getattr(self, n) for n in ("weights", "precision", "loc") if hasattr(self, n)}

    def start(self, data: Mapping[str, Any], seed: int) -> Natural:
        """Where k-means puts the components."""
        x = data["x"]
        natural = self.structure.initial_natural(x, len(x), seed)
        return self._mode(natural)

    def e_step(self, rows: Mapping[str, Any], parameters: Natural) -> tuple[Natural, Tensor]:
        """Messages of the rows, and log p(rows | parameters)."""
        point = {"components": self.structure._point_statistics(parameters)}
        if "weights" in parameters:
            point["weights"] = parameters["weights"].log()
        bound, message = self.structure.local(rows["x"], point)
        return message, bound

    def m_step(self, statistics: Natural, parameters: Natural) -> Natural:
        """The modes of the complete conditionals."""
        if not self.prior:
            return self._mode(statistics)
        prior = self.structure.prior
        return self._mode({name: prior[name] + value for name, value in statistics.items()})

    def log_prior(self, parameters: Natural) -> Tensor:
        """log p(weights, loc, precision), of the density by precision matrices; 0 without a prior."""
        total = self.structure.shift.new_zeros(())
        if not self.prior:
            return total
        prior, families = self.structure.prior, self.structure.families
        points = {"components": self.structure._point_statistics(parameters)}
        if "weights" in parameters:
            points["weights"] = parameters["weights"].log()
        for name, point in points.items():
            density = (prior[name] * point).sum(-1) - families[name].log_normaliser(prior[name])
            total = total + density.sum()
        if self.structure.model.covariance == "unit":
            count = self.structure.model.K * self.structure.model.D
            total = total - 0.5 * count * math.log(2 * math.pi)
        return total

    def _mode(self, natural: Natural) -> Natural:
        """Values at the modes of the families with these natural parameters."""
        found = {}
        if "weights" in natural:
            found["weights"] = natural["weights"] / natural["weights"].sum()
        family = self.structure.families["components"]
        standard = family.standard(natural["components"])
        loc = standard["loc"]
        if not isinstance(family, Normal):
            precision = 2 * natural["components"][..., 0][..., None, None]
            precision = precision * torch.linalg.inv(standard["inverse_scale"])
            if self.structure.model.covariance == "diagonal":
                loc, precision = loc.squeeze(-1), precision[..., 0, 0]
            found["precision"] = precision
        return found | {"loc": loc + self.structure.shift}

    def finished(self, model: Any, parameters: Natural) -> tuple[Any, MixtureMode]:
        """The model as it is, and a copy of the guide at these values."""
        guide = copy.deepcopy(self)
        for name, value in parameters.items():
            setattr(guide, name, value.detach().clone())
        return model, guide

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Natural:
        """The values of the sites, as point masses."""
        model, values = self.structure.model, self.values
        if model.covariance == "full":
            values["log_cholesky"] = model.log_cholesky(values.pop("precision"))
        if "weights" in values:
            pyro.sample("weights", dist.Delta(values["weights"], event_dim=1))
        with pyro.plate("component", model.K):
            for name in ("log_cholesky", "precision", "loc"):
                if name in values:
                    pyro.sample(name, dist.Delta(values[name], event_dim=1))
        return values
