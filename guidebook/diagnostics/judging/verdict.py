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

import numpy as np

from guidebook.diagnostics.judging.advice import _advice, _richer
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.witnesses.testimony import ERRORS, Estimate

STEIN_LIMIT = 0.35
"""Of Stein's discrepancy: it compares with a Gaussian, so it contradicts, and does not confirm."""


KHAT_ALONE = 0.5
"""Below it raw importance sampling has finite variance (Vehtari et al. 2024): asked of k-hat where
no gradient is there to confirm it."""


REWEIGHT_SHARE = 0.1
"""Least importance ESS as a share of the draws: 400 of 4,000 give means to 0.05 sd."""


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


def _missing(f: Findings) -> str:
    return f"Not checked: {'; '.join(f.absent)}." if f.absent else ""
