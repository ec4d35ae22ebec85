r"""Objectives beside Pyro's own, given as `gb.svi(model, guide, data, objective=...)`.

They change what is climbed or how its gradient is estimated, and leave model and guide what they
are: the fit holds the true p and q, so that every diagnostic measures against the true posterior.

All are minimised, so they are negative bounds, in nats of the whole data (`size` scales a mini-batch).
Weights may be numbers or schedules (`guidebook.inference.objectives.schedules`), which follow the
steps of `svi`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from guidebook.errors import GuideError, SettingError
from guidebook.inference.objectives.objective import (
    Number,
    Objective,
    check_number,
    observed_and_latent,
)
from guidebook.inference.objectives.rows import (
    PLATE,
    row_scale,
    values_of,
)
from guidebook.programs.scope import quiet


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
        check_number("beta", beta, 0.0, "1 is the ordinary bound")
        check_number("reconstruction", reconstruction, 0.0, "1 is the ordinary bound")
        super().__init__(particles, max_plate_nesting, beta=beta, reconstruction=reconstruction)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        scored, drawn = self._get_trace(model, guide, args, data)
        fit, log_p = observed_and_latent(scored)
        _, log_q = observed_and_latent(drawn)
        loss = self.numbers["beta"] * (log_q - log_p) - self.numbers["reconstruction"] * fit
        return torch.as_tensor(loss / self.num_particles)


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


def log_mean_exp(log_w: Tensor) -> Tensor:
    """log of the mean of exp over the first dimension."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def with_fixed_parameters(part: Any) -> Callable[..., Any]:
    """The part with its parameters as constants: gradients reach its inputs alone.

    Raises GuideError where the part is no module, so that its parameters are not known.
    """
    if not isinstance(part, nn.Module):
        raise GuideError(
            "This gradient holds the parameters of the guide fixed, and a plain function hides them: "
            "write the guide as a pyro.nn.PyroModule."
        )
    fixed = {name: parameter.detach() for name, parameter in part.named_parameters()}

    def call(**data: Any) -> Any:
        # Pyro's own SVI collects every param statement, and these are constants; a network that is
        # not registered is what Pyro warns about.
        unregistered = ".*was not registered in the param store"
        with quiet(unregistered), poutine.block(hide_types=["param"]), _Detached():
            return torch.func.functional_call(part, fixed, (), data)

    return call


class _Detached(Messenger):
    """Parameters that Pyro's store gives out are constants."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


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
