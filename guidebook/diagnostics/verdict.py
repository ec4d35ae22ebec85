"""From numbers to one word: trust, reweight or reject, why, and what to try next.

What the words promise, per marginal mean and standard deviation on the constrained scale:

    trust     the raw draws: means within 0.1 posterior sd, sds within 20 %;
    reweight  the raw draws are off, the importance-weighted draws are within the same bounds;
    reject    neither, or the diagnostics cannot tell.

A wrong trust is the one failure that may not happen, so trust needs several witnesses to agree and
at least one of them able to see an error of that size; being unable to tell is a reject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

MEAN_LIMIT = 0.1
"""In posterior standard deviations; with the sd limits, the definition of a good approximation."""
SD_LOW, SD_HIGH = 1 / 1.2, 1.2
"""Within 20 % on the scale of the logarithm, the stricter side of 'within 20 %' below."""
ERRORS = 2.0
"""Standard errors added to an estimated error before it is held against its limit."""
STEIN_LIMIT = 0.35
"""Of Stein's discrepancy: it compares with a Gaussian, so it contradicts, and does not confirm."""
KHAT_ALONE = 0.5
"""Below it raw importance sampling has finite variance (Vehtari et al. 2024): asked of k-hat where
no gradient is there to confirm it."""
REWEIGHT_SHARE = 0.1
"""Least importance ESS as a share of the draws: 400 of 4,000 give means to 0.05 sd."""


class Verdict(Enum):
    """What to do with an approximation."""

    TRUST = "trust"
    REWEIGHT = "reweight"
    REJECT = "reject"


@dataclass(frozen=True)
class Estimate:
    """One witness's estimate of the errors of draws, per marginal (M,), with its own errors.

    shift: (mean of q - mean of p) / sd of p; log_ratio: log(sd of q / sd of p). `able` says for
    which marginals the witness could see an error of the size that matters.
    """

    shift: np.ndarray
    shift_se: np.ndarray
    log_ratio: np.ndarray
    log_ratio_se: np.ndarray
    able: np.ndarray

    def good(self) -> bool:
        """Everything was seen, and everything is within bounds, errors included."""
        return bool(self.able.all()) and self.within(ERRORS)

    def within(self, errors: float) -> bool:
        """Whether all errors, moved by this many standard errors away from zero, are in bounds."""
        shift = np.abs(self.shift) + errors * self.shift_se
        ratio = np.abs(self.log_ratio) + errors * self.log_ratio_se
        return bool((shift < MEAN_LIMIT).all() and (ratio < math.log(SD_HIGH)).all())

    def bad(self) -> bool:
        """Some error that was seen is out of bounds by more than two standard errors."""
        shift = np.abs(self.shift) - 2 * self.shift_se > MEAN_LIMIT
        ratio = np.abs(self.log_ratio) - 2 * self.log_ratio_se > math.log(SD_HIGH)
        return bool((self.able & (shift | ratio)).any())

    def worst(self, names: list[str]) -> str:
        """The marginal that is most off, in words."""
        shift = np.abs(self.shift) / MEAN_LIMIT
        ratio = np.abs(self.log_ratio) / math.log(SD_HIGH)
        if shift.max() >= ratio.max():
            i = int(shift.argmax())
            way = "high" if self.shift[i] > 0 else "low"
            return f"the mean of {names[i]} is {abs(self.shift[i]):.2g} sd too {way}"
        i = int(ratio.argmax())
        way = "narrow" if self.log_ratio[i] < 0 else "wide"
        return f"{names[i]} is too {way} (sd ratio {math.exp(self.log_ratio[i]):.2g})"


@dataclass(frozen=True)
class Findings:
    """What the witnesses said of one approximation; None where a witness could not be heard."""

    names: list[str]
    family: str = ""
    engine: str = ""
    draws: int = 0
    converged: bool | None = None
    status: str = ""
    vetoed: str = ""
    khat: float = math.nan
    khat_se: float = math.nan
    khat_limit: float = 0.7
    khat_moments: float = math.nan
    ess: float = math.nan
    importance: Estimate | None = None
    stein: float = math.nan
    stein_words: str = ""
    stein_weighted: float = math.nan
    transport: Estimate | None = None
    weighted_transport: Estimate | None = None
    missing_mode: str = ""
    modes_searched: bool = False
    reference: Estimate | None = None
    reference_sound: bool = False
    weighted_reference: Estimate | None = None
    sampler: bool = False
    point: bool = False
    discrete: bool = False
    absent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judgement:
    """The verdict, why, and what to try next, as sentences."""

    verdict: Verdict
    reason: str
    next: str


