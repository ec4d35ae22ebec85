"""All diagnostics of one approximation: from draws to findings, and the verdict on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from guidebook.diagnostics.convergence import chains_of, sampler_convergence
from guidebook.diagnostics.distance import Marginals, marginals_of, wasserstein_in_sds
from guidebook.diagnostics.importance import (
    Importance,
    evidence,
    khat_limit,
    khat_of_moment,
    psis,
    tail_inflation,
    weighted_moments,
)
from guidebook.diagnostics.modes import Mode, find_modes, gaussian_elbo, missing_modes
from guidebook.diagnostics.stein import Stein, stein, stein_from_surface
from guidebook.diagnostics.transport import Transport, transport
from guidebook.diagnostics.verdict import Estimate, Findings, Judgement, judge
from guidebook.inference.export import COORDINATE
from guidebook.inference.fit import Fit, Status

if TYPE_CHECKING:
    import xarray as xr

NUMBERS = (
    "elbo", "elbo_se", "log_evidence", "log_evidence_se", "khat", "khat_se", "ess", "stein",
    "mean_error", "sd_ratio_min", "sd_ratio_max", "wasserstein",
)  # fmt: skip


@dataclass(frozen=True)
class Assessment:
    """One row of a comparison, with what lies behind it."""

    judgement: Judgement
    numbers: dict[str, float]
    engine: str
    seconds: float
    weights: np.ndarray | None
    khat_sites: dict[str, tuple[float, float]]
    witnesses: list[str]
    findings: Findings = field(repr=False)


@dataclass(frozen=True)
class Reference:
    """Moments of the reference draws, its Monte Carlo error, and whether it can be relied on."""

    name: str
    marginals: Marginals
    ess: float
    sound: bool


def assess(
    tree: xr.DataTree,
    fit: Fit | None = None,
    reference: Reference | None = None,
    modes: list[Mode] | None = None,
    seed: int = 0,
) -> Assessment:
    """Runs every diagnostic that the draws and the fit allow, and judges.

    Arguments:
        tree: draws in ArviZ's groups: posterior; sample_stats with lp and log_q where known;
            unconstrained with position and gradient where known.
        fit: the Fit they come from: gives its potential to the Hamiltonian run and its status.
        reference: what to compare with besides.
        modes: the modes of the fit's density, where they were searched for.
    """
    marginals = marginals_of(tree)
    bounded = bool(_attribute(tree, "discrete"))  # a few values have no tail
    tails = np.ones(1) if bounded else tail_inflation(marginals.values)
    absent: list[str] = []
    sampler, converged, status, vetoed = _convergence(tree, fit, absent)
    importance, log_ratio = _importance(tree, absent, sampler)
    weights = importance.weights if importance else None
    raw, weighted = _stein(tree, marginals, weights, absent)
    moved = _transport(tree, fit, raw, seed, absent)
    compared = _reference_estimate(marginals, reference)
    findings = Findings(
        names=marginals.names,
        family=_attribute(tree, "family"),
        engine=_attribute(tree, "engine") or _engine(tree, sampler),
        draws=len(marginals.values),
        converged=converged,
        status=status,
        vetoed=vetoed,
        khat=importance.khat if importance else math.nan,
        khat_se=importance.khat_se if importance else math.nan,
        khat_limit=khat_limit(len(marginals.values)),
        khat_moments=_khat_moments(log_ratio, marginals, importance),
        ess=importance.ess if importance else math.nan,
        importance=_widened(_importance_estimate(marginals, importance), tails),
        stein=raw.discrepancy if raw else math.nan,
        stein_words=raw.worst() if raw else "",
        stein_weighted=weighted.discrepancy if weighted else math.nan,
        transport=_widened(_transport_estimate(marginals, moved), tails),
        weighted_transport=_widened(_transport_estimate(marginals, moved, weights), tails)
        if importance
        else None,
        reference=compared,
        reference_sound=bool(reference and reference.sound),
        weighted_reference=_reference_estimate(marginals, reference, weights)
        if importance
        else None,
        sampler=sampler,
        point=_attribute(tree, "family") == "delta",
        discrete=bool(_attribute(tree, "discrete")),
        absent=absent,
    )
    findings = _with_modes(findings, tree, fit, modes, log_ratio)
    numbers = _numbers(findings, log_ratio, marginals, reference, moved)
    return Assessment(
        judge(findings),
        numbers,
        findings.engine,
        float(_attribute(tree, "seconds") or (fit.seconds if fit else math.nan)),
        weights,
        _khat_by_site(log_ratio, marginals, importance),
        _witnesses(findings, raw, moved),
        findings,
    )


# the witnesses -----------------------------------------------------------------------------------


def _convergence(
    tree: xr.DataTree, fit: Fit | None, absent: list[str]
) -> tuple[bool, bool | None, str, str]:
    """(is a sampler, has converged, status in words, why nothing of it may be used)."""
    stats = tree.children.get("sample_stats")
    has_q = stats is not None and "log_q" in stats.data_vars
    name = fit.status.name if fit else _attribute(tree, "status")
    status = Status[name] if name in Status.__members__ else None
    engine = fit.engine if fit else _attribute(tree, "engine")
    sampler = engine in ("nuts", "gibbs") or (not engine and not has_q and chains_of(tree) > 1)
    if sampler:
        if status is not None:
            return True, status.good, status.value, ""
        good, words = sampler_convergence(tree)
        return True, good, words, ""
    if status is None:
        absent.append("convergence of the fit (the file does not say how it ended)")
        return False, None, "", ""
    vetoes = (Status.RESTARTS_DISAGREE, Status.STOPPED_BY_NAN, Status.NO_MODE)
    vetoed = status.value if status in vetoes else ""
    return False, status.good, status.value, vetoed


def _importance(
    tree: xr.DataTree, absent: list[str], sampler: bool
) -> tuple[Importance | None, np.ndarray | None]:
    stats = tree.children.get("sample_stats")
    names = set(stats.data_vars) if stats is not None else set()
    if not {"lp", "log_q"} <= names:
        if not sampler:
            missing = [n for n in ("lp", "log_q") if n not in names]
            absent.append(f"importance weights (sample_stats has no {' and no '.join(missing)})")
        return None, None
    log_ratio = (stats["lp"].values - stats["log_q"].values).reshape(-1)
    found = psis(log_ratio)
    if found is None:
        absent.append("importance weights (too few draws, or densities that are not finite)")
    return found, log_ratio


def _stein(
    tree: xr.DataTree, marginals: Marginals, weights: np.ndarray | None, absent: list[str]
) -> tuple[Stein | None, Stein | None]:
    """Of the raw and of the weighted draws; from lp's surface where there are no gradients."""
    if "unconstrained" in tree.children:
        group = tree["unconstrained"]
        u, gradient = (_flat(group[name].values) for name in ("position", "gradient"))
        names = [str(n) for n in group[COORDINATE].values]
        raw = stein(u, gradient, names)
        return raw, stein(u, gradient, names, weights) if weights is not None else None
    if _attribute(tree, "discrete"):
        absent.append("Stein's identities (discrete values have no gradients)")
        return None, None
    absent.append("Stein's identities (no gradients in the file)")
    stats = tree.children.get("sample_stats")
    if stats is None or "lp" not in stats.data_vars:
        return None, None
    chosen = _independent_columns(marginals.values)
    lp = stats["lp"].values.reshape(-1)
    names = [marginals.names[i] for i in chosen]
    raw = stein_from_surface(marginals.values[:, chosen], lp, names)
    if raw is not None:
        absent[-1] += "; a quadratic surface fitted to lp stands in"
    return raw, raw


