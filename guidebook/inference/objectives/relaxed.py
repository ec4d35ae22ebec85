r"""Categorical latents trained by relaxed draws: Gumbel-softmax and straight-through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, OneHotCategorical, kl_divergence

from guidebook.errors import GuideError
from guidebook.inference.objectives.objective import Number, Objective, check_number
from guidebook.inference.objectives.rows import latent_sites, traced, values_of


class RelaxedELBO(Objective):
    r"""The evidence lower bound of one-hot categorical latents at relaxed draws of the guide.

    With logits l of q(z | x) and g standard Gumbel,

    .. math:: \tilde z = \mathrm{softmax}\big((l + g) / \tau\big), \qquad
        L = E \log p(x \mid \tilde z) - \beta\, KL(q(z \mid x) \| p(z))

    The KL is that of the categoricals, exact where the prior does not depend on other latents.
    The gradient has a low variance and is biased for the bound of the model with discrete latents;
    both the bias falls and the variance rises as the temperature tau falls. With `straight_through`
    the model sees the one-hot argmax of z~, which is an exact draw of q, and the gradient is passed
    as if it had seen z~: the value is then an unbiased estimate of the ELBO, the gradient is not.
    Continuous latents of the same guide enter by one reparameterised draw.

    Arguments: `temperature` tau, a number or a schedule such as `exponential(1.0, 0.5)`; `beta`, the
    weight of the KL; `particles`, draws averaged. Raises SettingError for a temperature of 0 or
    below, GuideError in use for a guide without one-hot categorical sites, or with other discrete ones.

    Source: Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax; Maddison, Mnih
    & Teh (2017), The concrete distribution; straight-through: Bengio, Léonard & Courville (2013),
    Estimating or propagating gradients through stochastic neurons for conditional computation.
    """

    def __init__(
        self,
        temperature: Number = 0.5,
        straight_through: bool = False,
        beta: Number = 1.0,
        particles: int = 1,
        max_plate_nesting: int = 1,
    ) -> None:
        hint = (
            "at 0 the draws are discrete and have no gradient: give 0.5, or a schedule such as "
            "exponential(1.0, 0.5); for exact draws use straight_through=True or Trace_ELBO"
        )
        check_number("temperature", temperature, 0.0, hint, above=True)
        check_number("beta", beta, 0.0, "1 gives the ELBO")
        super().__init__(particles, max_plate_nesting, temperature=temperature, beta=beta)
        self.straight_through = straight_through

    def _drawn(self, guide: Any, data: Mapping[str, Any]) -> Any:
        relaxed = _Relaxed(self.numbers["temperature"], self.straight_through)
        with relaxed:
            trace = traced(guide, data, self.num_particles, self.max_plate_nesting)
        if not relaxed.found:
            raise GuideError(
                "The guide has no one-hot categorical site to relax: sample z from "
                "pyro.distributions.OneHotCategorical, or use pyro.infer.Trace_ELBO."
            )
        return trace

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        drawn = self._drawn(guide, data)
        scored = self._scored(model, data, values_of(drawn))
        fit: Any = 0.0
        for site in scored.nodes.values():
            if site["type"] == "sample" and site["is_observed"] and not site_is_subsample(site):
                fit = fit + _total(site, site["fn"].log_prob(site["value"]))
        kl: Any = 0.0
        priors = latent_sites(scored)
        for name, site in latent_sites(drawn).items():
            prior = priors[name]
            if categorical(site["fn"]) is not None:
                kl = kl + _total(site, _kl(site["fn"], prior["fn"], name))
            else:
                log_q = _total(site, site["fn"].log_prob(site["value"]))
                kl = kl + log_q - _total(prior, prior["fn"].log_prob(prior["value"]))
        return torch.as_tensor((self.numbers["beta"] * kl - fit) / self.num_particles)


def categorical(fn: Any) -> OneHotCategorical | None:
    """The one-hot categorical inside a distribution, None where it is another kind."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn if isinstance(fn, OneHotCategorical) else None


def gumbel_softmax(logits: Tensor, temperature: Tensor | float) -> Tensor:
    """A relaxed one-hot draw of softmax(logits), of the shape of logits."""
    tiny = torch.finfo(logits.dtype).tiny
    uniform = torch.rand_like(logits).clamp(min=tiny)
    gumbel = -(-uniform.log()).clamp(min=tiny).log()
    return ((logits + gumbel) / temperature).softmax(-1)


class _Relaxed(Messenger):
    """One-hot categorical sites of a guide give relaxed draws; their distribution stays."""

    def __init__(self, temperature: Tensor | float, straight_through: bool) -> None:
        super().__init__()
        self.temperature, self.straight_through, self.found = temperature, straight_through, 0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        base = categorical(msg["fn"])
        if base is None:
            if not msg["fn"].has_rsample:
                raise GuideError(
                    f"Site {msg['name']!r} of the guide is {type(msg['fn']).__name__}, which "
                    "RelaxedELBO cannot relax: write it as pyro.distributions.OneHotCategorical, or "
                    "use pyro.infer.Trace_ELBO."
                )
            return
        soft = gumbel_softmax(base.logits, self.temperature)
        if self.straight_through:
            place = soft.detach().argmax(-1, keepdim=True)
            hard = torch.zeros_like(soft).scatter(-1, place, 1.0)
            soft = hard + (soft - soft.detach())
        msg["value"], msg["done"] = soft, True
        self.found += 1


def _kl(q: Any, p: Any, name: str) -> Tensor:
    if categorical(p) is None:
        raise GuideError(
            f"Site {name!r} is one-hot categorical in the guide and {type(p).__name__} in the model: "
            "use pyro.distributions.OneHotCategorical in both."
        )
    return kl_divergence(q, p)


def _total(site: Any, values: Tensor) -> Tensor:
    """Summed over rows and particles, with the scale and mask of the site."""
    if site["mask"] is not None:
        values = torch.where(torch.as_tensor(site["mask"]), values, torch.zeros_like(values))
    return (values * site["scale"]).sum()