def judge(f: Findings) -> Judgement:
    """The verdict on one approximation."""
    if f.point:
        return Judgement(
            Verdict.REJECT,
            "A point estimate has no spread, so it is not a posterior.",
            "Use mean_field or full_rank; keep delta for a mode.",
        )
    against = _against_everything(f)
    if against:
        return Judgement(Verdict.REJECT, against, _advice(f))
    if f.sampler:
        return _judge_sampler(f)
    trust = _why_not_trust(f)
    if not trust:
        return Judgement(Verdict.TRUST, _why_trust(f), _missing(f) or "Nothing: use the draws.")
    weight = _why_not_reweight(f)
    if not weight:
        reason = (
            f"{trust} The importance weights mend it (k-hat {f.khat:.2f}, effective draws "
            f"{f.ess:.0f} of {f.draws})."
        )
        return Judgement(
            Verdict.REWEIGHT, reason, "Use the weighted draws (comparison.weighted(name)), "
            f"or {_richer(f)} for raw draws that need no weights.",
        )  # fmt: skip
    return Judgement(Verdict.REJECT, f"{trust} {weight}", _advice(f))


# what speaks against raw and weighted draws alike ------------------------------------------------


def _against_everything(f: Findings) -> str:
    if f.vetoed:
        return f.vetoed
    if f.missing_mode:
        return f"The posterior has mass where there are no draws: {f.missing_mode}."
    if f.reference is not None and f.reference_sound and f.sampler and f.reference.bad():
        return f"It contradicts the reference: {f.reference.worst(f.names)}."
    return ""


def _judge_sampler(f: Findings) -> Judgement:
    if not f.converged:
        return Judgement(Verdict.REJECT, f.status or "Its chains have not converged.", _advice(f))
    if f.stein > STEIN_LIMIT:
        return Judgement(
            Verdict.REJECT,
            f"The chains agree with one another and not with the density: {f.stein_words}.",
            "Check that model and draws belong together.",
        )
    return Judgement(
        Verdict.TRUST,
        "The chains agree (R-hat, effective sample size), without divergences.",
        _missing(f) or "Nothing: use the draws.",
    )


# trust -------------------------------------------------------------------------------------------


def _why_not_trust(f: Findings) -> str:
    """Empty where the raw draws can be trusted, else the first reason against."""
    if f.reference is not None and f.reference_sound:
        if f.reference.bad():
            return f"Against the reference {f.reference.worst(f.names)}."
        if not f.reference.within(0.0):  # perhaps noise, but a sound reference is heard first
            return f"Against the reference, at the limit: {f.reference.worst(f.names)}."
        if f.reference.good() and not f.sampler and math.isnan(f.khat):
            return ""  # files without log_q: the reference is all there is
    if f.discrete:
        return _why_not_trust_discrete(f)
    for name, estimate in (("A short Hamiltonian run", f.transport),
                           ("Importance weighting", _heard(f))):  # fmt: skip
        if estimate is not None and estimate.bad():
            return f"{name} says that {estimate.worst(f.names)}."
    if f.stein > STEIN_LIMIT:
        return f"Stein's identities fail: {f.stein_words}."
    together = _pooled(f)
    if together is not None and together.good():
        return "" if _not_contradicted(f) else "The witnesses disagree about the raw draws."
    if _importance_confirms(f):
        return ""
    if math.isnan(f.khat) and f.transport is None:
        return f"There is nothing to judge it by ({', '.join(f.absent) or 'no witness'})."
    if together is not None and together.able.all():
        return f"The errors are too near their limits: {together.worst(f.names)}."
    if f.transport is not None:
        blind = f.names[int(np.argmin(f.transport.able))]
        return (
            f"Nothing can tell: a Hamiltonian run is too short for {blind}, k-hat is {f.khat:.2f}."
        )
    return f"k-hat {f.khat:.2f} +- {f.khat_se:.2f} leaves open whether the draws are right."


def _why_not_trust_discrete(f: Findings) -> str:
    """Without gradients no witness but a reference sees a mode that all draws miss."""
    if f.engine == "exact" and f.khat == -math.inf:
        return ""
    if f.reference is None or not f.reference_sound:
        return (
            "Discrete values have no gradients, so nothing but a reference could see a mode that "
            "the draws miss."
        )
    if not f.khat < f.khat_limit:
        return (
            "Against the reference each marginal is right, but how they hang together is not "
            f"(k-hat {f.khat:.2f}, limit {f.khat_limit:.2f})."
        )
    if f.importance is not None and f.importance.bad():
        return f"Importance weighting says that {f.importance.worst(f.names)}."
    return ""


def _heard(f: Findings) -> Estimate | None:
    """The importance weights' estimate, where k-hat lets it be heard."""
    return f.importance if f.khat < f.khat_limit else None


def _pooled(f: Findings) -> Estimate | None:
    """The Hamiltonian run's estimate, with that of the weights where k-hat lets it be heard.

    Weighted by inverse variances; the error of the weights grows with k-hat above 0.5, where their
    variance is infinite.
    """
    run, heard = f.transport, _heard(f)
    if run is None or heard is None or not math.isfinite(f.khat):
        return run
    doubt = 1 + 4 * max(0.0, f.khat - KHAT_ALONE)
    shift, shift_se = _combined(run.shift, run.shift_se, heard.shift, doubt * heard.shift_se)
    ratio, ratio_se = _combined(
        run.log_ratio, run.log_ratio_se, heard.log_ratio, doubt * heard.log_ratio_se
    )
    return Estimate(shift, shift_se, ratio, ratio_se, run.able)


