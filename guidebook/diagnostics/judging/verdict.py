"""From findings to one of three words, with the reason and what to try next.

The rule, on every scalar marginal of every posterior, in units of the posterior's standard deviation
on the constrained scale:

    trust     the raw draws: means within 0.1 posterior sd, sds within 20 %;
    reweight  the raw draws are off, the importance-weighted draws are within the same bounds;
    reject    neither, or the diagnostics cannot tell.

A global approximation is one posterior; an amortised one has a posterior for every row, of which 99 %
must be within bounds to be trusted and 95 % to be reweighted (80 %, where the others are known by
their own weights: `verdicts_of_rows` says which). Costly witnesses look at a sample of
the rows: they may confirm the others, and count against all where more of the sample is off than the
share allows by chance.

Draws that were moved after the fit (moment matching) are used with their weights or not at all: they
are never trusted as they are.

A wrong trust is the one failure that may not happen, so trust needs a witness that could see an error
of the size that matters, and none that contradicts; being unable to tell is a reject.
"""

from __future__ import annotations

import numpy as np

from guidebook.diagnostics.judging.advice import advice, capital, richer
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.judging.reasons import why_not_reweight, why_not_trust
from guidebook.diagnostics.judging.shares import (
    SHARE_MARKED,
    SHARE_REWEIGHTED,
    SHARE_TRUSTED,
    enough,
    enough_of_sample,
)


def judge(f: Findings) -> Judgement:
    """The verdict on one approximation."""
    if f.kind == "point":
        return _of_point(f)
    for testimony in f.testimonies.values():
        if testimony.rules_out:
            return Judgement(Verdict.REJECT, testimony.rules_out, advice(f))
    against = why_not_trust(f)
    if not f.fitted and enough(against, SHARE_TRUSTED, f):
        return Judgement(Verdict.TRUST, _why_trust(f, against), _missing(f) or NOTHING)
    weighted = why_not_reweight(f)
    if enough(weighted, SHARE_REWEIGHTED, f):
        reason = f"{f.fitted or _summed(f, against, 'within bounds')} {_mended(f, weighted)}"
        return Judgement(
            Verdict.REWEIGHT,
            reason,
            f"Use the weighted draws ({_how_weighted(f)}), or {richer(f)} for raw draws that need no "
            "weights.",
        )
    if _marked(f, weighted):
        reason = f"{_summed(f, against, 'within bounds')} {_mended(f, weighted)} {MARKED}"
        return Judgement(
            Verdict.REWEIGHT,
            reason,
            f"Use the weighted draws of the rows marked so "
            f"({_how_weighted(f)}), and {richer(f)} for the others.",
        )
    reason = "" if f.fitted else _summed(f, against, "within bounds")
    after = _summed(f, weighted, "within bounds after weighting")
    if f.kind != "chains" and after != reason:  # chains have no weights, and need none
        reason += " " + after
    return Judgement(Verdict.REJECT, reason.strip(), advice(f))


NOTHING = "Use the draws as they are."
MARKED = (
    "The weights of the others cannot be used; comparison.amortized[name].row_verdicts has the verdict on "
    "each row."
)


def verdicts_of_rows(f: Findings) -> list[Verdict]:
    """The verdict on every posterior by itself, by the witnesses that looked at it."""
    if f.kind == "point":
        return [Verdict.REJECT] * f.posteriors
    pairs = zip(why_not_trust(f), why_not_reweight(f), strict=True)
    return [
        Verdict.REJECT if raw and weighted else Verdict.REWEIGHT if raw else Verdict.TRUST
        for raw, weighted in pairs
    ]


def _marked(f: Findings, weighted: list[str]) -> bool:
    """Whether most rows can be reweighted, and it is known of every row whether it can.

    Unusable weights are seen in each row. What they do not see is seen in the sample: of its rows with
    usable weights as few may be off as of a fit of which 95 % can be reweighted.
    """
    good, usable = np.array([not reason for reason in weighted]), _usable_by_themselves(f)
    if f.posteriors == 1 or good.mean() < SHARE_MARKED:
        return False
    if f.sampled is None:
        return bool(good[usable].mean() >= SHARE_REWEIGHTED)
    chosen = [i for i in f.sampled if usable[i]]
    return bool(chosen) and enough_of_sample(good[chosen], SHARE_REWEIGHTED)


def _usable_by_themselves(f: Findings) -> np.ndarray:
    """The posteriors (n,) whose importance weights have nothing against their own use."""
    told = [t.against_weighted for t in f.testimonies.values() if t.doubt is not None]
    return np.array([not words for words in told[0]] if told and told[0] else [True] * f.posteriors)


def _of_point(f: Findings) -> Judgement:
    if f.posteriors > 1:
        return Judgement(
            Verdict.REJECT,
            "The guide gives a point for each row (a deterministic code), without the spread of a "
            "posterior.",
            "Use it as an autoencoder (reconstructions and codes are on its page); for a posterior, "
            "fit AmortizedNormal.",
        )
    return Judgement(
        Verdict.REJECT,
        "A point estimate has no spread, so it is not a posterior.",
        "Use mean_field or full_rank; keep delta for a mode.",
    )


# words -------------------------------------------------------------------------------------------


def _why_trust(f: Findings, against: list[str]) -> str:
    parts = [t.agreement for t in f.testimonies.values() if t.agreement]
    text = capital(", ".join(parts)) + "."
    if f.posteriors == 1:
        return text
    return f"{_share(against)} of the {f.posteriors} rows are within bounds. {text}"


def _summed(f: Findings, reasons: list[str], what: str) -> str:
    """The reason; of many posteriors the share that has none, and the reason of the first that has."""
    if f.posteriors == 1:
        return reasons[0]
    rows, which = list(range(f.posteriors)), "rows"
    if f.sampled is not None and any(reasons[i] for i in f.sampled):  # seen by more witnesses
        rows, which = list(f.sampled), "rows looked at closely"
    i = next(i for i in (*rows, *range(f.posteriors)) if reasons[i])
    share = _share([reasons[k] for k in rows])
    return f"{share} of the {len(rows)} {which} are {what}; row {i}: {reasons[i]}"


def _share(reasons: list[str]) -> str:
    return f"{np.mean([not reason for reason in reasons]):.0%}"


def _mended(f: Findings, weighted: list[str]) -> str:
    if f.posteriors > 1:
        return f"After importance weighting {_share(weighted)} are within bounds."
    numbers = next(t.numbers for t in f.testimonies.values() if "khat" in t.numbers)
    return (
        f"Importance weighting corrects this (k-hat {numbers['khat'][0]:.2f} +- "
        f"{numbers['khat_se'][0]:.2f}, effective sample size {numbers['ess'][0]:.0f} of {f.draws} draws)."
    )


def _how_weighted(f: Findings) -> str:
    if f.posteriors > 1:
        return "for each row, log weights log p(x, z) - log q(z | x)"
    return "comparison.weighted(name)"


def _missing(f: Findings) -> str:
    absent = f.absent()
    return f"Not checked: {'; '.join(absent)}." if absent else ""
