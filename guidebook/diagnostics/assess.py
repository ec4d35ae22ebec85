"""One approximation, from draws to a verdict: the diagnostics are computed, then judged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from guidebook.diagnostics.evidence.subject import (
    Effort,
    Reference,
    Subject,
    Whole,
    attribute,
    marginals_of,
)
from guidebook.diagnostics.judging.assessment import Assessment, findings_of, numbers_of
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.judging.verdict import judge
from guidebook.diagnostics.numerics import modes as modes_search
from guidebook.diagnostics.numerics.basins import Basins
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.numerics.modes import STARTS
from guidebook.diagnostics.numerics.psis import tail_inflation
from guidebook.diagnostics.witnesses import importance, transport
from guidebook.diagnostics.witnesses.chains import chains_of
from guidebook.diagnostics.witnesses.hearing import heard_on
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status

if TYPE_CHECKING:
    import xarray as xr


def assess(
    tree: xr.DataTree,
    fit: Fit | None = None,
    reference: Reference | None = None,
    modes: Basins | None = None,
    seed: int = 0,
    fitted: str = "",
    calibration: Calibration | None = None,
    effort: Effort = "full",
) -> Assessment:
    """The verdict on draws, from every diagnostic that they and the fit allow.

    Arguments:
        tree: draws in ArviZ's groups: posterior; sample_stats with lp and log_q where known;
            unconstrained with position and gradient where known.
        fit: the Fit they come from: gives its potential to the Hamiltonian run and its status.
        reference: what to compare with besides.
        modes: the basins of the fit's density, where modes were searched for.
        fitted: of draws that were moved after the fit, what speaks against those as fitted.
        calibration: of the engine and guide that made the fit, where it was computed.
        effort: how much time the witnesses may take.
    """
    drawn = subject_of(tree, fit, reference, modes, seed, effort)
    subject = replace(drawn, calibration=calibration, moved=bool(fitted))
    heard = heard_on(subject)
    family, engine = attribute(tree, "family"), _engine(tree, subject.kind)
    findings = findings_of(subject, heard, family, engine, fitted=fitted)
    found = heard[importance.NAME].detail
    weights = found[0].weights if found and found[0] is not None else None
    sites = {}
    if not subject.is_discrete and found and subject.log_ratio is not None:
        sites = importance.khat_by_site(
            list(subject.names), subject.values[:, 0], subject.log_ratio[:, 0], found[0]
        )
    return Assessment(
        judge(findings),
        numbers_of(findings),
        findings.engine,
        float(attribute(tree, "seconds") or (fit.seconds if fit else math.nan)),
        weights,
        sites,
        findings.sentences() + _left_out(subject),
        findings,
    )


QUICK = (
    "Left out for time (effort='quick'): draws and chains of the HMC check beyond 4,000, three of four "
    "starts of the search for modes, moment matching, the ELBO in three forms."
)


def _left_out(subject: Subject) -> list[str]:
    """What the witnesses did less of than they would have with more time."""
    if subject.effort == "quick":
        return [QUICK]
    if subject.density is None or subject.potential is None:
        return []
    chains, starts = transport.affordable(subject.density, 1), STARTS["full"]
    made = modes_search.affordable(subject.potential, starts)
    said = []
    if chains < transport.CHAINS:
        said.append(
            f"{transport.CHAINS - chains:,} of {transport.CHAINS:,} chains of the HMC check"
        )
    if made < starts:
        said.append(f"{starts - made} of {starts} starts of the search for modes")
    return [f"Left out for time: {' and '.join(said)}."] if said else []


def refused(fit: Fit, reason: str) -> Assessment:
    """The verdict on a fit whose draws cannot be judged at all."""
    findings = Findings(names=(), kind=fit.approximation.kind, engine=fit.engine)
    remedy = (
        "Give every site of the guide a distribution with the support of the model's site (LogNormal "
        "for a positive one), and fit again."
    )
    judgement = Judgement(Verdict.REJECT, reason, remedy)
    return Assessment(
        judgement, numbers_of(findings), fit.engine, fit.seconds, None, {}, [reason], findings
    )


# the subject of a global approximation ---------------------------------------------------------------


def subject_of(
    tree: xr.DataTree,
    fit: Fit | None,
    reference: Reference | None = None,
    modes: Basins | None = None,
    seed: int = 0,
    effort: Effort = "full",
) -> Subject:
    """Draws of one posterior, from the groups of a tree and, where it is there, the fit."""
    marginals = marginals_of(tree)
    values = marginals.values[:, None]
    kind = _kind(tree, fit)
    known = fit is not None and fit.model is not None and fit.data is not None
    position, gradient, coordinates = _unconstrained(tree)
    log_density, log_ratio, no_ratio = _densities(tree)
    usable = known and fit is not None and position is not None
    potential = fit.potential if usable and fit is not None else None
    vectorised = potential is not None and potential.vectorised
    smooth = not marginals.discrete and kind != "point"
    return Subject(
        kind=kind,
        names=marginals.names,
        values=values,
        discrete=np.full(values.shape[2], marginals.discrete),
        coordinates=coordinates,
        log_ratio=log_ratio,
        log_density=log_density,
        position=position,
        gradient=gradient,
        density=Whole(potential) if potential is not None and vectorised else None,
        potential=potential,
        status=_status(tree, fit),
        tree=tree,
        reference=reference,
        modes=modes,
        tails=tail_inflation(marginals.values)[None] if smooth else np.ones((1, 1)),
        seed=seed,
        effort=effort,
        lacks=_lacks(marginals.discrete, known, potential is not None, no_ratio),
    )


def _lacks(discrete: bool, known: bool, has_potential: bool, no_ratio: str) -> dict[str, str]:
    """Why something that a witness needs is not there."""
    no_gradient = "discrete values have no gradients"
    no_model = "needs the model: give the Fit, not its file"
    return {
        "log_ratio": no_ratio,
        "gradient": no_gradient if discrete else "no gradients in the file",
        "density": no_gradient
        if discrete
        else "the model cannot be vectorised"
        if has_potential
        else no_model
        if not known
        else "the unconstrained scale has too many dimensions",
        "modes": no_gradient if discrete else no_model if not known else "",
    }


def _unconstrained(tree: xr.DataTree) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    if "unconstrained" not in tree.children:
        return None, None, []
    group = tree["unconstrained"].to_dataset()
    position, gradient = (group[name].values for name in ("position", "gradient"))
    width = position.shape[-1]
    names = [str(n) for n in group[group["position"].dims[-1]].values]
    return position.reshape(-1, 1, width), gradient.reshape(-1, 1, width), names


def _densities(tree: xr.DataTree) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """log p and log p - log q, (S, 1), or why there is no ratio."""
    stats = tree.children.get("sample_stats")
    names = set(map(str, stats.data_vars)) if stats is not None else set()
    missing = [n for n in ("lp", "log_q") if n not in names]
    lp = stats["lp"].values.reshape(-1, 1) if stats is not None and "lp" in names else None
    if missing or lp is None or stats is None:
        return lp, None, f"sample_stats has no {' and no '.join(missing)}"
    return lp, lp - stats["log_q"].values.reshape(-1, 1), ""


def _kind(tree: xr.DataTree, fit: Fit | None) -> str:
    """What the draws are: the Fit says it; a file by its attributes, or by its chains."""
    if fit is not None:
        return fit.approximation.kind
    told = attribute(tree, "kind")
    if told:
        return str(told)
    stats = tree.children.get("sample_stats")
    has_q = stats is not None and "log_q" in stats.data_vars
    return "chains" if not has_q and chains_of(tree) > 1 else "density"


def _status(tree: xr.DataTree, fit: Fit | None) -> Status | None:
    name = fit.status.name if fit else attribute(tree, "status")
    return Status[name] if name in Status.__members__ else None


def _engine(tree: xr.DataTree, kind: str) -> str:
    library = tree["posterior"].attrs.get("inference_library", "")
    told = attribute(tree, "engine") or library
    return str(told) or ("sampler" if kind == "chains" else "file")
