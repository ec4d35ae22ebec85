"""ELBO surgery: the KL to the prior is mutual information of rows and latents plus marginal KL."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from pyro import poutine

from guidebook.diagnostics.measures.information import NUMBERS_AT_ONCE, Estimate, mean_of
from guidebook.errors import DataError, ModelError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.protocols.rows import RowPosterior
from guidebook.programs.owned import dtype_of, parameters_of
from guidebook.programs.values.arrays import as_tensor
from guidebook.scope import local_parameters, precision, random_state


class Surgery(NamedTuple):
    """Per row: KL(q(z | x) || p(z)) on average = mutual_information + marginal_kl.

    `mutual_information` is I between the row's number and z, at most `limit` = log N; `marginal_kl`
    is KL(q(z) || p(z)) of the average q(z) = 1/N sum_i q(z | x_i): what a better prior would save.
    """

    kl: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate
    limit: float


def surgery(fit: Fit, *, rows: int = 2000, draws: int = 4, seed: int = 0) -> Surgery:
    """Splits the mean KL(q(z | x) || p(z)) into mutual information and marginal KL, on up to `rows` rows.

    With `draws` draws per row; q(z) is the mixture over these rows. Raises DataError for a
    fit without data, ModelError for a guide that does not give every row its own posterior.
    """
    if fit.data is None or fit.model is None:
        raise DataError("This fit was loaded without its data: gb.load(path, model=..., data=...).")
    if not isinstance(fit.guide, RowPosterior):
        raise ModelError(
            "Mutual information between rows and latents needs a guide with q(z | x) for each row, "
            f"such as AmortizedNormal; this one is {type(fit.guide).__name__}."
        )
    guide, dtype = fit.guide, dtype_of(fit.model, fit.guide)
    device = next((p.device for p in parameters_of(fit.model, guide)), torch.device("cpu"))
    x = as_tensor(fit.data[guide.observed], dtype, device)
    if len(x) > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(x), rows, replace=False))
        x = x[torch.from_numpy(chosen).to(device)]
    n = len(x)
    with local_parameters(), precision(dtype), random_state(seed), torch.no_grad():
        q = guide.posterior(x)
        model = poutine.condition(fit.model, data={guide.site: q.mean})
        prior = poutine.trace(model).get_trace(**{guide.observed: x}).nodes[guide.site]["fn"]
        z = q.sample(torch.Size((draws,)))
        own, ahead = q.log_prob(z).double(), prior.log_prob(z).double()
        chunk = max(1, NUMBERS_AT_ONCE // (n * z.shape[-1]))
        pieces = [q.log_prob(one.unsqueeze(1)) for one in z.reshape(-1, z.shape[-1]).split(chunk)]
        mixed = torch.cat(pieces).double().logsumexp(1).reshape(draws, n) - math.log(n)
    return Surgery(
        mean_of((own - ahead).mean(0)), mean_of((own - mixed).mean(0)), mean_of((mixed - ahead).mean(0)),
        math.log(n),
    )  # fmt: skip
