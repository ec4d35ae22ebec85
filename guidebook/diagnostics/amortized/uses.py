r"""What an amortised fit can be used for: its model, its codes, the posterior of each row.

Three uses ask three things, and a fit that fails one may serve another.

**The model** (likelihoods, comparison of models, generation): did the bound come to rest, and how far
is it from log p(x)? With the gap ledger's mean gap g and error e of the log evidence, in nats a row,

    trust     g + 2 se <= 0.1: the ELBO stands for the evidence;
    reweight  2 e <= 0.1: the ELBO does not, the estimated log evidence does;
    reject    not converged, or the evidence is not known so well, or explanations of rows are left out.

**The codes**, the means m_i of q(z | x_i) (features, retrieval, traversals): their distance from the
means mu_i of p(z | x_i), in units of the standard deviation s_j of the aggregate posterior, by which
codes differ from row to row:

.. math:: d_i^2 = \frac{1}{D} \sum_j \frac{(m_{ij} - \mu_{ij})^2}{s_j^2}, \qquad
    s_j^2 = \mathrm{var}_i\, m_{ij} + \mathrm{mean}_i\, \sigma_{ij}^2

    trust     d_i^2 <= 0.05 for 95 % of the rows, and q keeps all explanations of them;
    reweight  the same of the means of the weighted draws;
    reject    neither.

A code whose error is a twentieth of its variance has a reliability of 0.95, the standard for decisions on
single cases (Nunnally and Bernstein 1994, "Psychometric theory"); correlations with it are lowered by
2.5 % (Spearman 1904, "The proof and measurement of association between two things").

**Each row's posterior** (draws, intervals) is the strict verdict (`judging.verdict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from guidebook.diagnostics.amortized.gap import GapLedger
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.weights import OTHERS, Weighed
from guidebook.diagnostics.evidence.testimony import ERRORS, Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.judging.shares import enough_of_sample
from guidebook.diagnostics.witnesses import annealed

MODEL, CODES, ROWS = "model", "codes", "each row's posterior"
EVIDENCE_LIMIT = 0.1
"""Nats a row: a likelihood ratio of 1.1."""
CODE_LIMIT, CODES_GOOD = 0.05, 0.95
"""Of the variance of the aggregate posterior, and the share of the rows within."""
FEW = 8
"""Rows that their weights cannot judge and that were looked at closely, before they stand for others."""


def uses_of(
    findings: Findings, found: Weighed, numbers: AmortizedNumbers, rows: Judgement
) -> Mapping[str, Judgement]:
    """The three verdicts by use; none where a row has no posterior but a point."""
    if findings.kind == "point":
        return {}
    model, more = _model(findings, found, numbers.ledger), _overfitted(numbers)
    if more:
        model = replace(model, reason=f"{model.reason} {more}", next=f"{model.next} {LESS}")
    return {MODEL: model, CODES: _codes(findings, found), ROWS: rows}


LESS = "A smaller decoder, weight decay or more data lessen the overfitting."


def _overfitted(numbers: AmortizedNumbers) -> str:
    """By how much training rows have a higher bound than rows kept apart; "" within the errors."""
    made = numbers.generation
    if made is None or not made.held_out:
        return ""
    bound = numbers.bound
    excess = float(bound.mean() - made.bound.value)
    error = float(np.hypot(bound.std() / np.sqrt(len(bound)), made.bound.se))
    if excess - ERRORS * error <= EVIDENCE_LIMIT:
        return ""
    return (
        f"The model overfits: its bound is {excess:.2g} +- {error:.1g} nats a row higher on training rows "
        "than on rows kept apart."
    )


# the model -----------------------------------------------------------------------------------------


def _model(f: Findings, found: Weighed, ledger: GapLedger | None) -> Judgement:
    if f.converged is False:
        return Judgement(
            Verdict.REJECT, f.status, "Raise steps: the bound is not yet that of the fit."
        )
    if ledger is None:
        return _by_weights(found)
    if ledger.unseen > 0:
        return Judgement(
            Verdict.REJECT,
            f"The log evidence is not known: {ledger.blind()}",
            "Use a guide that can hold several explanations of a row (AmortizedFlow), or take the "
            "symmetry out of the decoder.",
        )
    terms = ledger.terms()
    return _by_gap(terms["gap"].value, terms["gap"].se, terms["evidence"].se, ledger.where)


def _by_weights(found: Weighed) -> Judgement:
    """Of latents that cannot be annealed: the importance-weighted bound stands for the evidence."""
    numbers = next(t.numbers for t in found.heard.values() if "log_evidence" in t.numbers)
    doubts = [t.doubt for t in found.heard.values() if t.doubt is not None]
    usable = np.isfinite(doubts[0]).mean() if doubts else 0.0
    if usable < CODES_GOOD:
        return Judgement(
            Verdict.REJECT,
            f"The log evidence is not known: the importance weights of {usable:.0%} of the rows are "
            "usable, and the latents are not all real numbers, so it cannot be annealed.",
            "Try a larger encoder or more steps.",
        )
    gap = float(np.mean(found.bound - found.elbo))
    errors = (numbers[name] for name in ("elbo_se", "log_evidence_se"))
    elbo_se, se = (float(np.sqrt(np.square(e).sum()) / len(e)) for e in errors)
    return _by_gap(gap, float(np.hypot(elbo_se, se)), se, "training rows")


def _by_gap(gap: float, gap_se: float, evidence_se: float, where: str) -> Judgement:
    told = f"On {where} the ELBO is {gap:.2g} +- {gap_se:.1g} nats a row below the log evidence"
    if gap + ERRORS * gap_se <= EVIDENCE_LIMIT:
        return Judgement(
            Verdict.TRUST,
            f"Converged. {told}, within {EVIDENCE_LIMIT}.",
            "Compare models by the ELBO or the log evidence.",
        )
    if ERRORS * evidence_se <= EVIDENCE_LIMIT:
        return Judgement(
            Verdict.REWEIGHT,
            f"Converged. {told}, which is known to +- {evidence_se:.1g}.",
            "Compare models by the log evidence, not by the ELBO.",
        )
    return Judgement(
        Verdict.REJECT,
        f"{told}, which is known only to +- {evidence_se:.1g}: twice that exceeds {EVIDENCE_LIMIT}.",
        "Compare models by this number only where they differ by more.",
    )


# the codes -----------------------------------------------------------------------------------------


def _codes(f: Findings, found: Weighed) -> Judgement:
    unit = _unit(f, found)
    cut = np.zeros(f.posteriors, bool) if found.elsewhere is None else found.elsewhere > 0
    good, bad = _raw(f, unit)
    good, bad = good & ~cut, bad | cut  # the mean of one explanation is not that of several
    share = _share(f, found, good, bad)
    told = (
        f"The squared error of the code (the mean of q) is shown to be at most {CODE_LIMIT:.0%} of the "
        f"variance of the aggregate posterior for {share:.0%} of the rows"
    )
    after = "" if f.converged is not False else " They are the codes of a decoder that still moves."
    sampled = list(f.sampled or [])
    if share >= CODES_GOOD and enough_of_sample(good[sampled], CODES_GOOD):
        return Judgement(
            Verdict.TRUST,
            f"{told}.{after}",
            "Use the means of q as features, for retrieval and traversals.",
        )
    weighted = _weighted(f, unit) & ~cut
    if weighted.mean() >= CODES_GOOD and enough_of_sample(weighted[sampled], CODES_GOOD):
        return Judgement(
            Verdict.REWEIGHT,
            f"{told}; the means of the weighted draws are for {weighted.mean():.0%}.{after}",
            "Use the means of each row's weighted draws as its code.",
        )
    often = cut[sampled].any()
    more = f"; {_worst(f, unit, bad & ~cut)}" if (bad & ~cut).any() or not often else ""
    if often:
        more += (
            f". In {cut[sampled].mean():.0%} of the rows looked at closely the encoder picked one of "
            "several explanations, and its code is that of this one"
        )
    return Judgement(Verdict.REJECT, f"{told}{more}.{after}", _next_codes(f))


def _raw(f: Findings, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows (n,) some witness shows to be within bounds and none beyond; and which beyond."""
    good, bad = (np.zeros(f.posteriors, bool) for _ in range(2))
    for t in f.testimonies.values():
        if t.estimate is None:
            continue
        far, se, able = _distance(t, t.estimate, unit)
        if t.role in ("confirms", "sharpens"):
            good |= able & (far + ERRORS * se <= CODE_LIMIT)
        bad |= able & (far - ERRORS * se > CODE_LIMIT)
    return good & ~bad, bad


