r"""How noisy, and how wrong, the gradients of objectives are at one point of a fit.

At fixed parameters, S independent gradients g_s of every objective, by block of parameters:

    mean m = (1/S) sum g_s,   variance = sum_j Var[g_j],   SNR = mean over j of |m_j| / sd[g_j],
    bias = |m - exact|,       to be compared with its noise, sqrt(variance / S).

Sources: Rainforth, Kosiorek, Le et al. (2018), Tighter variational bounds are not necessarily better;
Mohamed, Rosca, Figurnov & Mnih (2020), Monte Carlo gradient estimation in machine learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from guidebook.errors import GuideError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import check_whole
from guidebook.inference.objectives.given import differentiable
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.score import ScoreFunctionELBO
from guidebook.inference.objectives.sticking import StickingTheLanding
from guidebook.programs.batches.source import admitted
from guidebook.programs.check import check_pair
from guidebook.programs.data import as_tensors, find_device
from guidebook.programs.graphs.recorded import CannotRecord, recording
from guidebook.programs.owned import Joined, copied, dtype_of, owning
from guidebook.programs.rows import some_rows
from guidebook.scope import local_parameters, precision, random_state

BOUND_DRAWS = 8
AT_ONCE = 25
"""Gradients computed in one vectorised call, with all that each is computed from in memory."""


@dataclass(frozen=True)
class Noise:
    """The gradient of one block of parameters under one objective, which is minimised.

    `mean` and `sd` of each parameter, (parameters,); `draws` they are made of; `exact`, the gradient
    without noise, where an exact objective was given.
    """

    mean: np.ndarray
    sd: np.ndarray
    draws: int
    exact: np.ndarray | None = None

    @property
    def norm(self) -> float:
        """The length of the mean gradient."""
        return float(np.linalg.norm(self.mean))

    @property
    def variance(self) -> float:
        """The variances of all parameters, summed: the expected squared distance from the mean."""
        return float(np.square(self.sd).sum())

    @property
    def snr(self) -> float:
        """|mean| / sd of a parameter, averaged over parameters with any noise; inf if none has.

        Estimated from S draws it is at least about 0.8 / sqrt(S), which is what noise alone gives.
        """
        noisy = self.sd > 1e-12 * np.maximum(1.0, np.abs(self.mean))
        if not noisy.any():
            return math.inf
        return float((np.abs(self.mean[noisy]) / self.sd[noisy]).mean())

    @property
    def bias(self) -> float:
        """|mean - exact|; NaN where no exact objective was given."""
        return math.nan if self.exact is None else float(np.linalg.norm(self.mean - self.exact))

    @property
    def bias_error(self) -> float:
        """sqrt(variance / draws): the root mean square of `bias` for an unbiased gradient."""
        return math.sqrt(self.variance / self.draws)

    @property
    def z(self) -> np.ndarray:
        """(mean - exact) / standard error of every parameter with any noise; SettingError without exact."""
        if self.exact is None:
            raise SettingError(
                "z compares with an exact gradient: call gradient_noise(..., exact=objective)."
            )
        noisy = self.sd > 0
        error = self.sd[noisy] / math.sqrt(self.draws)
        return np.asarray((self.mean[noisy] - self.exact[noisy]) / error)


def gradient_noise(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Mapping[str, Any],
    objectives: Mapping[str, Any],
    *,
    exact: Any = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Noise]]:
    """Measure the gradients of objectives at the present parameters: name, then block, to Noise.

    The blocks are "guide" (the encoder) and "model" (the decoder); one without parameters is left
    out. Nothing is trained, and model and guide stay as they are. For a fit:
    `gradient_noise(fit.model, fit.guide, fit.data, {...})`.

    Arguments: `data`, the rows the gradients are of; `objectives`, names to Pyro ELBOs or those of
    `guidebook.inference.objectives`; `exact`, an objective without noise, such as `EnumeratedELBO()`;
    `draws` S and `seed`.

    Plates hold all of their rows, also those that draw some in the steps of a fit. Draws are vectorised
    where the objective has a `differentiable_loss`, and made one by one for
    others (TraceGraph_ELBO, with its baselines).

    Raises SettingError for fewer than two draws, no objective or no parameter; DataError, ModelError
    and GuideError where model, guide and data do not fit together.
    """
    check_whole(draws=(draws, 2), seed=(seed, 0))
    if not objectives:
        raise SettingError("Give at least one objective: {'score': Trace_ELBO()}.")
    source = admitted(model, data, batch_size=None, size=None)
    data = source.held or {}
    model, guide = owning(*copied(model, guide), (model, guide))
    dtype, device = dtype_of(model, guide), find_device(None, data)
    with local_parameters(), precision(dtype), random_state(seed):
        tensors = as_tensors(data, dtype, device)
        joined = Joined(model, guide)
        source.check_not_finite(joined.model, dtype, device, by_rows=False)
        check_pair(joined.model, joined.guide, tensors)
        blocks = _blocks(joined)
        truth = None if exact is None else _gradients(joined, exact, tensors, 1)[0]
        found = {}
        for name, objective in objectives.items():
            torch.manual_seed(seed)
            samples = _gradients(joined, objective, tensors, draws)
            found[name] = {block: _noise(samples, at, truth) for block, at in blocks.items()}
    return found


def encoder_noise(fit: Fit, rows: int = 20, draws: int = 200, seed: int = 0) -> dict[str, Noise]:
    """The noise of the encoder's gradient under the estimators a reparameterised guide may choose of.

    At the fit's parameters and on some of its rows: of the ELBO reparameterised, sticking the landing
    and by the score function, of the bound of 8 draws reparameterised and doubly so. Empty where
    the guide has no parameters, or its draws no gradient.
    """
    if fit.model is None or fit.data is None or not isinstance(fit.guide, torch.nn.Module):
        return {}
    if not any(p.requires_grad for p in fit.guide.parameters()):
        return {}
    objectives = {
        "ELBO, reparameterised": Trace_ELBO(),
        "ELBO, sticking the landing": StickingTheLanding(),
        "ELBO, score function": ScoreFunctionELBO(),
        f"bound of {BOUND_DRAWS} draws, reparameterised": ImportanceWeightedELBO(BOUND_DRAWS),
        f"bound of {BOUND_DRAWS} draws, doubly": ImportanceWeightedELBO(BOUND_DRAWS, "doubly"),
    }
    device = next(fit.guide.parameters()).device
    some = some_rows(fit.data, rows, seed, device)
    try:
        found = gradient_noise(fit.model, fit.guide, some, objectives, draws=draws, seed=seed)
    except GuideError:  # draws without a gradient
        return {}
    return {name: blocks["guide"] for name, blocks in found.items()}


def _noise(samples: Tensor, at: Tensor, truth: Tensor | None) -> Noise:
    chosen = samples[:, at].double().cpu().numpy()
    exact = None if truth is None else truth[at].double().cpu().numpy()
    return Noise(chosen.mean(0), chosen.std(0, ddof=1), len(chosen), exact)


def _blocks(joined: Joined) -> dict[str, Tensor]:
    """Where the parameters of guide and model stand in the flat gradient."""
    trained = [(n, p) for n, p in joined.named_parameters() if p.requires_grad]
    if not trained:
        raise SettingError("Neither guide nor model has a parameter, so there is no gradient.")
    owner = np.concatenate([np.repeat(n.split(".")[0], p.numel()) for n, p in trained])
    places = {part: np.flatnonzero(owner == part) for part in ("guide", "model")}
    return {part: torch.from_numpy(at) for part, at in places.items() if len(at)}


def _gradients(joined: Joined, objective: Any, data: dict[str, Any], draws: int) -> Tensor:
    """Independent gradients at the present parameters, (draws, parameters)."""
    trained = {n: p for n, p in joined.named_parameters() if p.requires_grad}
    try:
        loss = differentiable(objective)
    except CannotRecord:
        return torch.stack([_one(joined, objective, data, trained) for _ in range(draws)])
    values = {name: p.detach() for name, p in trained.items()}

    def gradient(_: Tensor) -> Tensor:
        grads = torch.func.grad(lambda v: torch.func.functional_call(joined, v, (loss, data)))
        return torch.cat([g.reshape(-1) for g in grads(values).values()])

    number = torch.zeros(draws, device=next(iter(values.values())).device)
    with recording(), torch.no_grad():
        return torch.func.vmap(gradient, randomness="different", chunk_size=AT_ONCE)(number)


def _one(joined: Joined, objective: Any, data: Any, trained: dict[str, Any]) -> Tensor:
    joined.zero_grad()
    objective.loss_and_grads(joined.model, joined.guide, **data)
    return torch.cat(
        [torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.reshape(-1).clone()
         for p in trained.values()]
    )  # fmt: skip