def _transport(
    tree: xr.DataTree, fit: Fit | None, raw: Stein | None, seed: int, absent: list[str]
) -> Transport | None:
    if _attribute(tree, "discrete"):
        absent.append("a short Hamiltonian run (discrete values have no gradients)")
        return None
    if fit is None or fit.model is None or fit.data is None or "unconstrained" not in tree.children:
        absent.append("a short Hamiltonian run (needs the model: give the Fit, not its file)")
        return None
    if _attribute(tree, "family") == "delta" or fit.draws is not None:
        return None
    if not fit.potential.vectorised:
        absent.append("a short Hamiltonian run (the model cannot be vectorised)")
        return None
    u = _flat(tree["unconstrained"]["position"].values)
    covariance = np.atleast_2d(np.cov(u, rowvar=False))
    if raw is not None and raw.covariance is not None:
        covariance = _bounded(raw.covariance, covariance)
    try:
        return transport(fit.potential, u, covariance, seed)
    except np.linalg.LinAlgError:
        return None


def _bounded(target: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The target's covariance where it is within a factor of 100 of the draws' own scales."""
    ratio = np.diagonal(target) / np.diagonal(own)
    return target if (ratio < 1e4).all() and (ratio > 1e-4).all() else own


def _with_modes(
    findings: Findings,
    tree: xr.DataTree,
    fit: Fit | None,
    modes: list[Mode] | None,
    log_ratio: np.ndarray | None,
) -> Findings:
    if fit is None or modes is None or "unconstrained" not in tree.children or findings.point:
        return findings
    u = _flat(tree["unconstrained"]["position"].values)
    found = missing_modes(fit.potential, modes, u, _lower_bound(fit, u, log_ratio, findings))
    words = ""
    if found:
        mode, expected, share = max(found, key=lambda one: one[1])
        place = ", ".join(f"{v:.3g}" for v in mode.center[:4])
        more = ", ..." if len(mode.center) > 4 else ""
        words = (
            f"a mode at unconstrained ({place}{more}) should hold about {expected:.0%} of it and "
            f"holds {share:.1%} of the draws"
        )
    return replace(findings, missing_mode=words, modes_searched=True)


def _lower_bound(
    fit: Fit | None, u: np.ndarray, log_ratio: np.ndarray | None, f: Findings
) -> float:
    """A lower bound of log p(x): an ELBO, or the evidence estimate where weights are usable."""
    bounds = [-math.inf]
    if log_ratio is not None and np.isfinite(log_ratio).all():
        found = evidence(log_ratio)
        bounds.append(found["log_evidence"] if f.khat < f.khat_limit else found["elbo"])
    if fit is not None:
        bounds.append(gaussian_elbo(fit.potential, u))
    return max(bounds)


def search_modes(fit: Fit, seed: int = 0) -> list[Mode] | None:
    """The modes of a fit's density, searched around its draws; None where that cannot be done."""
    if fit.model is None or fit.data is None:
        return None
    tree = fit.posterior(200, seed)
    if "unconstrained" not in tree.children:
        return None
    return find_modes(fit.potential, _flat(tree["unconstrained"]["position"].values), seed)


def _widened(estimate: Estimate | None, tails: np.ndarray) -> Estimate | None:
    if estimate is None:
        return None
    return replace(estimate, log_ratio_se=estimate.log_ratio_se * tails)


# estimates ---------------------------------------------------------------------------------------


def _importance_estimate(marginals: Marginals, importance: Importance | None) -> Estimate | None:
    if importance is None:
        return None
    values, weights = marginals.values, importance.weights
    mean, sd = values.mean(0), values.std(0)
    target_mean, target_sd = weighted_moments(values, weights)
    sd, target_sd = (np.maximum(one, marginals.least_sd) for one in (sd, target_sd))
    z2 = np.square((values - target_mean) / target_sd)
    # errors of self-normalised weights, of their difference from the raw draws
    tilt = weights - 1 / len(weights)
    shift_se = np.sqrt(np.square(tilt) @ z2)
    ratio_se = 0.5 * np.sqrt(np.square(tilt) @ np.square(z2 - 1))
    log_ratio = np.log(sd / target_sd)  # both floored above
    able = np.full(len(mean), importance.usable)
    return Estimate((mean - target_mean) / target_sd, shift_se, log_ratio, ratio_se, able)


def _transport_estimate(
    marginals: Marginals, moved: Transport | None, weights: np.ndarray | None = None
) -> Estimate | None:
    """Errors of the raw draws, or of the weighted ones, by the moments after the Hamiltonian run."""
    if moved is None or len(moved.sd) != len(marginals.names):
        return None
    if weights is None:
        return Estimate(
            moved.shift, moved.shift_se, np.log(moved.sd_ratio), moved.sd_ratio_se, moved.able
        )
    mean, sd = weighted_moments(marginals.values, weights)
    ess = 1 / np.square(weights).sum()
    shift = (mean - moved.mean) / moved.sd
    log_ratio = np.log(np.maximum(sd, 1e-300) / moved.sd)
    noise = math.sqrt(1 / ess)
    return Estimate(
        shift,
        np.hypot(moved.shift_se, noise),
        log_ratio,
        np.hypot(moved.sd_ratio_se, noise),
        moved.able,
    )


def _reference_estimate(
    marginals: Marginals, reference: Reference | None, weights: np.ndarray | None = None
) -> Estimate | None:
    if reference is None:
        return None
    theirs = reference.marginals.in_order_of(marginals.names)
    if theirs is None:
        return None
    mean, sd = weighted_moments(marginals.values, weights)
    sd = np.maximum(sd, marginals.least_sd)
    ref_mean, ref_sd = theirs.mean(0), np.maximum(theirs.std(0), marginals.least_sd)
    size = len(marginals.values) if weights is None else 1 / np.square(weights).sum()
    error = math.sqrt(1 / size + 1 / max(reference.ess, 1))
    shape = np.ones(len(mean))
    return Estimate(
        (mean - ref_mean) / ref_sd,
        error * shape,
        np.log(sd / ref_sd),
        error / math.sqrt(2) * shape,
        shape.astype(bool),
    )


# numbers and words -------------------------------------------------------------------------------


def _numbers(
    f: Findings,
    log_ratio: np.ndarray | None,
    marginals: Marginals,
    reference: Reference | None,
    moved: Transport | None,
) -> dict[str, float]:
    numbers = dict.fromkeys(NUMBERS, math.nan)
    if log_ratio is not None and np.isfinite(log_ratio).all():
        numbers |= evidence(log_ratio)
    numbers |= {"khat": f.khat, "khat_se": f.khat_se, "ess": f.ess, "stein": f.stein}
    best = f.reference or f.transport or (f.importance if f.khat < f.khat_limit else None)
    if best is not None:
        ratio = np.exp(best.log_ratio)
        numbers["mean_error"] = float(np.abs(best.shift).max())
        numbers |= {"sd_ratio_min": float(ratio.min()), "sd_ratio_max": float(ratio.max())}
    if reference is not None and f.reference is not None:
        theirs = reference.marginals.in_order_of(marginals.names)
        if theirs is not None:
            numbers["wasserstein"] = wasserstein_in_sds(marginals.values, theirs)
    return numbers


def _khat_moments(
    log_ratio: np.ndarray | None, marginals: Marginals, importance: Importance | None
) -> float:
    """The largest k-hat of second moments over the marginals; of bounded values they are finite."""
    if (
        marginals.discrete
        or log_ratio is None
        or importance is None
        or not np.isfinite(importance.khat)
    ):
        return math.nan
    columns = marginals.values.T[:40]
    return max(khat_of_moment(log_ratio, column) for column in columns)


def _khat_by_site(
    log_ratio: np.ndarray | None, marginals: Marginals, importance: Importance | None
) -> dict[str, tuple[float, float]]:
    if marginals.discrete or log_ratio is None or importance is None:
        return {}
    if not np.isfinite(importance.khat):
        return {}
    sites: dict[str, tuple[float, float]] = {}
    for name, column in zip(marginals.names[:200], marginals.values.T, strict=False):
        site = name.split("[")[0]
        khat = khat_of_moment(log_ratio, column)
        if site not in sites or khat > sites[site][0]:
            sites[site] = khat, importance.khat_se
    return sites


def _witnesses(f: Findings, raw: Stein | None, moved: Transport | None) -> list[str]:
    said = []
    if f.status:
        said.append(f"Convergence: {f.status}")
    if math.isfinite(f.khat):
        said.append(
            f"Importance weights: k-hat {f.khat:.2f} +- {f.khat_se:.2f} of {f.draws} draws (limit "
            f"{f.khat_limit:.2f}), effective draws {f.ess:.0f}."
        )
    elif f.khat == -math.inf:
        said.append("Importance weights: all equal; q is the posterior up to rounding.")
    if f.importance is not None and f.khat < f.khat_limit:
        said.append(f"By the weights {f.importance.worst(f.names)}, at worst.")
    if raw is not None:
        said.append(f"Stein's identities: discrepancy {raw.discrepancy:.2g}; {raw.worst()}.")
    if f.transport is not None and moved is not None:
        told = int(moved.able.sum())
        said.append(
            f"Hamiltonian run (acceptance {moved.acceptance:.2f}, tells {told} of "
            f"{len(moved.able)} marginals): {f.transport.worst(f.names)}, at worst."
        )
    if f.modes_searched:
        said.append(f"Modes: {f.missing_mode or 'none found that the draws miss'}.")
    if f.reference is not None:
        said.append(f"Against the reference {f.reference.worst(f.names)}, at worst.")
    return said + [f"Not heard: {one}." for one in f.absent]


def _attribute(tree: xr.DataTree, name: str) -> Any:
    group = tree.children.get("vi_fit")
    return group.attrs.get(name, "") if group is not None else ""


def _engine(tree: xr.DataTree, sampler: bool) -> str:
    library = tree["posterior"].attrs.get("inference_library", "") if "posterior" in tree else ""
    return str(library) or ("sampler" if sampler else "file")


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def _independent_columns(values: np.ndarray) -> list[int]:
    """Columns that are not linear functions of those before: a simplex has one too many."""
    standard = (values - values.mean(0)) / np.maximum(values.std(0), 1e-300)
    kept: list[int] = []
    for column in range(values.shape[1]):
        if not kept:
            kept.append(column)
            continue
        basis = standard[:, kept]
        left = (
            standard[:, column] - basis @ np.linalg.lstsq(basis, standard[:, column], rcond=None)[0]
        )
        if left.std() > 1e-6:
            kept.append(column)
    return kept
