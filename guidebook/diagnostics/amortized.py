"""Amortised guides, row by row: a joint k-hat over many local latents grows with their number.

For each row i with its own latent z_i, and K draws of q(z | x_i),

    elbo_i = mean log w,   bound_i = log mean w,   w = p(x_i, z) / q(z | x_i),

and k-hat_i, the weighted moments and their distance from the raw ones, all per row. The posterior
is that of z given the decoder as it was trained.

Sources: Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders"; Burda,
Grosse and Salakhutdinov 2016, "Importance weighted autoencoders".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from guidebook.diagnostics.importance import khat_limit, psis
from guidebook.diagnostics.verdict import MEAN_LIMIT, SD_HIGH, Findings, Judgement, Verdict
from guidebook.inference.capture import local_parameters, precision, random_state, recording
from guidebook.inference.fit import Fit
from guidebook.inference.owned import dtype_of

if TYPE_CHECKING:
    from guidebook.diagnostics.assess import Assessment

DRAWS = 2000
MOST_ROWS = 2000
NUMBERS_AT_ONCE = 4_000_000
WORK = 1_000_000_000
"""Rows x draws x pixels: a minute or less of decoding a small image on two cores."""
SHARE_TRUSTED, SHARE_REWEIGHTED = 0.99, 0.95
WORST = 12


@runtime_checkable
class RowPosterior(Protocol):
    """A guide that gives q(z | x) of every row: batch shape (n,), event shape (d,)."""

    site: str
    observed: str

    def posterior(self, x: Tensor) -> Any: ...


@dataclass(frozen=True)
class AmortizedNumbers:
    """What an amortised fit is looked at for: n rows of P numbers, d latent dimensions."""

    data: np.ndarray
    khat: np.ndarray
    khat_se: float
    elbo: np.ndarray
    bound: np.ndarray
    reconstruction: np.ndarray
    latent_mean: np.ndarray
    latent_sd: np.ndarray
    prior_samples: np.ndarray
    traversals: np.ndarray
    worst: np.ndarray
    image_shape: tuple[int, int] | None
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class RowErrors:
    """Per row: is it within bounds raw, can its weights be used, and by how much the worst is off."""

    good: np.ndarray
    usable: np.ndarray
    shift: np.ndarray
    log_ratio: np.ndarray


def is_amortized(fit: Fit) -> bool:
    """Whether the fit's guide gives each row a posterior of its own."""
    return fit.data is not None and isinstance(fit.guide, RowPosterior)


def assess_rows(
    fit: Fit, seed: int = 0, labels: np.ndarray | None = None
) -> tuple[Assessment, AmortizedNumbers]:
    """Diagnoses up to 2,000 rows of the fit's data, and judges."""
    from guidebook.diagnostics.assess import NUMBERS, Assessment

    index = _chosen(fit, seed)
    x = _rows_of(fit, index)
    log_w, moments, errors, khat = _weigh(fit, x, seed)
    numbers = _pictures(fit, x, log_w, moments, khat, seed)
    if labels is not None:
        numbers = replace(numbers, labels=np.asarray(labels)[index])
    judgement = _judge(fit, errors, khat)
    total = _observed(fit).shape[0]
    scale = total / len(x)
    values = dict.fromkeys(NUMBERS, math.nan)
    elbo, bound = numbers.elbo, numbers.bound
    values |= {
        "elbo": float(elbo.sum() * scale),
        "elbo_se": float(np.sqrt((log_w["variance"] / log_w["draws"]).sum()) * scale),
        "log_evidence": float(bound.sum() * scale),
        "log_evidence_se": float(np.sqrt((log_w["relative"] / log_w["draws"]).sum()) * scale),
        "khat": float(np.median(khat)),
        "khat_se": numbers.khat_se,
        "ess": float(np.median(log_w["ess"])),
        "mean_error": float(np.quantile(errors.shift, SHARE_TRUSTED)),
        "sd_ratio_min": float(np.exp(np.quantile(errors.log_ratio.min(1), 1 - SHARE_TRUSTED))),
        "sd_ratio_max": float(np.exp(np.quantile(errors.log_ratio.max(1), SHARE_TRUSTED))),
    }
    if not np.isfinite(values["khat"]):
        values["khat"] = (
            float(np.median(khat[np.isfinite(khat)])) if np.isfinite(khat).any() else -math.inf
        )
    witnesses = _words(fit, errors, khat, numbers)
    findings = Findings(names=[], engine=fit.engine, family=type(fit.guide).__name__)
    assessment = Assessment(
        judgement, values, fit.engine, fit.seconds, None, {}, witnesses, findings
    )
    return assessment, numbers


