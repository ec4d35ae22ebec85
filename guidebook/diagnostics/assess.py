"""All diagnostics of one approximation: from draws to findings, and the verdict on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from guidebook.diagnostics.judging.findings import Findings, Judgement
from guidebook.diagnostics.judging.verdict import judge
from guidebook.diagnostics.witnesses.chains import _convergence
from guidebook.diagnostics.witnesses.importance import (
    _importance,
    _importance_estimate,
    _khat_by_site,
    _khat_moments,
    evidence,
    khat_limit,
    tail_inflation,
)
from guidebook.diagnostics.witnesses.modes import (
    Mode,
    _lower_bound,
    missing_modes,
)
from guidebook.diagnostics.witnesses.reference import (
    Reference,
    _reference_estimate,
    wasserstein_in_sds,
)
from guidebook.diagnostics.witnesses.stein import Stein, _stein
from guidebook.diagnostics.witnesses.testimony import (
    Marginals,
    _attribute,
    _flat,
    _widened,
    marginals_of,
)
from guidebook.diagnostics.witnesses.transport import (
    Transport,
    _transport,
    _transport_estimate,
)
from guidebook.inference.fits.fit import Fit

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
        point=_attribute(tree, "kind") == "point",
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


def _engine(tree: xr.DataTree, sampler: bool) -> str:
    library = tree["posterior"].attrs.get("inference_library", "") if "posterior" in tree else ""
    return str(library) or ("sampler" if sampler else "file")
