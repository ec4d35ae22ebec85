"""The exact evidence lower bound of categorical latents, by their states as particles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from guidebook.errors import GuideError, ModelError
from guidebook.inference.objectives.objective import Objective
from guidebook.inference.objectives.relaxed import categorical
from guidebook.inference.objectives.rows import (
    PLATE,
    latent_sites,
    row_log_density,
    row_scale,
    traced,
)

MOST_STATES = 65_536


class EnumeratedELBO(Objective):
    r"""The evidence lower bound with the expectation over one-hot latents taken exactly.

    .. math:: L = \sum_i \sum_z q(z \mid x_i) \big[\log p(x_i, z) - \log q(z \mid x_i)\big]

    over all K^L states of the single site (n, L, K) or (n, K) of model and guide. Its gradient has no
    noise: what estimators for discrete latents are measured against. The states of a row are computed
    all at once, so memory grows with their number; the decoder sees each state once.

    Raises, in use, GuideError unless the guide's single site is one-hot categorical, ModelError
    above 65,536 states.
    """

    def __init__(self, plate: str = PLATE, max_plate_nesting: int = 1) -> None:
        super().__init__(1, max_plate_nesting)
        self.plate = plate

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **data: Any) -> Tensor:
        log_p, log_q, scale = enumerated_rows(
            model, guide, data, plate=self.plate, max_plate_nesting=self.max_plate_nesting
        )
        return scale * (log_q.exp() * (log_q - log_p)).sum()


def enumerated_rows(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    plate: str = PLATE,
    max_plate_nesting: int = 1,
) -> tuple[Tensor, Tensor, float]:
    """log p(x_i, z) and log q(z | x_i) of all states, (states, n) each, and what a row stands for.

    The exact log evidence of the rows is `log_p.logsumexp(0)`. Errors as `EnumeratedELBO`.
    """
    found = latent_sites(traced(guide, data, 1, max_plate_nesting))
    if len(found) != 1:
        raise GuideError(
            f"EnumeratedELBO enumerates exactly one latent site, and the guide samples {sorted(found)}: "
            "use RelaxedELBO or Trace_ELBO."
        )
    ((name, site),) = found.items()
    base = categorical(site["fn"])
    if base is None:
        raise GuideError(
            f"Site {name!r} of the guide is {type(site['fn']).__name__}, and enumeration "
            "needs pyro.distributions.OneHotCategorical: write the site so."
        )
    states = all_states(base.logits[(0,) * len(site["fn"].batch_shape)])
    # one value for all rows: the decoder sees each state once, and its output is broadcast
    at = {name: states.reshape(len(states), *[1] * max_plate_nesting, *states.shape[1:])}
    scored = traced(model, data, len(states), max_plate_nesting, at)
    asked = traced(guide, data, len(states), max_plate_nesting, at)
    log_p = row_log_density(scored, len(states), plate, max_plate_nesting)
    log_q = row_log_density(asked, len(states), plate, max_plate_nesting)
    return log_p, log_q, row_scale(scored, plate)


def all_states(like: Tensor) -> Tensor:
    """All one-hot values of the shape of `like`, (..., K): a first dimension over them."""
    *batch, categories = like.shape
    latents = int(torch.Size(batch).numel())
    count = categories**latents
    if count > MOST_STATES:
        raise ModelError(
            f"{latents} latents of {categories} values have {count:,} states, and at most "
            f"{MOST_STATES:,} are enumerated: use RelaxedELBO or Trace_ELBO."
        )
    choices = [torch.arange(categories, device=like.device)] * latents
    index = torch.cartesian_prod(*choices).reshape(count, *batch)
    return torch.eye(categories, dtype=like.dtype, device=like.device)[index]