# weights -----------------------------------------------------------------------------------------


def _observed(fit: Fit) -> Any:
    assert isinstance(fit.guide, RowPosterior) and fit.data is not None
    return fit.data[fit.guide.observed]


def _chosen(fit: Fit, seed: int) -> np.ndarray:
    count = len(_observed(fit))
    if count <= MOST_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST_ROWS, replace=False))


def _rows_of(fit: Fit, index: np.ndarray) -> Tensor:
    data = _observed(fit)
    rows = data[torch.from_numpy(index)] if isinstance(data, Tensor) else torch.from_numpy(
        np.ascontiguousarray(np.asarray(data)[index])
    )  # fmt: skip
    parameters = [*fit.guide.parameters()] if isinstance(fit.guide, torch.nn.Module) else []
    device = parameters[0].device if parameters else torch.device("cpu")
    return rows.to(device=device, dtype=dtype_of(fit.model, fit.guide))


def row_log_joint(fit: Fit, x: Tensor, z: Tensor) -> Tensor:
    """log p(x_i, z_i) per row (n,), for z (n, d)."""
    assert isinstance(fit.guide, RowPosterior)
    name = fit.guide.site
    model = poutine.condition(fit.model, data={name: z})
    trace = poutine.trace(model).get_trace(**{fit.guide.observed: x})
    total = torch.zeros(len(x), dtype=z.dtype, device=z.device)
    for node in trace.nodes.values():
        if node["type"] == "sample" and (node["is_observed"] or node["name"] == name):
            if node["infer"].get("_deterministic") or type(node["fn"]).__name__ == "_Subsample":
                continue
            density = node["fn"].log_prob(node["value"])
            total = total + density.reshape(len(x), -1).sum(1)
    return total