def _combined(
    a: np.ndarray, a_se: np.ndarray, b: np.ndarray, b_se: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    a_weight, b_weight = 1 / np.square(a_se + 1e-9), 1 / np.square(b_se + 1e-9)
    total = a_weight + b_weight
    return (a * a_weight + b * b_weight) / total, 1 / np.sqrt(total)


def _not_contradicted(f: Findings) -> bool:
    heard = _heard(f)
    return heard is None or heard.within(-2.0)


def _importance_confirms(f: Findings) -> bool:
    """k-hat alone, for files without a model: stricter, and the density's surface must agree."""
    if f.importance is None or (f.transport is not None and f.transport.able.any()):
        return False
    agreed = f.stein < STEIN_LIMIT and math.isfinite(f.stein)
    tail = f.khat_moments if math.isfinite(f.khat_moments) else f.khat
    confident = max(f.khat, tail) + f.khat_se < KHAT_ALONE or f.khat == -math.inf
    return agreed and confident and f.importance.within(ERRORS) and f.converged is not False


def _why_trust(f: Findings) -> str:
    parts = []
    if f.transport is not None:
        parts.append("a short Hamiltonian run leaves the draws where they are")
    if _heard(f) is not None:
        parts.append("importance weighting changes nothing that matters" if f.khat > -math.inf
                     else "its density is the posterior's")  # fmt: skip
    if f.stein <= STEIN_LIMIT:
        parts.append("Stein's identities hold")
    if f.reference is not None and f.reference_sound:
        parts.append("the reference agrees")
    text = ", ".join(parts) + "."
    return text[:1].upper() + text[1:]


# reweight ----------------------------------------------------------------------------------------


def _why_not_reweight(f: Findings) -> str:
    """Empty where the weighted draws can be used, else the first reason against."""
    if f.importance is None:
        return "It cannot be reweighted: " + (
            ", ".join(f.absent) or "no weights"
        ) + "."  # fmt: skip
    if not f.khat < f.khat_limit:
        return f"Its weights are unusable (k-hat {f.khat:.2f}, limit {f.khat_limit:.2f})."
    confirmed = f.weighted_transport is not None and f.weighted_transport.within(0.0)
    if f.khat_moments > f.khat_limit and not confirmed:
        return f"Its weights do not give variances (k-hat of second moments {f.khat_moments:.2f})."
    if not f.ess >= REWEIGHT_SHARE * f.draws:
        return f"Its weights leave {f.ess:.0f} effective draws of {f.draws}."
    if f.weighted_reference is not None and f.reference_sound and f.weighted_reference.bad():
        return f"Weighted, against the reference {f.weighted_reference.worst(f.names)}."
    if f.weighted_transport is not None and f.weighted_transport.bad():
        return f"Weighted, {f.weighted_transport.worst(f.names)} by the Hamiltonian run."
    if f.discrete:
        seen = f.weighted_reference is not None and f.reference_sound
        return "" if seen else "Nor could a mode be seen that the weighted draws miss."
    if not f.stein_weighted < STEIN_LIMIT:
        return "The weighted draws fail Stein's identities."
    return ""


# advice ------------------------------------------------------------------------------------------


def _advice(f: Findings) -> str:
    if f.converged is False and f.engine == "svi":
        remedy = f.status.split(". ", 1)[-1] if f.status else "Raise steps."
        sure = any(e is not None and e.bad() for e in (f.reference, f.transport))
        return f"{_capital(_richer(f))}. {remedy}" if sure else remedy
    if f.sampler:
        return "Raise tune and draws, or reparameterise the model."
    if f.missing_mode:
        return "Use nuts with several chains, or order the components of a mixture."
    return _capital(_richer(f)) + "."


def _richer(f: Findings) -> str:
    """The next richer family, by what is wrong."""
    if f.discrete and f.reference is None:
        return "compare with gb.exact or gb.gibbs as reference"
    if f.discrete:
        return "try larger blocks of units, or gibbs"
    if f.family in ("mean_field", "AutoNormal", "AutoDiagonalNormal", "delta"):
        return "try full_rank, or a reparameterised (non-centred) model"
    if f.family in ("low_rank", "AutoLowRankMultivariateNormal"):
        return "try full_rank or flow"
    if f.family in ("full_rank", "AutoMultivariateNormal"):
        return "try flow, a reparameterised (non-centred) model, or nuts"
    return "try nuts, or a reparameterised model"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _missing(f: Findings) -> str:
    return f"Not checked: {'; '.join(f.absent)}." if f.absent else ""
