"""One row of a comparison: the judgement, its numbers, and the findings behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement

if TYPE_CHECKING:
    import xarray as xr

NUMBERS = (
    "elbo", "elbo_se", "log_evidence", "log_evidence_se", "khat", "khat_se", "ess", "stein",
    "mean_error", "sd_ratio_min", "sd_ratio_max", "wasserstein",
)  # fmt: skip
SHARE = 0.99
"""Of the rows of an amortised fit, within the error that the table gives."""


@dataclass(frozen=True)
class Assessment:
    """One row of a comparison, with what lies behind it.

    `matched`: the draws that judgement and weights are of, where moment matching moved them; else they
    are of the draws as fitted.
    """

    judgement: Judgement
    numbers: dict[str, float]
    engine: str
    seconds: float
    weights: np.ndarray | None
    khat_sites: dict[str, tuple[float, float]]
    witnesses: list[str]
    findings: Findings = field(repr=False)
    matched: xr.DataTree | None = field(default=None, repr=False)

    @property
    def checks(self) -> str:
        """How many witnesses confirm, of those that were asked: on what the verdict rests."""
        told = self.findings.testimonies.values()
        asked = [t for t in told if t.agreement or t.absent or t.estimate or t.supports is not None]
        return f"{sum(map(_confirms, asked))} of {len(asked)}" if asked else ""


def _confirms(testimony: Testimony) -> bool:
    """Whether it agrees with the draws, of many posteriors with 99 % of them."""
    fine = [not words for words in testimony.against]
    agrees = not testimony.rules_out and (not fine or float(np.mean(fine)) >= SHARE)
    return bool(testimony.agreement) and agrees


def findings_of(
    subject: Subject,
    heard: Mapping[str, Testimony],
    family: str,
    engine: str,
    sampled: Sequence[int] | None = None,
    fitted: str = "",
) -> Findings:
    """What is judged: the subject's facts and the testimonies."""
    return Findings(
        names=subject.names,
        kind=subject.kind,
        discrete=subject.is_discrete,
        family=family,
        engine=engine,
        draws=subject.draws,
        converged=subject.status.good if subject.status else None,
        status=subject.status.value if subject.status else "",
        posteriors=subject.posteriors,
        testimonies=heard,
        sampled=sampled,
        fitted=fitted,
    )


def numbers_of(findings: Findings, scale: float = 1.0) -> dict[str, float]:
    """The columns of the table: totals over posteriors, times `scale` where rows stand for more.

    ELBO and evidence are summed over rows; errors of means and standard deviations are those within
    which 99 % of the rows lie; every other number is the median row's. Of one posterior all are its own.
    """
    numbers = dict.fromkeys(NUMBERS, math.nan)
    if findings.kind == "point":
        return numbers
    for testimony in findings.testimonies.values():
        for name, values in testimony.numbers.items():
            numbers[name] = _total(name, np.asarray(values, dtype=float), scale)
    best = _best(findings)
    if best is not None:
        shift, ratio = np.abs(best.shift).max(-1), best.log_ratio
        numbers["mean_error"] = float(np.nanquantile(shift, SHARE))
        low, high = (np.exp(a) for a in (ratio.min(-1), ratio.max(-1)))
        numbers["sd_ratio_min"] = float(np.nanquantile(low, 1 - SHARE))
        numbers["sd_ratio_max"] = float(np.nanquantile(high, SHARE))
    return numbers


def _total(name: str, values: np.ndarray, scale: float) -> float:
    if len(values) == 1:
        return float(values[0])
    if name in ("elbo", "log_evidence"):
        return float(values.sum() * scale)
    if name in ("elbo_se", "log_evidence_se"):
        return float(np.sqrt(np.square(values).sum()) * scale)
    finite = values[np.isfinite(values)]
    middle = float(np.nanmedian(values)) if not np.isnan(values).all() else math.nan
    return middle if math.isfinite(middle) or not len(finite) else float(np.median(finite))


def _best(findings: Findings) -> Estimate | None:
    """Whose errors the table gives: the reference's, else a confirming witness's, else the weights'."""
    told = [one for one in findings.testimonies.values() if one.estimate is not None]
    able = [one for one in told if one.estimate is not None and one.estimate.able.any()]
    ranked = [one for one in told if one.role == "compares"]
    if findings.sampled is None:
        ranked += [one for one in told if one.role == "confirms"]
    ranked += [one for one in able if one.role == "sharpens"]
    return ranked[0].estimate if ranked else None
