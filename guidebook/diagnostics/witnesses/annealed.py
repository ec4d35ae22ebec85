"""Do chains that begin in the prior end where the draws are?

Annealed importance sampling from the prior gives weighted draws of the posterior that know nothing of
q: where a row has several explanations, chains end in each of them, in proportion. Their weighted
means and standard deviations are held against those of the draws. With few effective chains that is
coarse, and still sees what importance weights at the draws and short runs from them are blind to: an
explanation that q leaves out.

Source: Neal 2001, "Annealed importance sampling".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony, where
from guidebook.diagnostics.numerics.psis import weighted_moments
from guidebook.diagnostics.witnesses.importance import weights_of

NAME = "Annealing from the prior"
LEAST_ESS = 16.0
"""Effective chains below which their weights say nothing."""
CAUTION = 2.5
"""Times the standard errors of weighted means: those of few and unequal weights are too small (the
spread of 96 standardised errors of an exact posterior is 1.2), and many marginals are looked at."""
OUTSIDE = 4.0
"""Of q's standard deviations, from its mean: a chain that ends beyond sqrt D + 4 is elsewhere."""
ELSEWHERE = 0.05
"""Of the weight: a row with more of it elsewhere has an explanation that q leaves out."""
OFTEN = 0.05
"""Of the rows: where more have one, that is what to mend first."""


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Errors of raw and weighted draws by the ends of chains annealed from the prior, per posterior.

    `detail`: (n,), the share of the posterior in explanations that q leaves out.
    """
    if subject.annealed is None:
        return Testimony(NAME, absent=subject.lacks.get("annealed", ""))
    values, log_w = subject.annealed
    weights = np.exp(log_w - log_w.max(0))
    weights /= weights.sum(0)
    ess = 1 / np.square(weights).sum(0)
    able = ess >= LEAST_ESS
    raw = _estimate(subject, values, weights, able, None)
    of_draws = weights_of(heard)
    weighted = None if of_draws is None else _estimate(subject, values, weights, able, of_draws)
    elsewhere = _elsewhere(subject, values, weights)
    left_out = (elsewhere > ELSEWHERE) & raw.bad()
    words = [
        f"Effective chains per row: median {np.median(ess):.0f} of {len(log_w)}; "
        f"{able.mean():.0%} of {len(able)} rows could be judged."
    ]
    if left_out.any():
        words.append(
            f"In {left_out.mean():.0%} of the rows q keeps one of several explanations: "
            f"{np.median(elsewhere[left_out]):.0%} of the posterior lies where it has no draws."
        )
    return Testimony(
        NAME,
        words=tuple(words),
        estimate=raw,
        weighted=weighted,
        against=_against(subject, raw, left_out, elsewhere),
        against_weighted=()
        if weighted is None
        else _against(subject, weighted, left_out, elsewhere),
        far=able & ~raw.bad(),
        agreement="chains annealed from the prior end where the draws are" if able.all() else "",
        remedy=REMEDY if left_out.mean() > OFTEN else "",
        detail=np.where(left_out, elsewhere, 0.0),
    )


REMEDY = (
    "Use a guide that can hold several explanations of a row (AmortizedFlow), or take the symmetry out "
    "of the decoder."
)


def _estimate(
    subject: Subject,
    values: np.ndarray,
    weights: np.ndarray,
    able: np.ndarray,
    of_draws: np.ndarray | None,
) -> Estimate:
    """Moments of the draws, with their weights (S, n) where given, against those of the chains (n, M)."""
    shape = values.shape[1:]
    shift, shift_se, log_ratio, log_ratio_se = (np.full(shape, np.nan) for _ in range(4))
    for i in range(shape[0]):
        own = None if of_draws is None else of_draws[:, i]
        size = subject.draws if own is None else 1 / np.square(own).sum()
        mean, sd = weighted_moments(subject.values[:, i], own)
        w = weights[:, i]
        target, spread = weighted_moments(values[:, i], w)
        spread = np.maximum(spread, 1e-300)
        z2 = np.square((values[:, i] - target) / spread)
        shift[i] = (mean - target) / spread
        shift_se[i] = CAUTION * np.sqrt(np.square(w) @ z2 + 1 / size)
        log_ratio[i] = np.log(np.maximum(sd, 1e-300) / spread)
        log_ratio_se[i] = CAUTION * 0.5 * np.sqrt(np.square(w) @ np.square(z2 - 1) + 2 / size)
    told = np.broadcast_to(able[:, None], shape)
    return Estimate(shift, shift_se, log_ratio, log_ratio_se, told)


def _elsewhere(subject: Subject, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weight (n,) of the chains that end where q has no draws."""
    found = np.zeros(subject.posteriors)
    limit = np.sqrt(values.shape[2]) + OUTSIDE
    for i in range(subject.posteriors):
        own = subject.values[:, i]
        covariance = np.atleast_2d(np.cov(own, rowvar=False))
        away = values[:, i] - own.mean(0)
        squared = ((away @ np.linalg.pinv(covariance)) * away).sum(1)
        found[i] = weights[squared > limit**2, i].sum()
    return found


def _against(
    subject: Subject, found: Estimate, left_out: np.ndarray, elsewhere: np.ndarray
) -> list[str]:
    return where(
        found.bad(),
        lambda i: (
            f"The draws keep one of several explanations of the data: {elsewhere[i]:.0%} of the "
            "posterior lies where there are none."
            if left_out[i]
            else f"Compared with chains annealed from the prior, {found.worst(subject.names, i)}."
        ),
    )