def _weighted(f: Findings, unit: np.ndarray) -> np.ndarray:
    """Rows (n,) whose weighted means are known well enough, and contradicted by no witness."""
    fine, off = (np.zeros(f.posteriors, bool) for _ in range(2))
    for t in f.testimonies.values():
        if t.role == "sharpens" and t.estimate is not None:
            error = replace(t.estimate, shift=t.estimate.shift_se)  # of the weighted means
            far, _, able = _distance(t, error, unit, noise=0.0)
            fine |= able & (ERRORS**2 * far <= CODE_LIMIT)
        if t.weighted is not None:
            far, se, able = _distance(t, t.weighted, unit)
            off |= able & (far - ERRORS * se > CODE_LIMIT)
    return fine & ~off


def _distance(
    t: Testimony, one: Estimate, unit: np.ndarray, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d^2 of every row without what its errors add, the standard error, and who could judge (n,)."""
    doubt = np.ones(len(unit)) if t.doubt is None else t.doubt
    with np.errstate(over="ignore", invalid="ignore"):
        factor = unit * np.exp(-one.log_ratio)  # the posterior's standard deviation
        error, se = one.shift * factor, one.shift_se * factor * doubt[:, None]
        far = (np.square(error) - noise * np.square(se)).mean(-1)
        spread = np.sqrt((4 * np.square(error * se) + 2 * se**4).sum(-1)) / error.shape[1]
    able = one.able.all(-1) & np.isfinite(doubt) & np.isfinite(far) & np.isfinite(spread)
    return np.where(able, far, 0.0), np.where(able, spread, 0.0), able


def _share(f: Findings, found: Weighed, good: np.ndarray, bad: np.ndarray) -> float:
    """The share of good rows. Rows that their weights cannot judge count by the share of good ones of
    those like them that the costly witnesses looked at, the largest k-hats among them.
    """
    by_weights = {n: t for n, t in f.testimonies.items() if t.role == "sharpens"}
    alone = _raw(replace(f, testimonies=by_weights), _unit(f, found))
    unknown = ~alone[0] & ~alone[1]
    closely = np.zeros(f.posteriors, bool)
    closely[[*(f.sampled or []), *found.worst]] = True
    like = unknown & closely
    told = f.testimonies.get(OTHERS)
    if told is not None and told.estimate is not None:  # judged by itself, for better or worse
        unknown &= ~told.estimate.able.all(-1)
    rest = (~good & ~bad & unknown & ~closely).mean()
    return float(good.mean() + (rest * good[like].mean() if like.sum() >= FEW else 0.0))


def _unit(f: Findings, found: Weighed) -> np.ndarray:
    """The standard deviations of every row's q in those of the aggregate posterior, (n, D).

    Of the aggregate of q, made smaller where the posteriors of rows that are known directly are less spread
    out than q is for the same rows: the units must not be those of a q that spreads its codes too far.
    """
    spread = _spread(found.mean, found.sd)
    for name in (annealed.NAME, OTHERS):
        told = f.testimonies.get(name)
        one = None if told is None else told.estimate
        rows = np.zeros(0, bool) if one is None else one.able.all(-1)
        if one is not None and rows.sum() > FEW:
            sd = found.sd[rows] * np.exp(-one.log_ratio[rows])
            mean = found.mean[rows] - one.shift[rows] * sd
            spread *= np.minimum(1.0, _spread(mean, sd) / _spread(found.mean[rows], found.sd[rows]))
    unit: np.ndarray = found.sd / spread
    return unit


def _spread(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Standard deviations (D,) of the aggregate of rows with these means and standard deviations (n, D)."""
    found: np.ndarray = np.sqrt(mean.var(0) + np.square(sd).mean(0))
    return np.maximum(found, 1e-300)


def _worst(f: Findings, unit: np.ndarray, bad: np.ndarray) -> str:
    """The row that is most off, of those that some witness shows to be; else what is not known."""
    if not bad.any():
        return "the others could not be judged"
    most, place = 0.0, 0
    for t in f.testimonies.values():
        if t.estimate is not None:
            far, se, _ = _distance(t, t.estimate, unit)
            shown = np.where(far - ERRORS * se > CODE_LIMIT, far, 0.0)
            most, place = max((most, place), (float(shown.max()), int(shown.argmax())))
    return f"for {bad.mean():.0%} it is shown to be larger, the most for row {place}: {most:.0%}"


def _next_codes(f: Findings) -> str:
    for t in f.testimonies.values():
        if t.remedy:
            return t.remedy
    return "Try a larger encoder or more steps, or covariance='full'."
