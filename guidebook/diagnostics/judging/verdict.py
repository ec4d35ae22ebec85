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

from collections.abc import Callable

import numpy as np
from scipy.stats import binom

from guidebook.diagnostics.judging.advice import advice, capital, richer
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.witnesses.testimony import Estimate, Testimony

SHARE_TRUSTED, SHARE_REWEIGHTED, SHARE_MARKED = 0.99, 0.95, 0.80
"""Of the rows of an amortised fit; the last, where each of the others is known not to be usable."""
CHANCE = 0.05
"""A sample of the rows speaks against the rest where so many rows off are rarer than this."""
WEIGHTED_ERRORS = 1.0
"""Standard errors by which weighted draws must be within bounds where k-hat leaves them in doubt."""
NOT_SEEN = "Inconclusive: no diagnostic could be computed"


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


# per posterior -----------------------------------------------------------------------------------


def why_not_trust(f: Findings) -> list[str]:
    """Of every posterior: empty where its raw draws can be trusted, else the first reason against."""
    reasons = _first(f, "against")
    confirmed, alone = _confirmed(f), _alone(f)
    unknown = _undecided(f)
    return [
        reason or ("" if confirmed[i] or alone[i] else unknown(i))
        for i, reason in enumerate(reasons)
    ]


def why_not_reweight(f: Findings) -> list[str]:
    """Of every posterior: empty where its weighted draws can be used, else the first reason against."""
    if not any(t.numbers.get("khat") is not None for t in f.testimonies.values()):
        absent = ", ".join(f.absent()) or "importance weights"
        return [f"The draws cannot be reweighted; not computed: {absent}."] * f.posteriors
    reasons, weak = _first(f, "against_weighted"), _first(f, "weak_weighted")
    within = _any(f, _weighted_within) & (_seen_far(f) | _usable(f))
    checked = _any(f, lambda t: t.checks)
    if f.sampled is not None:  # what the sample confirms holds for rows like it
        checked |= bool(checked[list(f.sampled)].all())
    unseen = (
        "Discrete variables have no gradients; without a sound reference a mode that the weighted "
        "draws miss cannot be detected."
        if f.discrete
        else "No diagnostic independent of the importance weights could check the weighted draws."
    )
    return [
        reason or ("" if within[i] else weak[i]) or ("" if checked[i] else unseen)
        for i, reason in enumerate(reasons)
    ]


def _first(f: Findings, name: str) -> list[str]:
    """The first reason of that name for every posterior; the last heard, a reference, comes first."""
    found = [""] * f.posteriors
    for testimony in f.testimonies.values():
        for i, words in enumerate(getattr(testimony, name)):
            found[i] = words or found[i]
    return found


def _any(f: Findings, flags: Callable[[Testimony], np.ndarray | None]) -> np.ndarray:
    total = np.zeros(f.posteriors, bool)
    for testimony in f.testimonies.values():
        own = flags(testimony)
        if own is not None:
            total |= own
    return total


def _weighted_within(t: Testimony) -> np.ndarray | None:
    """Whether a confirming witness that can judge the weighted draws puts them within bounds."""
    if t.role != "confirms" or t.weighted is None:
        return None
    return t.weighted.able.all(-1) & t.weighted.within(WEIGHTED_ERRORS)


def _confirmed(f: Findings) -> np.ndarray:
    """Vouched for, or every marginal is within bounds by the pooled estimate of those that can judge."""
    confirmed = _any(f, lambda t: t.vouches)
    together = pooled(f)
    if together is None:
        return confirmed
    confirmed |= together.good() & (_seen_far(f) | _usable(f))
    if f.sampled is not None and _sample_agrees(f):
        confirmed |= _any(f, _usable_and_within)
    return confirmed


def _seen_far(f: Findings) -> np.ndarray:
    """Where mass far from the draws would have been seen."""
    far = _any(f, lambda t: t.far)
    if f.sampled is not None:  # what holds for the sample holds for rows like it
        far |= bool(far[list(f.sampled)].all())
    return far


def _usable(f: Findings) -> np.ndarray:
    """Where the importance weights can be relied on: k-hat above its limit is a doubt."""
    return _any(f, lambda t: None if t.doubt is None else np.isfinite(t.doubt))


def _sample_agrees(f: Findings) -> bool:
    """Whether costly witnesses could judge most of the sampled rows, and found few of them off.

    A run on a few hundred draws of a row is too short to put it within bounds by itself; it sees what
    the row's weights are blind to.
    """
    rows = list(f.sampled or [])
    judged = np.any([one.able[rows].all(-1) for one in _confirming(f)], axis=0)
    off = np.any([one.bad()[rows] for one in _confirming(f)], axis=0)
    return bool(judged.mean() > 0.5) and enough_of_sample(~off, SHARE_TRUSTED)


