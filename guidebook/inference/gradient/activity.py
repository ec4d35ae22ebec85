r"""Posterior collapse seen during training: active dimensions, cheap enough for a progress bar.

A dimension of z is active where the means of q(z | x) differ from row to row,

.. math:: \mathrm{Var}_i\, E_q[z_{ij}] > 0.01\, \mathrm{Var}_p[z_j]

and a fit without active dimensions whose q(z | x) is the prior for every row has collapsed: its
decoder makes no use of z. One pass of the encoder tells; no random number of the fit is used.

Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, section 5.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from guidebook.programs.statements import evaluated
from guidebook.scope import random_state

ACTIVE = 0.01
"""Variance of posterior means over the data, in prior variances: Burda et al. 2016, section 5.1."""
NOTHING = 0.05
"""Nats of a dimension: with less, and no active dimension, q(z | x) is the prior for every row. An
encoder that has not been trained yet is above it."""
ROWS = 500
SECONDS, SHARE = 2.0, 0.01
"""The least time between two looks, and the most of the fit's time that they take."""
REMEDY = (
    "BetaELBO(linear(0.0, 1.0, 0.2)), a warm-up of the KL weight from 0; a smaller decoder; or, with "
    "a Gaussian likelihood, a smaller fixed scale or a learned one"
)


class Activity(NamedTuple):
    """Of one look at some rows: active dimensions, all of them, and the largest KL of one, nats."""

    active: int
    total: int
    kl: float

    @property
    def collapsed(self) -> bool:
        """No dimension is active, and q is the prior."""
        return self.active == 0 and self.kl < NOTHING

    def warning(self) -> str:
        """The finding, and the remedy."""
        return (
            f"The posterior collapsed: none of {self.total} latent dimensions is active (q(z | x) is "
            f"the prior for every row, KL at most {self.kl:.2g} nats in a dimension), so the decoder "
            f"makes no use of z. Remedies: {REMEDY}."
        )


def normal_rows(q: Distribution) -> Normal | None:
    """The marginals of a normal q(z | x), (n, d); None for other families."""
    inner = q
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if not isinstance(inner, Normal | MultivariateNormal):
        return None
    return Normal(inner.mean, inner.variance.sqrt(), validate_args=False)


def kl_by_dimension(q: Normal, prior_scale: float | Tensor) -> Tensor:
    """KL(q(z_j | x) || N(0, prior_scale^2)) on average over rows: (d,), nats."""
    scale = torch.as_tensor(prior_scale).to(q.loc)
    prior = Normal(torch.zeros_like(q.loc), scale, validate_args=False)
    return kl_divergence(q, prior).reshape(len(q.loc), -1).mean(0)


def activity(model: Any, guide: Any, data: dict[str, Any]) -> Activity | None:
    """Looks at up to 500 rows of the data; None where nothing can be said.

    That is for guides without a normal `posterior(x)` of one site, models without a normal prior
    N(0, s^2) of it, and data whose rows are fewer than two or all the same.
    """
    x = data.get(getattr(guide, "observed", None) or "")
    posterior, site = getattr(guide, "posterior", None), getattr(guide, "site", None)
    if not callable(posterior) or not isinstance(site, str) or not isinstance(x, Tensor):
        return None
    rows = len(x)
    data = {n: v[:ROWS] if _by_row(v, rows) else v for n, v in data.items()}
    x = x[:ROWS]
    if len(x) < 2 or not bool((x != x[:1]).any()):
        return None
    with evaluated(model, guide), torch.no_grad(), random_state(0):
        q = normal_rows(posterior(x))
        scale = None if q is None else _prior_scale(model, site, data)
        if q is None or scale is None or q.loc.dim() != 2:
            return None
        variance = q.loc.var(0) / scale.square()
        if not bool(variance.isfinite().all()):
            return None
        kl = float(kl_by_dimension(q, scale).max())
        return Activity(int((variance > ACTIVE).sum()), variance.numel(), kl)


def watch(
    model: Any, guide: Callable[[], Any], batch: Callable[[int], dict[str, Any]]
) -> Callable[[], str]:
    """A function for a progress bar: "3/8" dimensions active, looked at now and then; "" if unknown.

    `guide()` is the guide with the parameters of now, `batch(step)` the data of a step; those of
    the first are looked at.
    """
    said, due, possible = "", time.monotonic() + SECONDS, True
    data: dict[str, Any] = {}

    def look() -> str:
        nonlocal said, due, possible, data
        start = time.monotonic()
        if possible and start >= due:
            data = data or batch(0)
            found = activity(model, guide(), data)
            possible = found is not None
            said = "" if found is None else f"{found.active}/{found.total}"
            now = time.monotonic()
            due = now + max(SECONDS, (now - start) / SHARE)
        return said

    return look


def _by_row(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows


def _prior_scale(model: Any, site: str, data: dict[str, Any]) -> Tensor | None:
    """The standard deviation of a normal prior with mean 0, (d,) or one for all."""
    with poutine.block():
        prior = poutine.trace(model).get_trace(**data).nodes.get(site)
    if prior is None:
        return None
    inner = prior["fn"]
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if not isinstance(inner, Normal) or bool((inner.loc != 0).any()):
        return None
    scale: Tensor = inner.scale
    return scale.reshape(-1, scale.shape[-1])[0] if scale.dim() else scale