def _weigh(
    fit: Fit, x: Tensor, seed: int
) -> tuple[dict[str, np.ndarray], Any, RowErrors, np.ndarray]:
    assert isinstance(fit.guide, RowPosterior)
    guide, n = fit.guide, len(x)
    draws = int(max(200, min(DRAWS, WORK // max(1, x.numel()))))
    log_w = np.empty((draws, n))
    with (
        local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        q = guide.posterior(x)
        z = q.sample(torch.Size((draws,)))
        chunk = max(1, NUMBERS_AT_ONCE // x.numel())
        one = torch.func.vmap(lambda v: row_log_joint(fit, x, v), randomness="different")
        for start in range(0, draws, chunk):
            piece = z[start : start + chunk]
            log_w[start : start + chunk] = (one(piece) - q.log_prob(piece)).double().cpu().numpy()
        moments = q.mean.double().cpu().numpy(), q.variance.sqrt().double().cpu().numpy()
    values = z.double().cpu().numpy()
    khat, ess, errors = _per_row(log_w, values)
    top = log_w.max(0)
    w = np.exp(log_w - top)
    summary = {
        "draws": np.array(draws),
        "elbo": log_w.mean(0),
        "bound": top + np.log(w.mean(0)),
        "variance": log_w.var(0),
        "relative": w.var(0) / w.mean(0) ** 2,
        "ess": ess,
    }
    return summary, moments, errors, khat


def _per_row(log_w: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, RowErrors]:
    _, n, d = z.shape
    khat, ess = np.full(n, math.inf), np.zeros(n)
    shift, ratio = np.zeros(n), np.zeros((n, d))
    good, usable = np.zeros(n, bool), np.zeros(n, bool)
    for i in range(n):
        found = psis(log_w[:, i])
        if found is None:
            shift[i] = math.inf
            continue
        khat[i], ess[i] = found.khat, found.ess
        mean = found.weights @ z[:, i]
        sd = np.sqrt(found.weights @ np.square(z[:, i] - mean))
        off = (z[:, i].mean(0) - mean) / sd
        ratio[i] = np.log(z[:, i].std(0) / sd)
        shift[i] = np.abs(off).max()
        usable[i] = found.usable
        within = (np.abs(off) < MEAN_LIMIT) & (np.abs(ratio[i]) < math.log(SD_HIGH))
        good[i] = usable[i] and bool(within.all())
    return khat, ess, RowErrors(good, usable, shift, ratio)


# the verdict -------------------------------------------------------------------------------------


def _judge(fit: Fit, errors: RowErrors, khat: np.ndarray) -> Judgement:
    good, usable = errors.good.mean(), errors.usable.mean()
    told = f"{good:.0%} of the rows are within bounds, the weights of {usable:.0%} are usable"
    if not fit.status.good:
        return Judgement(Verdict.REJECT, f"{fit.status.value} ({told})", "Raise steps.")
    if good >= SHARE_TRUSTED:
        return Judgement(
            Verdict.TRUST,
            f"Row by row, importance weighting changes nothing that matters: {told}.",
            "Nothing: use the guide's draws.",
        )
    if usable >= SHARE_REWEIGHTED:
        return Judgement(
            Verdict.REWEIGHT,
            f"The encoder is off and its weights mend it: {told}.",
            "Weight draws row by row (log p(x, z) - log q(z)), or try covariance='full' or a "
            "larger encoder.",
        )
    return Judgement(
        Verdict.REJECT,
        f"The encoder does not reach the posteriors of its rows: {told}.",
        "Try covariance='full', a larger encoder or more steps; look at the worst rows.",
    )


def _words(fit: Fit, errors: RowErrors, khat: np.ndarray, numbers: AmortizedNumbers) -> list[str]:
    gap = numbers.bound - numbers.elbo
    finite = khat[np.isfinite(khat)]
    said = [f"Convergence: {fit.status.value}"]
    if len(finite):
        middle, high = np.quantile(finite, [0.5, 0.95])
        said.append(
            f"k-hat per row: median {middle:.2f}, 95 % below {high:.2f} (each +- "
            f"{numbers.khat_se:.2f}); {np.mean(khat < khat_limit(DRAWS)):.0%} below the limit."
        )
    said.append(
        f"Importance-weighted bound above the ELBO by {gap.mean():.3g} nats a row on average, "
        f"{gap.max():.3g} at most."
    )
    said.append(f"Rows: {len(khat)} looked at.")
    return said


# pictures ----------------------------------------------------------------------------------------


def _pictures(
    fit: Fit, x: Tensor, log_w: dict[str, np.ndarray], moments: Any, khat: np.ndarray, seed: int
) -> AmortizedNumbers:
    mean, sd = moments
    d = mean.shape[1]
    steps = torch.linspace(-2.5, 2.5, 9)
    with local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording():
        z = torch.as_tensor(mean, dtype=x.dtype, device=x.device)
        reconstruction = _decoded(fit, z)
        samples = _decoded(fit, torch.randn(48, d, dtype=x.dtype, device=x.device))
        order = np.argsort(-mean.std(0))[: min(d, 10)]
        grid = torch.zeros(len(order), len(steps), d, dtype=x.dtype, device=x.device)
        for row, dimension in enumerate(order):
            grid[row, :, dimension] = steps.to(grid)
        traversals = _decoded(fit, grid.reshape(-1, d)).reshape(len(order), len(steps), -1)
    flat = x.reshape(len(x), -1).double().cpu().numpy()
    side = math.isqrt(flat.shape[1])
    gap = log_w["bound"] - log_w["elbo"]
    badness = np.where(np.isfinite(khat), khat, -1.0) + 1e-3 * gap
    return AmortizedNumbers(
        data=flat,
        khat=khat,
        khat_se=(1 + max(0.0, float(np.median(khat)))) / math.sqrt(3 * math.sqrt(DRAWS)),
        elbo=log_w["elbo"],
        bound=log_w["bound"],
        reconstruction=reconstruction,
        latent_mean=mean,
        latent_sd=sd,
        prior_samples=samples,
        traversals=traversals,
        worst=np.argsort(-badness)[:WORST],
        image_shape=(side, side) if side * side == flat.shape[1] and side > 3 else None,
    )


def _decoded(fit: Fit, z: Tensor) -> np.ndarray:
    """The mean of the observed site given z (n, d): the picture that z stands for."""
    assert isinstance(fit.guide, RowPosterior)
    x = torch.zeros(len(z), *np.shape(_observed(fit))[1:], dtype=z.dtype, device=z.device)
    model = poutine.condition(fit.model, data={fit.guide.site: z})
    trace = poutine.trace(model).get_trace(**{fit.guide.observed: x})
    node = next(
        n for n in trace.nodes.values()
        if n["type"] == "sample" and n["is_observed"] and n["name"] != fit.guide.site
        and not n["infer"].get("_deterministic") and type(n["fn"]).__name__ != "_Subsample"
    )  # fmt: skip
    return node["fn"].mean.reshape(len(z), -1).double().cpu().numpy()