def _usable_and_within(t: Testimony) -> np.ndarray | None:
    if t.role != "sharpens" or t.estimate is None:
        return None
    return t.estimate.good()


def pooled(f: Findings) -> Estimate | None:
    """The estimates that confirm and those that sharpen them, weighted by inverse variances."""
    confirming = _confirming(f)
    if not confirming:
        return None
    together = confirming[0]
    for one in confirming[1:]:
        together = _combined(together, one, np.ones(f.posteriors), together.able | one.able)
    for t in f.testimonies.values():
        if t.role == "sharpens" and t.estimate is not None and t.doubt is not None:
            together = _combined(together, t.estimate, t.doubt, together.able)
    return together


def _confirming(f: Findings) -> list[Estimate]:
    """The estimates on which a trust may rest."""
    told = f.testimonies.values()
    return [t.estimate for t in told if t.role == "confirms" and t.estimate is not None]


def _combined(a: Estimate, b: Estimate, doubt: np.ndarray, able: np.ndarray) -> Estimate:
    """Both, with the errors of b multiplied by `doubt` (n,): infinite leaves a as it is."""
    factor = np.where(np.isfinite(doubt), doubt, 1.0)[:, None]
    listened = np.isfinite(doubt)[:, None]

    def mean(x: np.ndarray, x_se: np.ndarray, y: np.ndarray, y_se: np.ndarray) -> list[np.ndarray]:
        x_weight = np.nan_to_num(1 / np.square(x_se + 1e-9))
        y_weight = np.where(listened, np.nan_to_num(1 / np.square(factor * y_se + 1e-9)), 0.0)
        total = x_weight + y_weight
        with np.errstate(divide="ignore", invalid="ignore"):
            value = (np.nan_to_num(x) * x_weight + np.nan_to_num(y) * y_weight) / total
            return [value, 1 / np.sqrt(total)]

    shift = mean(a.shift, a.shift_se, b.shift, b.shift_se)
    ratio = mean(a.log_ratio, a.log_ratio_se, b.log_ratio, b.log_ratio_se)
    return Estimate(shift[0], shift[1], ratio[0], ratio[1], able)


def _alone(f: Findings) -> np.ndarray:
    """Confirmed by the weights alone, which asks more of them and that the gradients agree."""
    alone = _any(f, lambda t: t.alone)
    could = np.zeros(f.posteriors, bool)
    for one in _confirming(f):
        could |= one.able.any(-1)
    if f.discrete or f.converged is False:
        return np.zeros(f.posteriors, bool)
    supported = _any(f, lambda t: t.supports)
    if f.sampled is not None:  # what holds for the sample holds for rows like it
        supported = np.full(f.posteriors, bool(supported[list(f.sampled)].all()))
    return alone & ~could & supported


def enough(reasons: list[str], share: float, f: Findings) -> bool:
    """Whether so many posteriors have no reason against them, in all and in the sample."""
    good = np.array([not reason for reason in reasons])
    if good.mean() < (share if f.posteriors > 1 else 1.0):
        return False
    return f.sampled is None or enough_of_sample(good[list(f.sampled)], share)


def enough_of_sample(good: np.ndarray, share: float) -> bool:
    """Whether a sample with so many rows off could come from rows of which `share` are good."""
    off = int((~good).sum())
    return bool(binom.sf(off - 1, len(good), 1 - share) > CHANCE)


# words -------------------------------------------------------------------------------------------


def _undecided(f: Findings) -> Callable[[int], str]:
    """The reason where no witness contradicts and none confirms, of posterior i."""
    together = pooled(f)
    khat = next((t.numbers["khat"] for t in f.testimonies.values() if "khat" in t.numbers), None)

    def words(i: int) -> str:
        if f.discrete:
            return (
                "Discrete variables have no gradients; without a sound reference a missed mode "
                "cannot be detected."
            )
        if together is not None and together.good()[i]:
            weights = (
                "there are no importance weights" if khat is None else f"k-hat is {khat[i]:.2f}"
            )
            return (
                f"Inconclusive: what was seen at the draws is within bounds, but {weights}, which leaves "
                "a doubt, and nothing could look for mass far from them."
            )
        if together is not None and together.able[i].all():
            return (
                "Inconclusive: an error is within two standard errors of its limit (the largest: "
                f"{together.worst(f.names, i)})."
            )
        weights = "no importance weights" if khat is None else f"k-hat is {khat[i]:.2f}"
        if together is not None:
            blind = f.names[int(np.argmin(together.able[i]))]
            return f"Inconclusive: the HMC check did not mix for {blind}, and {weights}."
        if khat is None:
            return f"{NOT_SEEN}: {', '.join(f.absent()) or 'no draws or densities were given'}."
        return f"Inconclusive: {weights}, and no other diagnostic could check the raw draws."

    return words


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
